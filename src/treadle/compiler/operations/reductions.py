"""What many numbers of a row are together: sums, means, norms; and what puts a row into proportion to itself."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.operations.pointwise import square
from treadle.compiler.operations.table import (
    HANDLERS,
    Unknown,
    axes_of,
    binary,
    feature_axes,
    feature_axis,
    handler,
    unary,
)
from treadle.compiler.program import Value, cast, elementwise


@handler("sum")
def _sum(value: Value, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    if not value.dtype.is_floating_point:
        value = cast(value, dtype or torch.int64)
    return p.reduce("sum", value if dtype is None else cast(value, dtype), axes_of(value, dims), keepdim)


@handler("mean")
def mean(value: Value, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """The mean over axes of the rows."""
    value = value if dtype is None else cast(value, dtype)
    dims = feature_axes(value, dims, "the mean")
    count = p.numel(value.shape[d] for d in dims)
    return binary("mul", p.reduce("sum", value, dims, keepdim), 1 / max(count, 1))


@handler("amax")
def amax(value: Value, dims: Any = (), keepdim: bool = False) -> Value:
    """The maximum over axes of the rows."""
    return p.reduce("amax", value, feature_axes(value, dims, "the maximum"), keepdim)


@handler("var_mean")
def var_mean(value: Value, dims: Any = None, correction: Any = 1, keepdim: bool = False) -> tuple[Value, Value]:
    """The variance and the mean over axes of the rows."""
    dims = feature_axes(value, dims, "the variance")
    centre = mean(value, dims, True)
    centred = binary("sub", value, centre)
    count = p.numel(value.shape[d] for d in dims) - (1 if correction is None else correction)
    variance = binary("mul", p.reduce("sum", square(centred), dims, keepdim), 1 / count if count > 0 else math.nan)
    return variance, centre if keepdim else p.reduce("sum", centre, dims)


@handler("linalg_vector_norm")
def _norm(value: Value, ord: Any = 2, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    if ord not in (1, 2):
        raise Unknown(f"of order {ord}")
    value = value if dtype is None else cast(value, dtype)
    dims = feature_axes(value, dims, "the norm")
    if ord == 1:
        return p.reduce("sum", elementwise("abs", value), dims, keepdim)
    return unary("sqrt", p.reduce("sum", square(value), dims, keepdim))


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


HANDLERS |= {
    "amin": lambda value, dims=(), keepdim=False: elementwise("neg", amax(elementwise("neg", value), dims, keepdim)),
    "var": lambda *given, **options: var_mean(*given, **options)[0],
    "std": lambda *given, **options: unary("sqrt", var_mean(*given, **options)[0]),
}
