"""The LSTM whose memory is a matrix."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.heads import checked_heads
from treadle.state import kept_in_files


@kept_in_files
class MLSTMState(NamedTuple):
    """The state of an mLSTM; d is H/heads."""

    c: Tensor
    """Memory [B, heads, d, d], values by keys, scaled by exp(-m)."""
    n: Tensor
    """Normaliser [B, heads, d], scaled by exp(-m)."""
    m: Tensor
    """Stabiliser [B, heads]: the logarithm of the scale of c and n."""


class MLSTMCell(RecurrentCell):
    """mLSTM of xLSTM: stores values under keys in a matrix per head, and answers queries from it.

        q, v = W_q x + b_q,  W_v x + b_v            of d = H/heads features per head
        k  = (W_k x + b_k) / √d
        i~, f~ = w_i x + b_i,  w_f x + b_f          one number per head
        m' = max(log σ(f~) + m, i~)
        i = exp(i~ - m'),  f = exp(log σ(f~) + m - m')
        C' = f C + i v kᵀ
        n' = f n + i k
        y  = σ(W_o x + b_o) C' q / max(|n'ᵀ q|, exp(-m'))

    No gate sees the state, so nothing but multiplications and additions lies between one state and the next. The scale
    exp(m) cancels in y, so m has no effect on the values, only on what a float can hold.

    Parameters: ``weight_ih`` [4H + 2 heads, I] and ``bias_ih`` [4H + 2 heads], uniform in ±1/√H; rows in the order q,
    k, v, o, i, f. The forget gates' biases then rise evenly from 3 to 6 over the heads, as the paper's authors start
    them.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the output. A row's memory holds H²/heads numbers.
        heads: how many memories there are.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, or heads that do not divide ``hidden_size``.

    Source: Beck et al., *xLSTM: Extended Long Short-Term Memory*, 2024 (arXiv:2405.04517), equations 19 to 27 and
    appendix A.3.

    Example:
        >>> import torch, treadle as td
        >>> y, state = td.MLSTMCell(3, 6, heads=2)(torch.randn(5, 3))
        >>> y.shape, state.c.shape
        (torch.Size([5, 6]), torch.Size([5, 2, 3, 3]))
    """

    State = MLSTMState

    def __init__(
        self, input_size: int, hidden_size: int, heads: int = 1, *, device: Any = None, dtype: torch.dtype | None = None
    ):
        super().__init__(input_size, hidden_size)
        self.heads = checked_heads(heads, hidden_size)
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(4 * hidden_size + 2 * heads, input_size, **of)
        self.bias_ih = empty(4 * hidden_size + 2 * heads, **of)
        self.reset_parameters()

    def state_shape(self, field: str) -> tuple[int, ...]:
        """The shape of one row of a field of the state."""
        features = self.hidden_size // self.heads
        return {"c": (self.heads, features, features), "n": (self.heads, features), "m": (self.heads,)}[field]

    def reset_parameters(self) -> None:
        """Draw all parameters again, then set the forget gates' biases."""
        super().reset_parameters()
        bias = self.bias_ih
        with torch.no_grad():
            bias[-self.heads :] = torch.linspace(3, 6, self.heads, device=bias.device, dtype=bias.dtype)

    def forward(self, x: Tensor, state: MLSTMState | None = None) -> tuple[Tensor, MLSTMState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        c, n, m = self.checked(x, state)
        H, heads = self.hidden_size, self.heads
        q, k, v, o, i, f = F.linear(x, self.weight_ih, self.bias_ih).split([H, H, H, H, heads, heads], 1)
        q, k, v = (a.unflatten(1, (heads, -1)) for a in (q, k, v))  # [B, heads, d]
        k = k / math.sqrt(H // heads)
        kept = F.logsigmoid(f) + m
        m = torch.maximum(kept, i)
        forget, read = (kept - m).exp(), (i - m).exp()  # [B, heads]
        c = forget[:, :, None, None] * c + (read[:, :, None] * v)[:, :, :, None] * k[:, :, None, :]
        n = forget[:, :, None] * n + read[:, :, None] * k
        answer = (c * q[:, :, None, :]).sum(3)
        scale = torch.maximum((n * q).sum(2).abs(), (-m).exp())
        y = o.sigmoid() * (answer / scale[:, :, None]).flatten(1)
        return y, MLSTMState(c, n, m)
