"""Noise and dropout on the state of any cell."""

from typing import Any

import torch
from torch import Tensor, nn

from treadle.protocol import State
from treadle.state import map_state


class NoisyStateCell(nn.Module):
    """Any cell or wiring, with noise and dropout on its state in training.

        s~ = m s + deviation ε,  ε ~ N(0, 1),  m = 0 with probability dropout, else 1    for each row and number
        y, s' = cell(x, s~)

    States that mean different things then have to lie far apart, and each step has to correct small errors. So a
    network that works like a machine with finitely many states learns states that are stable over many steps.
    Independent noise averages out over many units; dropout does not: a fraction of the state is lost at each step
    unless the other units restore it. In evaluation there is neither. Nothing is rescaled. Randomness comes from
    torch's default generator.

    Args:
        cell: the cell; its state is the state.
        deviation: the standard deviation of the noise.
        dropout: the fraction of the state's numbers that are set to 0.

    Raises:
        ValueError: a deviation that is negative or not a number; a dropout that is not from 0 to below 1.

    Source: Jim, Giles and Horne, *An Analysis of Noise in Recurrent Neural Networks: Convergence and Generalization*,
    1996; Moon et al., *RNNDROP: A Novel Dropout for RNNs in ASR*, 2015, for gaps in the state.

    Example:
        >>> import torch, treadle as td
        >>> cell = td.NoisyStateCell(td.GRUCell(3, 5), deviation=0.3)
        >>> x = torch.randn(2, 3)
        >>> torch.equal(cell(x, cell.initial_state(2))[0], cell(x, cell.initial_state(2))[0])
        False
        >>> cell.eval()(x, cell.initial_state(2))[1].h.shape
        torch.Size([2, 5])
    """

    def __init__(self, cell: Any, deviation: float, dropout: float = 0.0):
        super().__init__()
        if not isinstance(deviation, int | float) or not 0 <= deviation < float("inf"):
            raise ValueError(f"deviation is 0 or a positive number, but {deviation!r} was passed")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout is a fraction, from 0 to below 1, but {dropout!r} was passed")
        self.cell: Any = cell
        self.deviation, self.dropout = deviation, dropout

    @property
    def input_size(self) -> Any:
        """That of the cell."""
        return getattr(self.cell, "input_size", None)

    @property
    def output_size(self) -> Any:
        """That of the cell."""
        return getattr(self.cell, "output_size", None)

    def initial_state(self, batch_size: int) -> State:
        """That of the cell."""
        return self.cell.initial_state(batch_size)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """One step: ``x`` [B, I] and the state give the cell's output and state."""
        state = self.initial_state(x.shape[0]) if state is None else state
        if self.training:
            state = map_state(lambda s: self._disturbed(s) if s.is_floating_point() else s, state)
        return self.cell(x, state)

    def _disturbed(self, s: Tensor) -> Tensor:
        if self.dropout:
            s = s * torch.bernoulli(torch.full_like(s, 1 - self.dropout))
        return s + self.deviation * torch.randn_like(s) if self.deviation else s

    def extra_repr(self) -> str:
        """The noise and the dropout, for ``print``."""
        return f"deviation={self.deviation}, dropout={self.dropout}"
