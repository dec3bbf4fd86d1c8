"""One step of ONNX's LSTM, with any activations, peepholes and coupled gates; and the activations of all nodes.

The steps of GRU and RNN nodes are `treadle.GRUCell` and `treadle.RNNCell`. The equations are those of the operators'
specification; where it leaves something open, what ONNX Runtime does. Source: https://onnx.ai/onnx/operators/ (LSTM,
GRU, RNN, versions 7 to 22).
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


def clipped(function: Activation, clip: float) -> Activation:
    """A function of numbers that are kept within ±clip."""
    return function if math.isinf(clip) else lambda x: function(x.clamp(-clip, clip))


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


class LSTMNodeCell(nn.Module):
    """One step of an LSTM node; gates in the order i, o, f, c.

    Args:
        W: [4H, I].
        R: [4H, H].
        B: the biases of both [8H], or None.
        P: peepholes [3H], or None.
        functions: the activations of gates, of the candidate and of the cell state.
        input_forget: whether the forget gate is 1 less the input gate.
    """

    def __init__(
        self,
        W: Tensor,
        R: Tensor,
        B: Tensor | None,
        P: Tensor | None,
        functions: Sequence[Activation],
        input_forget: bool = False,
    ):
        super().__init__()
        self.input_size, self.hidden_size = W.shape[1], R.shape[1]
        self.functions, self.input_forget = functions, input_forget
        self.W, self.R = nn.Parameter(W.clone()), nn.Parameter(R.clone())
        self.B, self.P = (None if one is None else nn.Parameter(one.clone()) for one in (B, P))

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.hidden_size

    def initial_state(self, batch_size: int) -> HiddenAndCell:
        """Zeros."""
        zeros = self.W.new_zeros(batch_size, self.hidden_size)
        return HiddenAndCell(zeros, zeros)

    def forward(self, x: Tensor, state: HiddenAndCell) -> tuple[Tensor, HiddenAndCell]:
        """One step."""
        h, c = state
        f, g, last = self.functions
        b_x, b_h = (None, None) if self.B is None else self.B.chunk(2)
        i_in, o_in, f_in, c_in = (F.linear(x, self.W, b_x) + F.linear(h, self.R, b_h)).chunk(4, 1)
        p_i, p_o, p_f = (0.0, 0.0, 0.0) if self.P is None else self.P.chunk(3)
        i = f(i_in + p_i * c)
        forget = 1 - i if self.input_forget else f(f_in + p_f * c)
        c = forget * c + i * g(c_in)
        h = f(o_in + p_o * c) * last(c)
        return h, HiddenAndCell(h, c)
