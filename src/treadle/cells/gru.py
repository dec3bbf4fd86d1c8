"""The gated recurrent unit."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.activations import Activation, check_activation, function_of
from treadle.cells.base import RecurrentCell, empty
from treadle.cells.rnn import HiddenState


class GRUCell(RecurrentCell):
    """Gated recurrent unit, as `torch.nn.GRU` defines it: the reset gate acts after the recurrent product, or before.

        r = σ(W_ir x + b_ir + W_hr h + b_hr)            reset gate
        z = σ(W_iz x + b_iz + W_hz h + b_hz)            update gate
        n = tanh(W_in x + b_in + r (W_hn h + b_hn))     candidate; with reset_after=False
            tanh(W_in x + b_in + W_hn (r h) + b_hn)
        h' = (1 - z) n + z h
        y  = h'

    Parameters: ``weight_ih`` [3H, I], ``weight_hh`` [3H, H], ``bias_ih`` and ``bias_hh`` [3H], rows in the order
    r, z, n, uniform in ±1/√H, drawn in the order in which `torch.nn.GRUCell` draws them. They are the same with
    ``reset_after=False``, but mean something else: weights of one kind are of no use to the other.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        bias: whether there are biases.
        activation: what stands for tanh: the name of a function (see `treadle.cells.ACTIVATIONS`), a module, or a
            function of a tensor.
        gate_activation: likewise, what stands for σ. Keras calls it ``recurrent_activation``.
        reset_after: whether the reset gate acts after the recurrent product, as in PyTorch, cuDNN and Keras since 2.3,
            or before it, as in the paper, in ONNX (``linear_before_reset=0``) and in older networks of Keras.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive.
        ValueError: there is no activation of that name.

    Source: Cho et al., *Learning Phrase Representations using RNN Encoder-Decoder*, 2014; the third version of
    arXiv:1406.1078 has ``reset_after=False``, the first that of PyTorch.

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
        activation: Activation = "tanh",
        gate_activation: Activation = "sigmoid",
        reset_after: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        check_activation("activation", activation, hidden_size)
        check_activation("gate_activation", gate_activation, hidden_size)
        self.bias, self.activation, self.gate_activation = bias, activation, gate_activation
        self.reset_after = reset_after
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(3 * hidden_size, input_size, **of)
        self.weight_hh = empty(3 * hidden_size, hidden_size, **of)
        self.bias_ih = empty(3 * hidden_size, **of) if bias else None
        self.bias_hh = empty(3 * hidden_size, **of) if bias else None
        self.reset_parameters()

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        bend, bend_gate = function_of(self.activation), function_of(self.gate_activation)
        r_x, z_x, n_x = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        if self.reset_after:
            r_h, z_h, n_h = F.linear(h, self.weight_hh, self.bias_hh).chunk(3, 1)
            reset, update = bend_gate(r_x + r_h), bend_gate(z_x + z_h)
            candidate = bend(n_x + reset * n_h)
        else:
            (weight_gates, bias_gates), (weight_candidate, bias_candidate) = self._recurrent_parts()
            r_h, z_h = F.linear(h, weight_gates, bias_gates).chunk(2, 1)
            reset, update = bend_gate(r_x + r_h), bend_gate(z_x + z_h)
            candidate = bend(n_x + F.linear(reset * h, weight_candidate, bias_candidate))
        h = candidate + update * (h - candidate)
        return h, HiddenState(h)

    def _recurrent_parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """The recurrent weights and biases of both gates, and those of the candidate."""
        H = self.hidden_size
        bias = [None, None] if self.bias_hh is None else self.bias_hh.split([2 * H, H])
        return list(zip(self.weight_hh.split([2 * H, H]), bias, strict=True))
