"""The LSTM without recurrent weights."""

from torch import Tensor
from torch.nn import functional as F

from treadle.cells.input_gated import InputGatedCell
from treadle.cells.rnn import HiddenState


class MinLSTMCell(InputGatedCell):
    """minLSTM: gates and candidate see the input alone; forget and input gate are normalised to add up to one.

        f~ = σ(W_f x + b_f)
        i~ = σ(W_i x + b_i)
        h~ = g(W_h x + b_h)         g(a) = a + 1/2 where a >= 0, else σ(a); or g(a) = a
        f  = f~ / (f~ + i~)
        h' = f h + (1 - f) h~
        y  = h'

    Nothing but a multiplication and an addition lies between one state and the next. Units mix only from layer to
    layer, so it is meant to be stacked, several layers deep.

    Parameters: ``weight_ih`` [3H, I] and ``bias_ih`` [3H], uniform in ±1/√H; rows in the order f, i, h.

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

    Source: Feng et al., *Were RNNs All We Needed?*, 2024 (arXiv:2410.01201), section 3.2 and appendix B.

    Example:
        >>> import torch, treadle as td
        >>> y, state = td.MinLSTMCell(3, 5)(torch.randn(2, 3))
        >>> y.shape, state._fields
        (torch.Size([2, 5]), ('h',))
    """

    gates = 2

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        f, i, a = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        # f~ / (f~ + i~) as a function of logarithms: where both gates are closed, the quotient would be 0 / 0.
        f = (F.logsigmoid(f) - F.logsigmoid(i)).sigmoid()
        candidate = self.candidate(a)
        h = f * h + (1 - f) * candidate
        return h, HiddenState(h)
