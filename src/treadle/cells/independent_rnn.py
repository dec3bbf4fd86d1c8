"""The recurrent network whose units see only their own past."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.activations import Activation, check_activation, function_of
from treadle.cells.base import RecurrentCell, empty
from treadle.cells.rnn import HiddenState


class IndRNNCell(RecurrentCell):
    """Independently recurrent network: the recurrent weight is one number per unit.

        h' = relu(W_ih x + u h + b)             or another function instead of relu
        y  = h'

    Units mix only from layer to layer, so it is meant to be stacked, several layers deep.

    Parameters: ``weight_ih`` [H, I] and ``bias`` [H], uniform in ±1/√H; ``weight_hh`` [H], that is u, uniform in 0 to
    1, so that gradients neither explode nor vanish at once (the paper's section 4.1).

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        nonlinearity: the name of a function (see `treadle.cells.ACTIVATIONS`), or a module, such as ``nn.PReLU(H)`` for
            one learned slope per unit.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, or slopes for another number of units.
        ValueError: another nonlinearity.

    Source: Li et al., *Independently Recurrent Neural Network (IndRNN)*, 2018 (arXiv:1803.04831).

    Example:
        >>> import torch, treadle as td
        >>> deep = td.Stack([td.IndRNNCell(3, 5), td.IndRNNCell(5, 5), td.IndRNNCell(5, 5)])
        >>> ys, state = td.Recurrent(deep)(torch.randn(2, 7, 3))
        >>> ys.shape
        torch.Size([2, 7, 5])
    """

    State = HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nonlinearity: Activation = "relu",
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        check_activation("nonlinearity", nonlinearity, hidden_size)
        self.nonlinearity = nonlinearity
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(hidden_size, input_size, **of)
        self.weight_hh = empty(hidden_size, **of)
        self.bias = empty(hidden_size, **of)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters again."""
        super().reset_parameters()
        with torch.no_grad():
            self.weight_hh.uniform_(0, 1)

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        h = F.linear(x, self.weight_ih, self.bias) + self.weight_hh * h
        h = function_of(self.nonlinearity)(h)
        return h, HiddenState(h)
