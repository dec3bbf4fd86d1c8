"""One step of ONNX's LSTM, GRU and RNN: any activations, clipping, peepholes, coupled gates, either kind of reset.

The equations are those of the operators' specification; where it leaves something open, what ONNX Runtime does. Source:
https://onnx.ai/onnx/operators/ (LSTM, GRU, RNN, versions 7 to 22).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[str, tuple[tuple[float, ...], Callable[..., Tensor]]] = {
    "relu": ((), torch.relu),
    "tanh": ((), torch.tanh),
    "sigmoid": ((), torch.sigmoid),
    "softsign": ((), lambda x: x / (1 + x.abs())),
    "softplus": ((), lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))),
    "leakyrelu": ((0.01,), lambda x, alpha: torch.where(x >= 0, x, alpha * x)),
    "thresholdedrelu": ((0.0,), lambda x, alpha: torch.where(x > alpha, x, 0.0)),
    "elu": ((1.0,), lambda x, alpha: torch.where(x >= 0, x, alpha * torch.expm1(x.clamp(max=0)))),
    "hardsigmoid": ((0.2, 0.5), lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1)),
    "scaledtanh": ((0.0, 0.0), lambda x, alpha, beta: alpha * torch.tanh(beta * x)),
    "affine": ((0.0, 0.0), lambda x, alpha, beta: alpha * x + beta),
}
"""By name: the numbers that it takes unless the node gives others, alpha and beta, and the function.

Where a node gives none, the numbers are ONNX Runtime's: that differs from the specification for ThresholdedRelu (1
there), which has none for Affine and ScaledTanh.
"""


def activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation]:
    """The functions of a node. Numbers are consumed in the order of the functions that take one.

    Raises:
        KeyError: there is no such function.
    """
    alpha, beta = iter(alphas), iter(betas)
    return [_activation(name, alpha, beta) for name in names]


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    if name.lower() not in _FUNCTIONS:
        raise KeyError(name)
    usual, function = _FUNCTIONS[name.lower()]
    numbers = [next(given, number) for number, given in zip(usual, (alphas, betas), strict=False)]
    return (lambda x: function(x, *numbers)) if numbers else function


class HiddenAndCell(NamedTuple):
    """The state of an LSTM node."""

    h: Tensor
    c: Tensor


class Hidden(NamedTuple):
    """The state of a GRU or RNN node."""

    h: Tensor


class NodeCell(nn.Module):
    """What the three kinds of nodes share: their weights, clipping, activations.

    Args:
        weights: ``W`` [gates·H, I], ``R`` [gates·H, H], the biases of both or None, and peepholes or None.
        functions: the activations.
        clip: numbers are kept within ±clip before an activation; infinite for none.
    """

    def __init__(
        self, W: Tensor, R: Tensor, B: Tensor | None, P: Tensor | None, functions: list[Activation], clip: float
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.functions, self.clip = W.shape[1], R.shape[1], functions, clip
        self.W, self.R = nn.Parameter(W.clone()), nn.Parameter(R.clone())
        self.Wb = self.Rb = self.P = None
        if B is not None:
            Wb, Rb = B.chunk(2)
            self.Wb, self.Rb = nn.Parameter(Wb.clone()), nn.Parameter(Rb.clone())
        if P is not None:
            self.P = nn.Parameter(P.clone())

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.hidden_size

    def initial_state(self, batch_size: int) -> Hidden | HiddenAndCell:
        """Zeros."""
        return Hidden(self.W.new_zeros(batch_size, self.hidden_size))

    def clipped(self, x: Tensor) -> Tensor:
        """What an activation is given."""
        return x if math.isinf(self.clip) else x.clamp(-self.clip, self.clip)


class LSTMNodeCell(NodeCell):
    """One step of an LSTM node; gates in the order i, o, f, c.

    Args:
        input_forget: whether the forget gate is 1 less the input gate.
    """

    def __init__(self, *shared: object, input_forget: bool = False):
        super().__init__(*shared)  # pyright: ignore[reportArgumentType]
        self.input_forget = input_forget

    def initial_state(self, batch_size: int) -> HiddenAndCell:
        """Zeros."""
        zeros = self.W.new_zeros(batch_size, self.hidden_size)
        return HiddenAndCell(zeros, zeros)

    def forward(self, x: Tensor, state: HiddenAndCell) -> tuple[Tensor, HiddenAndCell]:
        """One step."""
        h, c = state
        f, g, last = self.functions
        i_in, o_in, f_in, c_in = (F.linear(x, self.W, self.Wb) + F.linear(h, self.R, self.Rb)).chunk(4, 1)
        p_i, p_o, p_f = (0.0, 0.0, 0.0) if self.P is None else self.P.chunk(3)
        i = f(self.clipped(i_in + p_i * c))
        forget = 1 - i if self.input_forget else f(self.clipped(f_in + p_f * c))
        c = forget * c + i * g(self.clipped(c_in))
        h = f(self.clipped(o_in + p_o * c)) * last(c)
        return h, HiddenAndCell(h, c)


class GRUNodeCell(NodeCell):
    """One step of a GRU node; gates in the order z, r, h.

    Args:
        linear_before_reset: whether the reset gate is applied after the product with the recurrent weights, as in
            PyTorch, or before, as in the original.
    """

    def __init__(self, *shared: object, linear_before_reset: bool = False):
        super().__init__(*shared)  # pyright: ignore[reportArgumentType]
        self.linear_before_reset = linear_before_reset

    def forward(self, x: Tensor, state: Hidden) -> tuple[Tensor, Hidden]:
        """One step."""
        (h,) = state
        f, g = self.functions
        H = self.hidden_size
        z_x, r_x, h_x = F.linear(x, self.W, self.Wb).chunk(3, 1)
        bias = [None] * 3 if self.Rb is None else list(self.Rb.chunk(3))
        z = f(self.clipped(z_x + F.linear(h, self.R[:H], bias[0])))
        r = f(self.clipped(r_x + F.linear(h, self.R[H : 2 * H], bias[1])))
        if self.linear_before_reset:
            new = g(self.clipped(h_x + r * F.linear(h, self.R[2 * H :], bias[2])))
        else:
            new = g(self.clipped(h_x + F.linear(r * h, self.R[2 * H :], bias[2])))
        h = (1 - z) * new + z * h
        return h, Hidden(h)


class RNNNodeCell(NodeCell):
    """One step of an RNN node."""

    def forward(self, x: Tensor, state: Hidden) -> tuple[Tensor, Hidden]:
        """One step."""
        (f,) = self.functions
        h = f(self.clipped(F.linear(x, self.W, self.Wb) + F.linear(state.h, self.R, self.Rb)))
        return h, Hidden(h)
