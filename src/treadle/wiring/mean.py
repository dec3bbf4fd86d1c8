"""The mean of all steps so far: pooling over time that can be done live."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from treadle.cells.base import positive
from treadle.errors import ShapeError
from treadle.state import kept_in_files


@kept_in_files
class MeanState(NamedTuple):
    """What `MeanCell` remembers: ``mean`` [B, I], and ``n`` [B, 1], of how many steps it is the mean."""

    mean: Tensor
    n: Tensor


class MeanCell(nn.Module):
    """Mean pooling over time, step by step: the mean of all inputs so far. It has no parameters.

        n'     = n + 1
        mean'  = mean + (x - mean) / n'
        y      = mean'

    Between layers and a head, it gives what every step said the same weight, however long ago that was, and the
    gradient the same short way back to each of them.

    Args:
        input_size: ``I``, features of the input, and of the output.

    Raises:
        ShapeError: a size that is not a positive whole number.

    Source: Welford, *Note on a Method for Calculating Corrected Sums of Squares and Products*, 1962.

    Example:
        >>> import torch, treadle as td
        >>> ys, state = td.Recurrent(td.MeanCell(1))(torch.tensor([[[1.0], [2.0], [6.0]]]))
        >>> ys.flatten().tolist(), state.n.item()
        ([1.0, 1.5, 3.0], 3.0)
    """

    _like: Tensor

    def __init__(self, input_size: int):
        super().__init__()
        self.input_size = self.output_size = positive("input_size", input_size)
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # goes where the network goes

    def initial_state(self, batch_size: int) -> MeanState:
        """Zeros for ``batch_size`` rows: the mean of no step."""
        return MeanState(self._like.new_zeros(batch_size, self.input_size), self._like.new_zeros(batch_size, 1))

    def forward(self, x: Tensor, state: MeanState | None = None) -> tuple[Tensor, MeanState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, I] and the next state."""
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ShapeError(
                f"MeanCell takes one step of [B, {self.input_size}], but x is {list(x.shape)}; td.Recurrent runs whole"
                " sequences"
            )
        mean, n = self.initial_state(x.shape[0]) if state is None else state
        n = n + 1
        mean = mean + (x - mean) / n
        return mean, MeanState(mean, n)

    def extra_repr(self) -> str:
        """The size, for ``print``."""
        return str(self.input_size)
