"""A sequence read in both directions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from treadle.errors import ShapeError
from treadle.protocol import State, cell_in_place_of
from treadle.running.recurrent import Recurrent, as_one_operation
from treadle.state import map_state


class Bidirectional(nn.Module):
    """Two networks over one sequence, one from each end; their outputs are concatenated.

    Args:
        forward: a cell, or a `treadle.Recurrent` with ``batch_first``.
        backward: the same; with weights of its own.

    Raises:
        TypeError: one of them is no cell.
        ShapeError: they read rows of different sizes, or time comes first.

    Source: Schuster and Paliwal, *Bidirectional Recurrent Neural Networks*, 1997.

    Example:
        >>> import torch, treadle as td
        >>> both = td.Bidirectional(td.LSTMCell(3, 5), td.LSTMCell(3, 4))
        >>> ys, state = both(torch.randn(2, 7, 3), lengths=[7, 4])
        >>> ys.shape, sorted(state)
        (torch.Size([2, 7, 9]), ['backward', 'forward'])
    """

    def __init__(self, forward: Any, backward: Any):
        super().__init__()
        # Not "forward": a module of that name would stand in the way of the method.
        self.ahead, self.back = over_time(forward, "forward"), over_time(backward, "backward")
        if self.ahead.input_size != self.back.input_size:
            raise ShapeError(
                f"both directions read the same sequence, but one takes {self.ahead.input_size} features and the other"
                f" {self.back.input_size}"
            )

    def constructor_arguments(self) -> dict[str, Any]:
        """For model files."""
        return {"forward": self.ahead, "backward": self.back}

    @property
    def input_size(self) -> Any:
        """Features of x, where the cells say so."""
        return self.ahead.input_size

    @property
    def output_size(self) -> Any:
        """Features of y, of both together."""
        sizes = (self.ahead.output_size, self.back.output_size)
        return sum(sizes) if all(isinstance(size, int) for size in sizes) else None

    def initial_state(self, batch_size: int) -> dict[str, State]:
        """The states before the first step of each direction."""
        return {"forward": self.ahead.initial_state(batch_size), "backward": self.back.initial_state(batch_size)}

    def forward(
        self,
        xs: Tensor,
        state: Any = None,
        lengths: Any = None,
        resets: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run over a whole sequence: the backward direction starts at its end.

        Args:
            xs: [B, T, I].
            state: ``{"forward": …, "backward": …}``, what each direction starts from; ``None`` for the initial ones.
            lengths: [B] whole numbers: a row is read backwards from its own end.
            resets: [B, T] booleans: where true, a row starts from its initial state. Neither direction carries
                anything across the border before that step. In padding they do nothing.
            return_states: whether to return the states after every step as well.

        Returns:
            ``ys, state``: outputs [B, T, H of both], each at the step that it has read last, and the state in which
            each direction ended: the backward one's is the state after the first step. With ``return_states`` a third
            value, of the structure of the state, with time in every tensor: the state of each direction after that
            step.

        Raises:
            ShapeError: ``xs``, ``lengths`` or ``resets`` do not fit.
            StateError: ``state`` is of another network or batch.
        """
        if isinstance(xs, torch.fx.Proxy):
            return as_one_operation(self, xs, state, lengths=lengths, resets=resets, return_states=return_states)
        before = (None, None) if state is None else (state["forward"], state["backward"])
        ahead, back = both_directions((self.ahead, self.back), xs, before, lengths, resets, return_states)
        rest = ({"forward": one, "backward": other} for one, other in zip(ahead[1:], back[1:], strict=True))
        return torch.cat([ahead[0], back[0]], -1), *rest


def both_directions(
    networks: Sequence["Recurrent | Bidirectional"],
    xs: Tensor,
    before: Sequence[State] = (None, None),
    lengths: Any = None,
    resets: Any = None,
    return_states: bool = False,
) -> tuple[Any, Any]:
    """What two networks give for one sequence, of which the second reads each row from its own end to its start.

    Both have time in the same place, take what `Recurrent` takes, and start from the initial state at the same borders;
    ``before`` are the states that they begin with. All steps are in the order of ``xs``.
    """
    ahead, back = networks
    axis = 1 if getattr(ahead, "batch_first", True) else 0
    forwards = ahead(xs, before[0], lengths, resets, return_states)
    by_time = xs.transpose(0, axis)
    lengths = Recurrent.checked_lengths(lengths, by_time)
    if resets is not None:
        resets = _from_the_end(Recurrent.checked_resets(resets, by_time).T, lengths)
    ys, end, *every = back(mirrored(xs, lengths, axis), before[1], lengths, resets, return_states)
    every = [map_state(lambda states: mirrored(states, lengths, axis), states) for states in every]
    return forwards, (mirrored(ys, lengths, axis), end, *every)


def mirrored(xs: Tensor, lengths: Tensor | None, axis: int) -> Tensor:
    """The steps of each row, along an axis, from its own end to its start; padding stays. It is its own inverse."""
    if lengths is None:
        return xs.flip(axis)
    steps = torch.arange(xs.shape[axis], device=xs.device)[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps).transpose(0, axis)
    return xs.gather(axis, places.reshape(*places.shape, *[1] * (xs.ndim - 2)).expand_as(xs))


def _from_the_end(resets: Tensor, lengths: Tensor | None) -> Tensor:
    """The same borders [B, T], for who reads from the end.

    Forwards, a row is reset before it reads step t. Backwards, it has read step t by then and is reset before
    step t - 1. A reset in padding is no border, or it would stand before the first step that is read.
    """
    before_next = torch.cat([resets[:, 1:], torch.zeros_like(resets[:, :1])], 1)
    if lengths is not None:
        before_next &= torch.arange(1, resets.shape[1] + 1, device=resets.device) < lengths[:, None]
    return mirrored(before_next, lengths, 1)


def over_time(network: Any, role: str) -> Any:
    """A cell as a `treadle.Recurrent`; what runs over time already, as it is."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"{role} is a cell or a network over time, but is a {type(network).__name__}")
    if isinstance(network, nn.RNNBase):
        raise TypeError(
            f"{role} is a {type(network).__name__}, but is read cell by cell here: pass {cell_in_place_of(network)},"
            " or a Stack of them"
        )
    network = network if isinstance(network, Recurrent | Bidirectional) else Recurrent(network)
    if not getattr(network, "batch_first", True):
        raise ShapeError(f"{role} takes [T, B, …], but here everything is [B, T, …]: make it with batch_first=True")
    return network
