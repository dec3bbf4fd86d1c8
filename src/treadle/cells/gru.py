"""The gated recurrent unit."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.rnn import HiddenState


class GRUCell(RecurrentCell):
    """Gated recurrent unit, as `torch.nn.GRU` defines it: the reset gate acts after the recurrent product.

        r = σ(W_ir x + b_ir + W_hr h + b_hr)            reset gate
        z = σ(W_iz x + b_iz + W_hz h + b_hz)            update gate
        n = tanh(W_in x + b_in + r (W_hn h + b_hn))     candidate
        h' = (1 - z) n + z h
        y  = h'

    Parameters: ``weight_ih`` [3H, I], ``weight_hh`` [3H, H], ``bias_ih`` and ``bias_hh`` [3H], rows in the order
    r, z, n, uniform in ±1/√H, drawn in the order in which `torch.nn.GRUCell` draws them.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        bias: whether there are biases.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.

    Source: Cho et al., *Learning Phrase Representations using RNN Encoder-Decoder*, 2014 (arXiv:1406.1078v1).

    Example:
        >>> import torch, treadle as td
        >>> y, state = td.GRUCell(3, 5)(torch.randn(2, 3))
        >>> state.h is y
        True
    """

    State = HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.bias = bias
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(3 * hidden_size, input_size, **of)
        self.weight_hh = empty(3 * hidden_size, hidden_size, **of)
        self.bias_ih = empty(3 * hidden_size, **of) if bias else None
        self.bias_hh = empty(3 * hidden_size, **of) if bias else None
        self.reset_parameters()

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        r_x, z_x, n_x = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        r_h, z_h, n_h = F.linear(h, self.weight_hh, self.bias_hh).chunk(3, 1)
        reset, update = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
        candidate = (n_x + reset * n_h).tanh()
        h = candidate + update * (h - candidate)
        return h, HiddenState(h)
