"""A sequence read from its end."""

from typing import Any

import torch
from torch import Tensor, nn

from treadle.errors import ShapeError
from treadle.protocol import State, cell_in_place_of
from treadle.running.recurrent import Recurrent, as_one_operation
from treadle.running.taken_steps import TakenSteps, checked_lengths, checked_resets, taken_steps
from treadle.state import map_state


class OverTime(nn.Module):
    """What runs over whole sequences [B, T, …] alone: it reads the last step before it gives the first output."""

    def step(self, x: Tensor, state: State = None) -> Any:
        """Refused: there are no single steps."""
        raise self._no_steps()

    def session(self, batch_size: int = 1, weights: str = "float32") -> Any:
        """Refused: there are no single steps."""
        raise self._no_steps()

    def _no_steps(self) -> ValueError:
        return ValueError(
            f"a {type(self).__name__} reads the whole sequence before its first output: it cannot go step by step"
        )


class Reversed(OverTime):
    """A network that reads each row from its last step to its first; the outputs are in the order of the input.

    It is the backward direction of a `treadle.Bidirectional` alone: what PyTorch keeps in parameters that end in
    ``_reverse``, ONNX calls ``direction="reverse"`` and Flax ``reverse=True, keep_order=True``. All of them begin at a
    row's own end where lengths are given, and so does this. Keras's ``go_backwards=True`` gives its outputs in the
    order in which they are computed, the last step first: that is ``ys.flip(1)``.

    Args:
        network: a cell, or a `treadle.Recurrent` with ``batch_first``.

    Raises:
        TypeError: it is no cell.
        ShapeError: time comes first in it.

    Example:
        >>> import torch, treadle as td
        >>> rnn, xs = td.Reversed(td.GRUCell(3, 5)), torch.randn(2, 7, 3)
        >>> ys, state = rnn(xs, lengths=[7, 4])
        >>> torch.equal(ys[:, 0], state.h)                  # the first step is the last that is read
        True
        >>> torch.allclose(ys[1, :4].flip(0), rnn.network(xs[1:, :4].flip(1))[0])
        True
    """

    def __init__(self, network: Any):
        super().__init__()
        self.network = over_time(network, "network")

    @property
    def input_size(self) -> Any:
        """Features of x, where the cell says so."""
        return self.network.input_size

    @property
    def output_size(self) -> Any:
        """Features of y, where the cell says so."""
        return self.network.output_size

    def initial_state(self, batch_size: int) -> State:
        """The state before the last step of the sequence, which is the first that is read."""
        return self.network.initial_state(batch_size)

    def forward(
        self,
        xs: Tensor,
        state: State = None,
        lengths: Any = None,
        resets: Tensor | None = None,
        return_states: bool = False,
        mask: Any = None,
    ) -> Any:
        """Run over a whole sequence, from its end.

        Args:
            xs: [B, T, I].
            state: the state before the last step of each row; ``None`` for the initial one.
            lengths: [B] whole numbers: a row is read from its own end.
            resets: [B, T] booleans, as for a network that reads forwards: nothing is carried across the border before
                that step. So, from the end, a row starts from its initial state after it has read that step. In
                padding and at masked steps they do nothing.
            return_states: whether to return the states after every step as well.
            mask: [B, T] booleans: where false, the step is not taken, as by `treadle.Recurrent`. What comes after the
                last step that is taken is padding.

        Returns:
            ``ys, state``: outputs [B, T, H], each at the step that it has read last, and the state after the first step
            of each row, the last one that is read. With ``return_states`` a third value, the state after each step
            was read, with time in every tensor.

        Raises:
            ShapeError: ``xs``, ``lengths``, ``resets`` or ``mask`` do not fit.
            StateError: ``state`` is of another network or batch.
        """
        if isinstance(xs, torch.fx.Proxy):
            given = {"lengths": lengths, "resets": resets, "return_states": return_states, "mask": mask}
            return as_one_operation(self, xs, state, **given)
        return run_reversed(self.network, xs, state, lengths, resets, return_states, mask)


def run_reversed(
    network: Any,
    xs: Tensor,
    state: State = None,
    lengths: Any = None,
    resets: Any = None,
    return_states: bool = False,
    mask: Any = None,
) -> Any:
    """What a network gives that reads each row from its own end to its start; all steps are in the order of ``xs``.

    It takes what `treadle.Recurrent` takes, time in either place, and starts from the initial state at the borders that
    resets make for who reads forwards.
    """
    axis = 1 if getattr(network, "batch_first", True) else 0
    by_time = xs.transpose(0, axis)
    lengths = checked_lengths(lengths, by_time)
    taken = None if mask is None else taken_steps(mask, lengths, by_time)
    if taken is not None:
        lengths = taken.ends
    options: dict[str, Any] = {} if taken is None or taken.are_first else {"mask": mirrored(taken.mask, lengths, 1)}
    if resets is not None:
        resets = checked_resets(resets, by_time).T
        resets = mirrored(_before_the_step_before(resets, lengths, taken), lengths, 1)
    ys, end, *every = network(mirrored(xs, lengths, axis), state, lengths, resets, return_states, **options)
    every = [map_state(lambda states: mirrored(states, lengths, axis), states) for states in every]
    return mirrored(ys, lengths, axis), end, *every


def mirrored(xs: Tensor, lengths: Tensor | None, axis: int) -> Tensor:
    """The steps of each row, along an axis, from its own end to its start; padding stays. It is its own inverse."""
    if lengths is None:
        return xs.flip(axis)
    steps = torch.arange(xs.shape[axis], device=xs.device)[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps).transpose(0, axis)
    return xs.gather(axis, places.reshape(*places.shape, *[1] * (xs.ndim - 2)).expand_as(xs))


def _before_the_step_before(resets: Tensor, lengths: Tensor | None, taken: TakenSteps | None) -> Tensor:
    """The same borders [B, T], for who reads from the end.

    Forwards, a row is reset before it reads step t. Backwards, it has read step t by then and is reset before
    the step before that. A reset in padding is no border, or it would stand before the first step that is read.
    """
    if taken is not None:
        return taken.opened(_before_the_step_before(taken.closed(resets, 1), taken.lengths, None), 1)
    before_next = torch.cat([resets[:, 1:], torch.zeros_like(resets[:, :1])], 1)
    if lengths is not None:
        before_next &= torch.arange(1, resets.shape[1] + 1, device=resets.device) < lengths[:, None]
    return before_next


def over_time(network: Any, role: str) -> Any:
    """A cell as a `treadle.Recurrent`; what runs over time already, as it is."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"{role} is a cell or a network over time, but is a {type(network).__name__}")
    if isinstance(network, nn.RNNBase):
        raise TypeError(
            f"{role} is a {type(network).__name__}, but is read cell by cell here: pass {cell_in_place_of(network)},"
            " or a Stack of them"
        )
    network = network if isinstance(network, Recurrent | OverTime) else Recurrent(network)
    if not getattr(network, "batch_first", True):
        raise ShapeError(f"{role} takes [T, B, …], but here everything is [B, T, …]: make it with batch_first=True")
    return network
