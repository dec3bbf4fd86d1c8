"""The recurrent unit with one gate."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.rnn import HiddenState


class MinimalGatedCell(RecurrentCell):
    """Minimal gated unit (MGU): a GRU whose one gate both forgets and updates.

        f = σ(W_if x + W_hf h + b_f)            forget gate
        n = tanh(W_in x + W_hn (f h) + b_n)     candidate
        h' = (1 - f) h + f n
        y  = h'

    Parameters: ``weight_ih`` [2H, I], ``weight_hh`` [2H, H], ``bias`` [2H], rows in the order f, n, uniform in ±1/√H.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.

    Source: Zhou et al., *Minimal Gated Unit for Recurrent Neural Networks*, 2016 (arXiv:1603.09420), equations 7.

    Example:
        >>> import torch, treadle as td
        >>> y, state = td.MinimalGatedCell(3, 5)(torch.randn(2, 3))
        >>> y.shape
        torch.Size([2, 5])
    """

    State = HiddenState

    def __init__(self, input_size: int, hidden_size: int, *, device: Any = None, dtype: torch.dtype | None = None):
        super().__init__(input_size, hidden_size)
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(2 * hidden_size, input_size, **of)
        self.weight_hh = empty(2 * hidden_size, hidden_size, **of)
        self.bias = empty(2 * hidden_size, **of)
        self.reset_parameters()

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        f_x, n_x = F.linear(x, self.weight_ih, self.bias).chunk(2, 1)
        weight_f, weight_n = self.weight_hh.chunk(2, 0)
        forget = (f_x + F.linear(h, weight_f)).sigmoid()
        candidate = (n_x + F.linear(forget * h, weight_n)).tanh()
        h = h + forget * (candidate - h)
        return h, HiddenState(h)
