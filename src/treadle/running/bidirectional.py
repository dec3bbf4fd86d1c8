"""A sequence read in both directions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.errors import ShapeError
from treadle.protocol import State
from treadle.running.recurrent import Recurrent, as_one_operation
from treadle.running.reversed import OverTime, over_time, run_reversed


class Bidirectional(OverTime):
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
        mask: Any = None,
    ) -> Any:
        """Run over a whole sequence: the backward direction starts at its end.

        Args:
            xs: [B, T, I].
            state: ``{"forward": …, "backward": …}``, what each direction starts from; ``None`` for the initial ones.
            lengths: [B] whole numbers: a row is read backwards from its own end.
            resets: [B, T] booleans: where true, a row starts from its initial state. Neither direction carries
                anything across the border before that step. In padding and at masked steps they do nothing.
            return_states: whether to return the states after every step as well.
            mask: [B, T] booleans: where false, neither direction takes the step, as `treadle.Recurrent` says.

        Returns:
            ``ys, state``: outputs [B, T, H of both], each at the step that it has read last, and the state in which
            each direction ended: the backward one's is the state after the first step. With ``return_states`` a third
            value, of the structure of the state, with time in every tensor: the state of each direction after that
            step.

        Raises:
            ShapeError: ``xs``, ``lengths``, ``resets`` or ``mask`` do not fit.
            StateError: ``state`` is of another network or batch.
        """
        if isinstance(xs, torch.fx.Proxy):
            given = {"lengths": lengths, "resets": resets, "return_states": return_states, "mask": mask}
            return as_one_operation(self, xs, state, **given)
        before = (None, None) if state is None else (state["forward"], state["backward"])
        ahead, back = both_directions((self.ahead, self.back), xs, before, lengths, resets, return_states, mask)
        rest = ({"forward": one, "backward": other} for one, other in zip(ahead[1:], back[1:], strict=True))
        return torch.cat([ahead[0], back[0]], -1), *rest


def both_directions(
    networks: Sequence["Recurrent | OverTime"],
    xs: Tensor,
    before: Sequence[State] = (None, None),
    lengths: Any = None,
    resets: Any = None,
    return_states: bool = False,
    mask: Any = None,
) -> tuple[Any, Any]:
    """What two networks give for one sequence, of which the second reads each row from its own end to its start.

    Both have time in the same place, take what `Recurrent` takes, and start from the initial state at the same borders;
    ``before`` are the states that they begin with. All steps are in the order of ``xs``.
    """
    ahead, back = networks
    options: dict[str, Any] = {} if mask is None else {"mask": mask}
    forwards = ahead(xs, before[0], lengths, resets, return_states, **options)
    return forwards, run_reversed(back, xs, before[1], lengths, resets, return_states, mask)
