"""Operations that put a row into proportion to itself: normalisations and softmax."""

from collections.abc import Sequence
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.operations.pointwise import square
from treadle.compiler.operations.reductions import amax, mean, var_mean
from treadle.compiler.operations.table import binary, feature_axes, feature_axis, handler, unary
from treadle.compiler.program import Value


@handler("native_layer_norm")
def _layer_norm(value: Value, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Value, Value, Value]:
    variance, centre = var_mean(value, range(-len(shape), 0), 0, True)
    scale = unary("rsqrt", binary("add", variance, eps))
    result = binary("mul", binary("sub", value, centre), scale)
    result = result if weight is None else binary("mul", result, weight)
    return result if bias is None else binary("add", result, bias), centre, scale


@handler("_fused_rms_norm")
def _rms_norm(value: Value, shape: Sequence[int], weight: Any, eps: Any) -> tuple[Value, Value]:
    dims = feature_axes(value, range(-len(shape), 0), "the norm")
    eps = torch.finfo(value.dtype).eps if eps is None else eps
    scale = unary("rsqrt", binary("add", mean(square(value), dims, True), eps))
    result = binary("mul", value, scale)
    return result if weight is None else binary("mul", result, weight), scale


def _shifted(value: Value, dims: Any) -> tuple[Value, Value]:
    """The value less its largest, and the largest: for range alone.

    The result does not depend on what is subtracted, so no gradient needs to go that way.
    """
    largest = p.detach(amax(value, dims, True))
    return binary("sub", value, largest), largest


@handler("logsumexp")
def _logsumexp(value: Value, dims: Any, keepdim: bool = False) -> Value:
    dims = feature_axes(value, dims, "the sum of exponentials")
    shifted, largest = _shifted(value, dims)
    result = binary("add", unary("log", p.reduce("sum", unary("exp", shifted), dims, True)), largest)
    return result if keepdim else p.reduce("sum", result, dims)


@handler("_softmax", "_safe_softmax")
def _softmax(value: Value, dim: int, half_to_float: Any = False) -> Value:
    dim = feature_axis(value, dim, "the softmax")
    scaled = unary("exp", _shifted(value, dim)[0])
    return binary("div", scaled, p.reduce("sum", scaled, [dim], True))


@handler("_log_softmax")
def _log_softmax(value: Value, dim: int, half_to_float: Any = False) -> Value:
    dim = feature_axis(value, dim, "the softmax")
    shifted, _ = _shifted(value, dim)
    return binary("sub", shifted, unary("log", p.reduce("sum", unary("exp", shifted), [dim], True)))
