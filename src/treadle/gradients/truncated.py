"""Truncated backpropagation through time."""

import dataclasses
import itertools

import torch
from torch import Tensor

from treadle.engines import Call, Result, run
from treadle.generators import Generators, generators, generators_at
from treadle.gradients.method import GradientMethod
from treadle.gradients.segments import Trial, run_in_segments
from treadle.protocol import State
from treadle.state import detach, map_state, where
from treadle.torch_internals import is_followed


@dataclasses.dataclass(frozen=True)
class TruncatedBPTT(GradientMethod):
    """Truncated BPTT: gradients flow back ``horizon`` steps; outputs and states are exact.

    A sequence is cut into blocks of ``steps`` steps, counted from the beginning of the call. The gradient of a block's
    loss flows back through the last ``horizon`` steps before the end of that block, and no further: to inputs,
    parameters, and to the state that was passed, if these steps reach it. With ``horizon == steps``, the usual choice,
    the state is detached between blocks. A larger horizon gives every step at least ``horizon - steps`` steps of the
    past; with the smaller one, the first step of a block has none.

    Memory: as `FullBPTT`, what one step saves for its derivative, times T. Time: one forward and ``horizon / steps``
    backward passes; the forward pass is not repeated. The usual gain is another: with windows of a stream, memory is
    that of a window, and there is an update after each. Then pass ``steps`` steps a call, and the detached state of the
    last one; where ``horizon > steps``, `treadle.History` remembers what reaches further.

    Resets, which end the gradient earlier, and masks leave the blocks where they are: a step that is not taken counts.
    A row that ends before others has the gradients that it has alone. In the reverse direction of a bidirectional
    network, time runs the other way.

    Source: Williams and Peng, *An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories*, 1990; they write BPTT(horizon; steps).

    Args:
        steps: steps of a block.
        horizon: how many steps the gradient goes back at most, at least ``steps``, which it is unless said otherwise.

    Raises:
        ValueError: ``steps`` is not a positive whole number, or ``horizon`` is not one from ``steps`` on.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.GRUCell(2, 3), gradient=td.TruncatedBPTT(steps=2, horizon=4))
        >>> xs = torch.randn(1, 8, 2, requires_grad=True)
        >>> ys, _ = rnn(xs)
        >>> ys[0, 7].sum().backward()                       # in the block of steps 6 and 7
        >>> xs.grad[0].any(1)
        tensor([False, False, False, False,  True,  True,  True,  True])
    """

    steps: int
    horizon: int = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        if self.horizon is None:
            object.__setattr__(self, "horizon", self.steps)
        for name, least in (("steps", 1), ("horizon", self.steps)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                bound = "of at least 1" if name == "steps" else f"of at least steps={self.steps}"
                raise ValueError(f"{name} is a whole number {bound}, but is {value!r:.40}")

    def run(self, call: Call) -> Result:
        """Run a cell over a sequence."""
        last = call.steps - 1 - (call.steps - 1) % self.steps
        if not torch.is_grad_enabled() or not self._window(last):
            return run(call)  # every block reaches the beginning
        if self.horizon == self.steps or is_followed():
            return self._by_detaching(call)
        trial = Trial(call)
        if not trial.is_differentiated:
            return run(call)
        borders = sorted({0, call.steps, *self._borders(call.steps)})
        segments = list(itertools.pairwise(borders))
        begins = {begin: i for i, (begin, _) in enumerate(segments)}
        reach = [begins[self._window(begin - begin % self.steps)] for begin, _ in segments]
        return run_in_segments(call, trial, segments, reach, None, self._by_detaching)

    def _window(self, block: int) -> int:
        """The first step that the gradient of a block goes back to, of the block that begins at ``block``."""
        return max(0, block + self.steps - self.horizon)

    def _borders(self, steps: int) -> set[int]:
        return {border for block in range(0, steps, self.steps) for border in (block, self._window(block))}

    def _by_detaching(self, call: Call) -> Result:
        """What it means, with nothing but detach: each block again from the beginning of its window."""
        steps, device = call.xs.shape[0], call.xs.device
        again = self.horizon > self.steps
        before = self._states(call) if again else {}
        state, end = call.state, call.state
        outputs, moments = [], []
        for begin in range(0, call.steps, self.steps):
            following = min(begin + self.steps, call.steps)
            window = self._window(begin)
            if again:
                state, drawn = before[window]
                with generators_at(device, drawn):
                    ys, state, every = run(call.part(window, following, state, call.initial))
            else:
                ys, state, every = run(call.part(begin, following, state, call.initial))
            outputs.append(ys[begin - window :])
            if every is not None:
                every = map_state(lambda part, skipped=begin - window: part[skipped:], every)
            if call.lengths is not None:
                # The state of a row that has ended is the one with which it ended, gradient included.
                ended = call.lengths <= begin
                end = where(ended, end, state)
                if every is not None:
                    every = map_state(lambda part, last, ended=ended: _held(part, last, ended), every, end)
            else:
                end = state
            moments.append(every)
            state = detach(state)
        ys = torch.cat(outputs)
        rest = steps - ys.shape[0]
        if rest:
            ys = torch.cat([ys, ys.new_zeros(rest, *ys.shape[1:])])
        if not call.return_states:
            return Result(ys, end, None)
        if rest:
            moments.append(map_state(lambda last: last.expand(rest, *last.shape), end))
        return Result(ys, end, map_state(lambda *parts: torch.cat(parts), *moments))

    def _states(self, call: Call) -> dict[int, tuple[State, Generators]]:
        """What is known before each window; the generators are left as they are after the whole sequence."""
        device = call.xs.device
        borders = sorted({*self._borders(call.steps), call.steps})
        before = {0: (call.state, generators(device))}
        state, initial = detach(call.state), detach(call.initial)
        with torch.no_grad():
            for begin, following in itertools.pairwise(borders):
                state = run(call.part(begin, following, state, initial)).state
                before[following] = (state, generators(device))
        return before


def _held(moments: Tensor, last: Tensor, ended: Tensor) -> Tensor:
    """States at every step [n, B, ...], but for rows that had ended before the last one."""
    return torch.where(ended.reshape(1, -1, *[1] * (moments.ndim - 2)), last[None], moments)
