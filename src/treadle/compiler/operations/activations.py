"""Activation functions, and those of their derivatives that PyTorch has operations for."""

import math
from typing import Any

from treadle.compiler import program as p
from treadle.compiler.operations.pointwise import where
from treadle.compiler.operations.table import HANDLERS, binary, feature_axis, handler, unary
from treadle.compiler.program import Value, elementwise, full


@handler("hardtanh")
def _hardtanh(a: Value, min_val: Any = -1, max_val: Any = 1) -> Value:
    # Not a clamp: at the borders the gradient is 0.
    a = where(binary("le", a, min_val), min_val, a)
    return where(binary("ge", a, max_val), max_val, a)


@handler("elu")
def _elu(a: Value, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Value:
    # Of 0 where it is not asked for: an infinity there would make the gradient NaN.
    below = where(binary("gt", a, 0), 0, a)
    negative = binary("mul", unary("expm1", binary("mul", below, input_scale)), alpha)
    return binary("mul", where(binary("gt", a, 0), a, negative), scale)


@handler("gelu")
def _gelu(a: Value, approximate: str = "none") -> Value:
    if approximate == "tanh":
        cubic = binary("add", a, binary("mul", binary("mul", binary("mul", a, a), a), 0.044715))
        return binary(
            "mul", binary("mul", a, 0.5), binary("add", unary("tanh", binary("mul", cubic, math.sqrt(2 / math.pi))), 1)
        )
    return binary("mul", binary("mul", a, 0.5), binary("add", unary("erf", binary("mul", a, math.sqrt(0.5))), 1))


@handler("softplus")
def _softplus(a: Value, beta: Any = 1, threshold: Any = 20) -> Value:
    scaled = binary("mul", a, beta)
    soft = binary("div", elementwise("neg", elementwise("logsigmoid", elementwise("neg", scaled))), beta)
    return where(binary("gt", scaled, threshold), a, soft)


@handler("glu")
def _glu(a: Value, dim: int = -1) -> Value:
    dim = feature_axis(a, dim, "the halving")
    half = a.shape[dim] // 2
    return binary("mul", p.slice_(a, dim, 0, half), unary("sigmoid", p.slice_(a, dim, half, 2 * half)))


@handler("softshrink")
def _softshrink(a: Value, border: Any = 0.5) -> Value:
    below = where(binary("lt", a, -border), binary("add", a, border), binary("mul", a, 0))
    return where(binary("gt", a, border), binary("sub", a, border), below)


@handler("hardsigmoid")
def _hardsigmoid(a: Value) -> Value:
    return binary("div", _hardtanh(binary("add", a, 3), 0, 6), 6)


HANDLERS |= {
    "log_sigmoid_forward": lambda a: (elementwise("logsigmoid", a), full(0, (0,), a.dtype)),
    "log_sigmoid_backward": lambda g, a, buffer=None: binary("mul", g, unary("sigmoid", elementwise("neg", a))),
    "relu": lambda a: where(binary("le", a, 0), 0, a),
    "threshold_backward": lambda g, a, threshold: where(binary("gt", a, threshold), g, 0),
    "leaky_relu": lambda a, negative_slope=0.01: where(binary("gt", a, 0), a, binary("mul", a, negative_slope)),
    "_prelu_kernel": lambda a, slope: where(binary("gt", a, 0), a, binary("mul", a, slope)),
    "celu": lambda a, alpha=1: _elu(a, alpha, 1, 1 / alpha),
    "silu": lambda a: binary("mul", a, unary("sigmoid", a)),
    "mish": lambda a: binary("mul", a, unary("tanh", _softplus(a))),
    "threshold": lambda a, threshold, value: where(binary("le", a, threshold), value, a),
    "hardshrink": lambda a, border=0.5: where(binary("le", elementwise("abs", a), border), 0, a),
    "hardswish": lambda a: binary("mul", a, _hardsigmoid(a)),
    "sigmoid_backward": lambda g, y: binary("mul", g, binary("mul", y, binary("sub", full(1, (), y.dtype), y))),
    "tanh_backward": lambda g, y: binary("mul", g, binary("sub", full(1, (), y.dtype), binary("mul", y, y))),
}
