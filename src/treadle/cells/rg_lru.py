"""The real-gated linear recurrent unit of Griffin."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.heads import block_diagonal, checked_heads
from treadle.cells.rnn import HiddenState


class RGLRUCell(RecurrentCell):
    """Real-gated linear recurrent unit (RG-LRU): each unit decays at a rate of its own, which a gate slows down.

        u  = x                      or W_in x where I is not H
        r  = σ(W_r u + b_r)         how much is forgotten
        i  = σ(W_i u + b_i)         how much is read
        a  = σ(Λ)^(8 r)
        h' = a h + √(1 - a²) (i u)
        y  = h'

    W_r and W_i are block-diagonal, a block per head. Units do not meet over time.

    Parameters: ``weight_gates`` [heads, 2H/heads, H/heads] and ``bias_gates`` [2H], uniform in ±1/√H, rows (of each
    head) in the order r, i; ``decay`` [H], that is Λ, so that σ(Λ)^8 is uniform in 0.9 to 0.999; and, where I is not
    H, ``weight_in`` [H, I], uniform in ±1/√H.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        heads: into how many blocks the gates' matrices are divided.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, or heads that do not divide ``hidden_size``.

    Source: De et al., *Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models*,
    2024 (arXiv:2402.19427), equations 1 to 4. Its authors' program takes 1 in place of √(1 - a²) at the first step of a
    sequence; the paper does not, and neither does this.

    Example:
        >>> import torch, treadle as td
        >>> ys, state = td.Recurrent(td.RGLRUCell(6, 6, heads=2))(torch.randn(2, 7, 6))
        >>> ys.shape
        torch.Size([2, 7, 6])
    """

    State = HiddenState

    def __init__(
        self, input_size: int, hidden_size: int, heads: int = 1, *, device: Any = None, dtype: torch.dtype | None = None
    ):
        super().__init__(input_size, hidden_size)
        self.heads = checked_heads(heads, hidden_size)
        of = {"device": device, "dtype": dtype}
        self.weight_in = None if input_size == hidden_size else empty(hidden_size, input_size, **of)
        self.weight_gates = empty(heads, 2 * hidden_size // heads, hidden_size // heads, **of)
        self.bias_gates = empty(2 * hidden_size, **of)
        self.decay = empty(hidden_size, **of)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters again."""
        super().reset_parameters()
        with torch.no_grad():
            if not self.decay.is_meta:
                # In float32 at least: 16 bits round some roots to 1, whose logit is infinite.
                precision = torch.promote_types(self.decay.dtype, torch.float32)
                rates = torch.empty_like(self.decay, dtype=precision).uniform_(0.9, 0.999)
                self.decay.copy_(rates.pow_(1 / 8).logit_())

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        u = x if self.weight_in is None else F.linear(x, self.weight_in)
        gates = block_diagonal(u, self.weight_gates, 2)  # [B, 2H]
        r, i = (gates + self.bias_gates).sigmoid().chunk(2, 1)
        log_a = 8 * r * F.logsigmoid(self.decay)
        # Where nothing is forgotten, 1 - a² is 0, whose root has no slope.
        scale = (-torch.expm1(2 * log_a)).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        h = log_a.exp() * h + scale * (i * u)
        return h, HiddenState(h)
