"""A sequence read in both directions."""

from typing import Any

import torch
from torch import Tensor, nn

from treadle.errors import ShapeError
from treadle.protocol import State
from treadle.running.recurrent import Recurrent


class Bidirectional(nn.Module):
    """Two networks over one sequence, of which one reads it from its end; their outputs side by side.

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
        self, xs: Tensor, state: Any = None, lengths: Any = None, resets: Tensor | None = None
    ) -> tuple[Tensor, dict[str, State]]:
        """Run over a sequence, which is all there: the second direction begins at its end.

        Args:
            xs: [B, T, I].
            state: ``{"forward": …, "backward": …}``, what each direction starts from; ``None`` for the initial ones.
            lengths: [B] whole numbers: a row is read backwards from its own end.
            resets: [B, T] booleans: where true, a row begins anew. Neither direction knows, on one side of the border
                in front of that step, what is on the other.

        Returns:
            ``ys, state``: outputs [B, T, H of both], each at the step that it has read last, and the state in which
            each direction ended: the backward one's is the state after the first step.

        Raises:
            ShapeError: ``xs``, ``lengths`` or ``resets`` do not fit.
            StateError: ``state`` is of another network or batch.
        """
        state = state or {"forward": None, "backward": None}
        ahead, end = self.ahead(xs, state["forward"], lengths=lengths, resets=resets)
        lengths = self.ahead.checked_lengths(lengths, xs.transpose(0, 1))
        if resets is not None:  # the step in front of a border is the first behind it for whoever comes from the end
            resets = reverse(torch.cat([resets[:, 1:], torch.zeros_like(resets[:, :1])], 1), lengths)
        back, start = self.back(reverse(xs, lengths), state["backward"], lengths=lengths, resets=resets)
        return torch.cat([ahead, reverse(back, lengths)], -1), {"forward": end, "backward": start}


def reverse(xs: Tensor, lengths: Tensor | None) -> Tensor:
    """Each row [B, T, …] from its own end to its start; what is behind its end stays."""
    if lengths is None:
        return xs.flip(1)
    steps = torch.arange(xs.shape[1], device=xs.device)
    places = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return xs.gather(1, places.reshape(*places.shape, *[1] * (xs.ndim - 2)).expand_as(xs))


def over_time(network: Any, role: str) -> Any:
    """A cell as a `treadle.Recurrent`; what runs over time already, as it is.

    Raises:
        TypeError: it is neither.
        ShapeError: it wants time first.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"{role} is a cell or a network over time, but is a {type(network).__name__}")
    if isinstance(network, nn.RNNBase):
        kind = type(network).__name__
        raise TypeError(f"{role} is a {kind}, but is read cell by cell here: pass td.{kind}Cell, or a Stack of them")
    network = network if isinstance(network, Recurrent | Bidirectional) else Recurrent(network)
    if not getattr(network, "batch_first", True):
        raise ShapeError(f"{role} takes [T, B, …], but here everything is [B, T, …]: make it with batch_first=True")
    return network
