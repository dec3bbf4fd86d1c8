"""The LSTM whose forget gate is what the input gate leaves."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.lstm import LSTMState


class CoupledLSTMCell(RecurrentCell):
    """LSTM with coupled input and forget gates (CIFG): three quarters of the parameters, often as good.

        i = σ(W_ii x + W_hi h + b_i)            input gate
        g = tanh(W_ig x + W_hg h + b_g)         candidate
        o = σ(W_io x + W_ho h + b_o)            output gate
        c' = (1 - i) c + i g
        h' = o tanh(c')
        y  = h'

    Parameters: ``weight_ih`` [3H, I], ``weight_hh`` [3H, H], ``bias`` [3H], rows in the order i, g, o; uniform in
    ±1/√H.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden and the cell state.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.

    Source: Greff et al., *LSTM: A Search Space Odyssey*, 2017 (arXiv:1503.04069), section 3.

    Example:
        >>> import torch, treadle as td
        >>> y, state = td.CoupledLSTMCell(3, 5)(torch.randn(2, 3))
        >>> y.shape
        torch.Size([2, 5])
    """

    State = LSTMState

    def __init__(self, input_size: int, hidden_size: int, *, device: Any = None, dtype: torch.dtype | None = None):
        super().__init__(input_size, hidden_size)
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(3 * hidden_size, input_size, **of)
        self.weight_hh = empty(3 * hidden_size, hidden_size, **of)
        self.bias = empty(3 * hidden_size, **of)
        self.reset_parameters()

    def forward(self, x: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        h, c = self.checked(x, state)
        i, g, o = (F.linear(x, self.weight_ih, self.bias) + F.linear(h, self.weight_hh)).chunk(3, 1)
        input_gate, candidate, output_gate = i.sigmoid(), g.tanh(), o.sigmoid()
        c = c + input_gate * (candidate - c)  # the forget gate is 1 - input_gate
        h = output_gate * c.tanh()
        return h, LSTMState(h, c)
