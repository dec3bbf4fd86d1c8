"""The LSTM with exponential gates."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty
from treadle.cells.heads import block_diagonal, checked_heads
from treadle.state import kept_in_files


@kept_in_files
class SLSTMState(NamedTuple):
    """The state of an sLSTM."""

    h: Tensor
    """Hidden state [B, H]."""
    c: Tensor
    """Cell state [B, H], scaled by exp(-m)."""
    n: Tensor
    """Normaliser [B, H], scaled by exp(-m); 0 means that nothing has been seen."""
    m: Tensor
    """Stabiliser [B, H]: the logarithm of the scale of c and n."""


class SLSTMCell(RecurrentCell):
    """sLSTM of xLSTM: exponential input gate, normaliser, and a stabiliser that keeps the exponentials finite.

        i~, f~, z~, o~ = W x + R h + b          R is block-diagonal: units mix within their head
        m' = max(log σ(f~) + m, i~)             just i~ where n = 0: nothing was seen, there is nothing to scale
        i = exp(i~ - m'),  f = exp(log σ(f~) + m - m')
        c' = f c + i tanh(z~)
        n' = f n + i
        h' = σ(o~) c' / n'
        y  = h'

    The scale exp(m) cancels in h', so m has no effect on the values, only on what a float can hold.

    Parameters: ``weight_ih`` [4H, I], ``weight_hh`` [heads, 4H/heads, H/heads], ``bias`` [4H], uniform in ±1/√H; rows
    of ``weight_ih`` and ``bias`` in the order i, f, z, o, those of each head of ``weight_hh`` likewise. The forget
    gate's bias then rises evenly from 3 to 6 over the units, as the paper's authors start it.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        heads: into how many blocks the units are divided.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, or heads that do not divide ``hidden_size``.

    Source: Beck et al., *xLSTM: Extended Long Short-Term Memory*, 2024 (arXiv:2405.04517), equations 8 to 18.

    Example:
        >>> import torch, treadle as td
        >>> y, state = td.SLSTMCell(3, 6, heads=2)(torch.randn(2, 3))
        >>> state._fields
        ('h', 'c', 'n', 'm')
    """

    State = SLSTMState

    def __init__(
        self, input_size: int, hidden_size: int, heads: int = 1, *, device: Any = None, dtype: torch.dtype | None = None
    ):
        super().__init__(input_size, hidden_size)
        self.heads = checked_heads(heads, hidden_size)
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(4 * hidden_size, input_size, **of)
        self.weight_hh = empty(heads, 4 * hidden_size // heads, hidden_size // heads, **of)
        self.bias = empty(4 * hidden_size, **of)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters again, then set the forget gate's bias."""
        super().reset_parameters()
        size = self.hidden_size
        with torch.no_grad():
            self.bias[size : 2 * size] = torch.linspace(3, 6, size, device=self.bias.device, dtype=self.bias.dtype)

    def forward(self, x: Tensor, state: SLSTMState | None = None) -> tuple[Tensor, SLSTMState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        h, c, n, m = self.checked(x, state)
        recurrent = block_diagonal(h, self.weight_hh, 4)  # [B, 4H]
        i, f, z, o = (F.linear(x, self.weight_ih, self.bias) + recurrent).chunk(4, 1)
        kept = F.logsigmoid(f) + m
        m = torch.where(n == 0, i, torch.maximum(kept, i))
        # kept > m only where n = 0: f then scales zeros, but if it were infinite it would turn them into NaN.
        input_gate, forget, candidate, output_gate = (i - m).exp(), (kept - m).clamp(max=0).exp(), z.tanh(), o.sigmoid()
        c = forget * c + input_gate * candidate
        n = forget * n + input_gate
        h = output_gate * c / n
        return h, SLSTMState(h, c, n, m)
