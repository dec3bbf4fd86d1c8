"""The LSTM whose gates see the cell state."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import empty, uniform
from treadle.cells.lstm import LSTMCell, LSTMState


class PeepholeLSTMCell(LSTMCell):
    """LSTM with peephole connections: each gate also sees its own unit's cell state.

        i = σ(W_ii x + W_hi h + p_i c  + b_i)       input gate
        f = σ(W_if x + W_hf h + p_f c  + b_f)       forget gate
        g = tanh(W_ig x + W_hg h + b_g)             candidate
        c' = f c + i g
        o = σ(W_io x + W_ho h + p_o c' + b_o)       output gate, sees the new cell state
        h' = o tanh(c')
        y  = h'

    Parameters: those of `LSTMCell` and ``weight_peephole`` [3, H], rows in the order i, f, o; all uniform in ±1/√H.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden and the cell state.
        bias: whether there are biases.
        forget_bias: initial bias of the forget gate, the sum of its two biases; ``None`` leaves them random.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.

    Source: Gers, Schraudolph & Schmidhuber, *Learning Precise Timing with LSTM Recurrent Networks*, 2002.

    Example:
        >>> import torch, treadle as td
        >>> ys, state = td.Recurrent(td.PeepholeLSTMCell(3, 5))(torch.randn(2, 7, 3))
        >>> ys.shape
        torch.Size([2, 7, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        forget_bias: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size, bias, forget_bias=forget_bias, device=device, dtype=dtype)
        self.weight_peephole = empty(3, hidden_size, device=device, dtype=dtype)
        uniform([self.weight_peephole], hidden_size)

    def forward(self, x: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        h, c = self.checked(x, state)
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, 1)
        p_i, p_f, p_o = self.weight_peephole.unbind(0)
        input_gate, forget, candidate = (i + p_i * c).sigmoid(), (f + p_f * c).sigmoid(), g.tanh()
        c = forget * c + input_gate * candidate
        output_gate = (o + p_o * c).sigmoid()
        h = output_gate * c.tanh()
        return h, LSTMState(h, c)
