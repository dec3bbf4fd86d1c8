"""Sums, means and other numbers of many, over axes of the rows."""

import math
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.operations.pointwise import square
from treadle.compiler.operations.table import Unknown, axes_of, binary, feature_axes, handler, unary
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


@handler("amin")
def _amin(value: Value, dims: Any = (), keepdim: bool = False) -> Value:
    return elementwise("neg", amax(elementwise("neg", value), dims, keepdim))


@handler("var_mean")
def var_mean(value: Value, dims: Any = None, correction: Any = 1, keepdim: bool = False) -> tuple[Value, Value]:
    """The variance and the mean over axes of the rows."""
    dims = feature_axes(value, dims, "the variance")
    centre = mean(value, dims, True)
    centred = binary("sub", value, centre)
    count = p.numel(value.shape[d] for d in dims) - (1 if correction is None else correction)
    variance = binary("mul", p.reduce("sum", square(centred), dims, keepdim), 1 / count if count > 0 else math.nan)
    return variance, centre if keepdim else p.reduce("sum", centre, dims)


@handler("var")
def _var(value: Value, dims: Any = None, correction: Any = 1, keepdim: bool = False) -> Value:
    return var_mean(value, dims, correction, keepdim)[0]


@handler("std")
def _std(value: Value, dims: Any = None, correction: Any = 1, keepdim: bool = False) -> Value:
    return unary("sqrt", _var(value, dims, correction, keepdim))


@handler("linalg_vector_norm")
def _norm(value: Value, ord: Any = 2, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    if ord not in (1, 2):
        raise Unknown(f"of order {ord}")
    value = value if dtype is None else cast(value, dtype)
    dims = feature_axes(value, dims, "the norm")
    if ord == 1:
        return p.reduce("sum", elementwise("abs", value), dims, keepdim)
    return unary("sqrt", p.reduce("sum", square(value), dims, keepdim))
