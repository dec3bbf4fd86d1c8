"""The LSTM whose gates are normalised."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.lstm import LSTMState


class LayerNormLSTMCell(RecurrentCell):
    """LSTM with layer normalisation of both projections and of the cell state.

        a = LN(W_ih x) + LN(W_hh h) + b         LN over all 4H gate inputs of a row
        i, f, g, o = σ(a_i), σ(a_f), tanh(a_g), σ(a_o)
        c' = f c + i g
        h' = o tanh(LN(c'))                     LN over the H units of a row
        y  = h'

    Parameters: ``weight_ih`` [4H, I], ``weight_hh`` [4H, H], ``bias`` [4H], rows in the order i, f, g, o, uniform in
    ±1/√H; ``norm_input``, ``norm_hidden`` (gain alone, [4H]: their shifts would repeat ``bias``) and ``norm_cell``
    (gain and shift, [H]), gains 1 and shift 0.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden and the cell state.
        forget_bias: initial bias of the forget gate; ``None`` leaves it random.
        eps: added to the variance.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.

    Source: Ba, Kiros & Hinton, *Layer Normalization*, 2016 (arXiv:1607.06450), equations 20 to 22.

    Example:
        >>> import torch, treadle as td
        >>> ys, state = td.Recurrent(td.LayerNormLSTMCell(3, 5))(torch.randn(2, 7, 3))
        >>> ys.shape
        torch.Size([2, 7, 5])
    """

    State = LSTMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | None = None,
        eps: float = 1e-5,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.forget_bias, self.eps = forget_bias, eps
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(4 * hidden_size, input_size, **of)
        self.weight_hh = empty(4 * hidden_size, hidden_size, **of)
        self.bias = empty(4 * hidden_size, **of)
        self.norm_input = nn.LayerNorm(4 * hidden_size, eps, bias=False, **of)
        self.norm_hidden = nn.LayerNorm(4 * hidden_size, eps, bias=False, **of)
        self.norm_cell = nn.LayerNorm(hidden_size, eps, **of)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights again, set gains to 1 and shifts to 0."""
        super().reset_parameters()
        if self.forget_bias is not None:
            with torch.no_grad():
                self.bias[self.hidden_size : 2 * self.hidden_size] = self.forget_bias

    def forward(self, x: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        h, c = self.checked(x, state)
        gates = self.norm_input(F.linear(x, self.weight_ih)) + self.norm_hidden(F.linear(h, self.weight_hh)) + self.bias
        i, f, g, o = gates.chunk(4, 1)
        input_gate, forget, candidate, output_gate = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = forget * c + input_gate * candidate
        h = output_gate * self.norm_cell(c).tanh()
        return h, LSTMState(h, c)
