"""The LSTM that keeps some of its units at random."""

from typing import Any

import torch
from torch import Tensor

from treadle.cells.lstm import LSTMCell, LSTMState


class ZoneoutLSTMCell(LSTMCell):
    """LSTM regularised by zoneout: while training, a unit sometimes keeps its previous value.

        h*, c* = LSTM(x, h, c)
        c' = d_c c + (1 - d_c) c*       d_c ~ Bernoulli(zoneout_cell), for each row and unit
        h' = d_h h + (1 - d_h) h*       d_h ~ Bernoulli(zoneout_hidden)
        y  = h'

    In evaluation the masks are their expectations. Randomness comes from torch's default generator.

    Parameters: those of `LSTMCell`.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden and the cell state.
        bias: whether there are biases.
        zoneout_cell: probability that a unit of the cell state keeps its value.
        zoneout_hidden: the same for the hidden state.
        forget_bias: initial bias of the forget gate, the sum of its two biases; ``None`` leaves them random.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.
        ValueError: a probability outside 0 to 1.

    Source: Krueger et al., *Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations*, 2017
    (arXiv:1606.01305), whose probabilities for characters are the defaults.

    Example:
        >>> import torch, treadle as td
        >>> cell = td.ZoneoutLSTMCell(3, 5, zoneout_cell=1.0, zoneout_hidden=1.0)
        >>> y, state = cell(torch.randn(2, 3))          # everything is kept, so it is still the initial state
        >>> int(y.count_nonzero())
        0
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        zoneout_cell: float = 0.5,
        zoneout_hidden: float = 0.05,
        forget_bias: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size, bias, forget_bias=forget_bias, device=device, dtype=dtype)
        for name, probability in (("zoneout_cell", zoneout_cell), ("zoneout_hidden", zoneout_hidden)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, but {probability} was passed")
        self.zoneout_cell, self.zoneout_hidden = zoneout_cell, zoneout_hidden

    def forward(self, x: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        before = LSTMState(*self.checked(x, state))
        _, after = super().forward(x, before)
        h = self._keep(before.h, after.h, self.zoneout_hidden)
        return h, LSTMState(h, self._keep(before.c, after.c, self.zoneout_cell))

    def _keep(self, before: Tensor, after: Tensor, probability: float) -> Tensor:
        kept = torch.bernoulli(torch.full_like(after, probability)) if self.training else probability
        return after + kept * (before - after)

    def extra_repr(self) -> str:
        """The sizes and probabilities, for ``print``."""
        return f"{super().extra_repr()}, zoneout_cell={self.zoneout_cell}, zoneout_hidden={self.zoneout_hidden}"
