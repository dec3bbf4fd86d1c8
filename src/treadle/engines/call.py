"""What is asked of an engine: to run one cell over one sequence."""

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn

from treadle.protocol import State, first_weight
from treadle.state import map_state


class Result(NamedTuple):
    """What running a call gives.

    Args:
        ys: outputs [T, B, ...].
        state: the state after the last step of each row.
        states: the states after every step, with time first, where they were asked for.
    """

    ys: Tensor
    state: State
    states: State | None


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A cell, a sequence, and how the one runs over the other; arguments that `treadle.Recurrent` has checked.

    Args:
        cell: the cell.
        initial: the initial state of all rows, for resets.
        xs: [T, B, ...], T at least 1.
        state: the state before the first step.
        lengths: [B] whole numbers; past its end a row's state stands still and its outputs are zero.
        resets: [T, B] booleans; a row is reset before reading that step.
        return_states: whether the states after every step are wanted.
        engine: the name of the engine that was asked for, or ``"auto"``.
        products: what autocast asks for: the precision in which products multiply; None where it is off.
        mask: [T, B] booleans: where false, the step is not taken. Then ``lengths`` say where the last one is that is.
    """

    cell: nn.Module
    initial: State
    xs: Shaped[Tensor, "T B *row"]
    state: State
    lengths: Int[Tensor, " B"] | None = None
    resets: Bool[Tensor, "T B"] | None = None
    return_states: bool = False
    engine: str = "auto"
    products: torch.dtype | None = None
    mask: Bool[Tensor, "T B"] | None = None

    @property
    def steps(self) -> int:
        """Up to the end of the longest row; 0 if there are no rows."""
        steps, rows = self.xs.shape[:2]
        if not rows:
            return 0
        return steps if self.lengths is None else int(self.lengths.max())

    @property
    def counts(self) -> Tensor | None:
        """[B]: how many steps each row takes; None if all take all."""
        return self.lengths if self.mask is None else self.mask.sum(0)

    def beginning(self, steps: int) -> "Call":
        """The first steps of each row, of those that it takes."""
        if self.mask is None:
            return self.part(0, steps, self.state, self.initial)
        rows = torch.arange(self.xs.shape[1], device=self.xs.device)
        times = (~self.mask).byte().argsort(dim=0, stable=True)[:steps]
        resets = None if self.resets is None else self.resets[times, rows]
        lengths = self.mask.sum(0).clamp(max=steps)
        return dataclasses.replace(self, xs=self.xs[times, rows], lengths=lengths, resets=resets, mask=None)

    def part(self, begin: int, end: int, state: State, initial: State, xs: Tensor | None = None) -> "Call":
        """Some of the steps, from a state."""
        return dataclasses.replace(
            self,
            initial=initial,
            xs=self.xs[begin:end] if xs is None else xs,
            state=state,
            lengths=None if self.lengths is None else (self.lengths - begin).clamp(0, end - begin),
            resets=None if self.resets is None else self.resets[begin:end],
            mask=None if self.mask is None else self.mask[begin:end],
        )

    def in_precision_of_weights(self) -> "Call":
        """The same, with every float in the precision of the weights: a program is of one precision."""
        weight = first_weight(self.cell)
        dtype = self.xs.dtype if weight is None else weight.dtype

        def widened(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        initial, state = map_state(widened, self.initial), map_state(widened, self.state)
        return dataclasses.replace(self, initial=initial, xs=widened(self.xs), state=state)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast asks for on a device; None where it is off."""
    # Some devices, such as "meta", know nothing of it, and PyTorch raises if it is asked about them.
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None
