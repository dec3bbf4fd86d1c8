"""The GRU without recurrent weights."""

from torch import Tensor
from torch.nn import functional as F

from treadle.cells.input_gated import InputGatedCell
from treadle.cells.rnn import HiddenState


class MinGRUCell(InputGatedCell):
    """minGRU: gate and candidate see the input alone, so a hidden state is a weighted mean of what its unit saw.

        z  = σ(W_z x + b_z)
        h~ = g(W_h x + b_h)         g(a) = a + 1/2 where a >= 0, else σ(a); or g(a) = a
        h' = (1 - z) h + z h~
        y  = h'

    Nothing but a multiplication and an addition lies between one state and the next. Units mix only from layer to
    layer, so it is meant to be stacked, several layers deep.

    Parameters: ``weight_ih`` [2H, I] and ``bias_ih`` [2H], uniform in ±1/√H; rows in the order z, h.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        bias: whether there is ``bias_ih``.
        positive: whether candidates are made positive by g, as the authors' algorithm in log space needs them to be. If
            False, candidates are linear in the input, as in the paper's first form.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.

    Source: Feng et al., *Were RNNs All We Needed?*, 2024 (arXiv:2410.01201), section 3.1 and appendix B.

    Example:
        >>> import torch, treadle as td
        >>> deep = td.Stack([td.MinGRUCell(3, 5), td.MinGRUCell(5, 5), td.MinGRUCell(5, 5)], "residual")
        >>> ys, state = td.Recurrent(deep)(torch.randn(2, 7, 3))
        >>> ys.shape
        torch.Size([2, 7, 5])
    """

    gates = 1

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        z, a = F.linear(x, self.weight_ih, self.bias_ih).chunk(2, 1)
        z = z.sigmoid()
        candidate = self.candidate(a)
        h = (1 - z) * h + z * candidate
        return h, HiddenState(h)
