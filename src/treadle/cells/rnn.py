"""The simple recurrent network."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.activations import Activation, check_activation, function_of
from treadle.cells.base import RecurrentCell, empty
from treadle.state import kept_in_files


@kept_in_files
class HiddenState(NamedTuple):
    """The state of a cell that has a hidden state only."""

    h: Tensor
    """Hidden state [B, H]."""


class RNNCell(RecurrentCell):
    """The simple recurrent network, as `torch.nn.RNN` defines it.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)        or another function instead of tanh
        y  = h'

    Parameters: ``weight_ih`` [H, I], ``weight_hh`` [H, H], ``bias_ih`` and ``bias_hh`` [H], uniform in ±1/√H, drawn in
    the order in which `torch.nn.RNNCell` draws them.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        bias: whether there are biases.
        nonlinearity: ``"tanh"``, ``"relu"`` or another function by name (see `treadle.cells.ACTIVATIONS`), or a module,
            such as ``nn.PReLU(H)`` for one learned slope per unit. It is what other cells call ``activation``.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, or slopes for another number of units.
        ValueError: another nonlinearity.

    Source: Elman, *Finding Structure in Time*, 1990.

    Example:
        >>> import torch, treadle as td
        >>> y, (h,) = td.RNNCell(3, 5, nonlinearity="relu")(torch.randn(2, 3))
        >>> bool((y >= 0).all())
        True
    """

    State = HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Activation = "tanh",
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        check_activation("nonlinearity", nonlinearity, hidden_size)
        self.bias, self.nonlinearity = bias, nonlinearity
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(hidden_size, input_size, **of)
        self.weight_hh = empty(hidden_size, hidden_size, **of)
        self.bias_ih = empty(hidden_size, **of) if bias else None
        self.bias_hh = empty(hidden_size, **of) if bias else None
        self.reset_parameters()

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        h = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        h = function_of(self.nonlinearity)(h)
        return h, HiddenState(h)
