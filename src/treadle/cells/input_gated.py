"""Cells whose gates and candidate see the input alone: what minGRU and minLSTM share."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.rnn import HiddenState


class InputGatedCell(RecurrentCell):
    """A cell with gates and a candidate made of the input, and no recurrent weights.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        bias: whether there is ``bias_ih`` [(gates + 1)H] beside ``weight_ih`` [(gates + 1)H, I].
        positive: whether candidates are made positive.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.
    """

    State = HiddenState
    gates: ClassVar[int]
    """How many gates a unit has."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        positive: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.bias, self.positive = bias, positive
        rows, of = (self.gates + 1) * hidden_size, {"device": device, "dtype": dtype}
        self.weight_ih = empty(rows, input_size, **of)
        self.bias_ih = empty(rows, **of) if bias else None
        self.reset_parameters()

    def candidate(self, a: Tensor) -> Tensor:
        """g(a): continuous, increasing and, unless the cell is linear in its input, positive everywhere."""
        return torch.where(a >= 0, a + 0.5, a.sigmoid()) if self.positive else a
