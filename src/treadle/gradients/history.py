"""Truncated backpropagation over the windows of a stream, where the gradient reaches further than a window."""

import collections
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from treadle import state as states
from treadle.errors import ShapeError, StateError
from treadle.gradients.full import FullBPTT
from treadle.gradients.truncated import TruncatedBPTT
from treadle.protocol import State


@dataclasses.dataclass(frozen=True)
class _Window:
    """What a network was called with."""

    xs: Tensor
    state: State
    lengths: Tensor | None
    resets: Tensor | None
    mask: Tensor | None


class History:
    """Truncated BPTT with a gradient horizon beyond the window: keeps the windows that gradients still reach.

    With ``gradient=td.TruncatedBPTT(steps, horizon)``, a window is a block: the loss of a window flows back through the
    ``horizon - steps`` steps before it as well. These run again, from the state before them and with the weights as
    they are by now, which may have been updated after each window. The state is carried from window to window,
    detached.

    Memory: the last ``horizon - steps`` inputs (whole windows) with the state before each window; and while the
    gradient is computed, what a step saves, times ``horizon``. Time: ``horizon / steps`` forward and backward passes.
    Where masks are random, what runs again draws new ones.

    Source: Williams and Peng, *An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories*, 1990; what they call the history buffer.

    Args:
        rnn: a `treadle.Recurrent` or drop-in with ``gradient=td.TruncatedBPTT(...)``.

    Raises:
        TypeError: its gradient is another one.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.GRUCell(2, 3), gradient=td.TruncatedBPTT(steps=5, horizon=20))
        >>> optimiser = torch.optim.SGD(rnn.parameters(), lr=0.1)
        >>> history = td.History(rnn)
        >>> for window in torch.randn(1, 50, 2).split(5, 1):
        ...     ys, state = history(window)
        ...     ys.square().mean().backward()               # reaches the last 20 steps
        ...     optimiser.step()
        ...     optimiser.zero_grad()
    """

    def __init__(self, rnn: Any):
        if not isinstance(getattr(rnn, "gradient", None), TruncatedBPTT):
            raise TypeError(
                "History takes a network with gradient=td.TruncatedBPTT(steps, horizon), but was given a"
                f" {type(rnn).__name__} with gradient={getattr(rnn, 'gradient', None)!r:.60}"
            )
        self.rnn = rnn
        self._state: State = None
        self._windows: collections.deque[_Window] = collections.deque()

    @property
    def state(self) -> State:
        """The state after the last window, detached, of a drop-in as its ``hx``; None before the first one.

        Set it to continue from another state, or to None to start from the initial state: the past is forgotten.
        """
        return states.as_given(self.rnn, self._state)

    @state.setter
    def state(self, state: State) -> None:
        self._state = states.detach(states.by_name(self.rnn, state))
        self._windows.clear()

    def __call__(self, xs: Tensor, lengths: Any = None, resets: Any = None, mask: Any = None) -> tuple[Tensor, State]:
        """Run over the next window.

        Args:
            xs: [B, T, I] with up to ``steps`` steps ([T, B, I] if the network is not ``batch_first``), of the same rows
                in the same order as the last one; where another stream begins in a row, ``resets`` has to say so.
            lengths: as `treadle.Recurrent` takes them.
            resets: likewise.
            mask: likewise. Steps that are not taken count as steps of the window and of the horizon.

        Returns:
            The outputs of this window, and the state after it, as the network itself gives them.

        Raises:
            ShapeError: the window has more than ``steps`` steps, or something does not fit.
            StateError: the window has other rows than the one before.
        """
        rnn, method = self._recurrent(), self.rnn.gradient
        rnn.check_input(xs, 2, "sequence")
        by_time = xs.transpose(0, 1) if rnn.batch_first else xs
        if by_time.shape[0] > method.steps:
            raise ShapeError(
                f"a window has up to {method.steps} steps, as {method!r} says, but this one has {by_time.shape[0]}:"
                " split it, because the gradient ends between windows alone"
            )
        lengths = rnn.checked_lengths(lengths, by_time)
        resets = None if resets is None else rnn.checked_resets(resets, by_time).T
        mask = None if mask is None else states.as_tensor(mask)
        before = self._state
        if torch.is_grad_enabled():
            self._forget(rnn, method.horizon - method.steps)
            for i, window in enumerate(self._windows):
                state = window.state if i == 0 else before
                # What runs again leaves its states behind, as the weights by now give them.
                self._windows[i] = dataclasses.replace(window, state=states.kept(state))
                before = rnn(window.xs, state, window.lengths, window.resets, mask=window.mask)[1]
        ys, state = rnn(xs, before, lengths, resets, mask=mask)
        # Copies, because who reads a stream may fill the same memory again.
        kept = [None if tensor is None else tensor.detach().clone() for tensor in (xs, lengths, resets, mask)]
        self._windows.append(_Window(kept[0], states.kept(before), *kept[1:]))  # pyright: ignore
        self._state = states.kept(state)
        return ys, states.as_given(self.rnn, state)

    def _recurrent(self) -> Any:
        """The network, with a gradient through everything that one call of ours runs."""
        rnn = copy.copy(states.over_time(self.rnn))
        rnn.gradient = FullBPTT()
        return rnn

    def _forget(self, rnn: Any, reach: int) -> None:
        """Leave out what lies further back than ``reach`` steps."""
        axis = 1 if rnn.batch_first else 0
        surplus = sum(window.xs.shape[axis] for window in self._windows) - reach
        while self._windows and surplus > 0:
            window = self._windows.popleft()
            steps = window.xs.shape[axis]
            if steps > surplus:
                self._windows.appendleft(self._cut(rnn, window, surplus, axis))
            surplus -= steps

    @staticmethod
    def _cut(rnn: Any, window: _Window, steps: int, axis: int) -> _Window:
        """A window without its first steps, which only give the state."""
        xs, rest = window.xs.split([steps, window.xs.shape[axis] - steps], axis)
        lengths, by_step = window.lengths, (window.resets, window.mask)
        first = None if lengths is None else lengths.clamp(max=steps)
        resets, mask = (None if one is None else one[:, :steps] for one in by_step)
        with torch.no_grad():
            _, state = rnn(xs, window.state, first, resets, mask=mask)
        lengths = None if lengths is None else (lengths - steps).clamp(min=0)
        return _Window(rest, state, lengths, *(None if one is None else one[:, steps:] for one in by_step))

    def state_dict(self) -> dict[str, Tensor]:
        """All that is kept, by name, for a checkpoint."""
        found = _named("state", self._state)
        for i, window in enumerate(self._windows):
            found |= _named(f"{i}/state", window.state)
            tensors = {"xs": window.xs, "lengths": window.lengths, "resets": window.resets, "mask": window.mask}
            found |= {f"{i}/{name}": tensor for name, tensor in tensors.items() if tensor is not None}
        return found

    def load_state_dict(self, remembered: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned, for the same network.

        Raises:
            StateError: it is of another network, or damaged.
        """
        rnn = self._recurrent()

        def state(prefix: str) -> State:
            begin = f"{prefix}/"
            parts = {name.removeprefix(begin): t for name, t in remembered.items() if name.startswith(begin)}
            if not parts:
                return None
            rows = next(iter(parts.values())).shape[0]
            like = states.detach(rnn.initial_state(rows))
            return states.check_state(states.belonging(like, parts, "this network"), like, rows, "this network")

        count = sum(name.endswith("/xs") for name in remembered)
        missing = next((i for i in range(count) if f"{i}/xs" not in remembered), None)
        if missing is not None:
            raise StateError(f"what was remembered has {count} windows, but not number {missing}: it is damaged")
        windows = [
            _Window(
                remembered[f"{i}/xs"],
                state(f"{i}/state"),
                *(remembered.get(f"{i}/{name}") for name in ("lengths", "resets", "mask")),
            )
            for i in range(count)
        ]
        self._state = state("state")
        self._windows.clear()
        self._windows.extend(windows)


def _named(prefix: str, state: State) -> dict[str, Tensor]:
    if state is None:
        return {}
    return {f"{prefix}/{name}": tensor for name, tensor in states.named_tensors(state)}
