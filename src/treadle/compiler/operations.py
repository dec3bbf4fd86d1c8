"""PyTorch's operations in terms of the program's: one table, walked by the tracer.

A handler gets what the ATen operation got, with a `Value` in place of each tensor, and returns a value (or a tuple).
What is here is what a loop may contain. `ROWWISE` names operations that treat rows alike but that the compiler knows
nothing else about; they run as PyTorch's, outside loops.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.program import BATCH, Value, cast, elementwise, full

__all__ = ["HANDLERS", "RANDOM", "ROWWISE", "NotRowwise", "Unknown"]


class NotRowwise(Exception):
    """An operation lets rows of the batch meet."""


class Unknown(Exception):
    """An operation in a form that the table does not have."""


HANDLERS: dict[str, Callable[..., Any]] = {}
"""By the name of the ATen operation, without its overload."""

ROWWISE = {
    name: axes
    for axes, names in {
        # Of these arguments, no axis may be the batch; -1 stands for "the batch must be the first axis".
        "first": "convolution avg_pool2d max_pool2d_with_indices avg_pool1d upsample_nearest2d native_group_norm"
        " _adaptive_avg_pool2d reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d",
        "dim": "cumsum cumprod index_select gather sort topk flip",
        "any": "embedding",
    }.items()
    for name in names.split()
}
RANDOM = set(
    "bernoulli native_dropout rand randn rand_like randn_like bernoulli_ uniform_ normal_ exponential_ normal randint"
    " randint_like".split()
)
_DUMMIES: dict[Any, torch.Tensor] = {}


def handler(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table."""

    def put(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            HANDLERS[name] = function
        return function

    return put


def _dummy(operand: Any) -> Any:
    if not isinstance(operand, Value):
        return operand
    key = (operand.dtype, bool(operand.shape))
    if key not in _DUMMIES:
        _DUMMIES[key] = torch.empty((1,) if operand.shape else (), dtype=operand.dtype, device="cpu")
    return _DUMMIES[key]


def common(*operands: Any, floating: bool = False) -> list[Value]:
    """Tensors and numbers as values of the type that PyTorch would compute in."""
    types = [_dummy(operand) for operand in operands]
    dtype = torch.result_type(types[0], types[1]) if len(types) > 1 else types[0].dtype
    for more in types[2:]:
        dtype = torch.promote_types(dtype, torch.result_type(types[0], more))
    if floating and not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return [cast(o, dtype) if isinstance(o, Value) else full(o, (), dtype) for o in operands]


def _checked(value: Value, *operands: Value) -> Value:
    """A result whose batch is where that of each operand is."""
    for operand in operands:
        if operand.has_rows and len(operand.shape) - operand.batch_axis != len(value.shape) - value.batch_axis:
            raise NotRowwise("it sets rows of one operand against features of another")
    return value


def binary(op: str, a: Any, b: Any, floating: bool = False) -> Value:
    """A pointwise operation of two, numbers among them."""
    a, b = common(a, b, floating=floating)
    return _checked(elementwise(op, a, b), a, b)


def unary(op: str, a: Value) -> Value:
    """A pointwise operation of one."""
    (a,) = common(a, floating=True)
    return elementwise(op, a)


for _op in "exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid erf reciprocal".split():
    handler(_op)(lambda a, op=_op: unary(op, a))
for _op in "neg abs floor ceil trunc sign sgn".split():
    handler(_op)(lambda a, op=_op: elementwise(op.replace("sgn", "sign"), a))
for _op in "mul maximum minimum".split():
    handler(_op)(lambda a, b, op=_op: binary(op, a, b))
for _op in "lt le gt ge".split():
    handler(_op)(lambda a, b, op=_op: binary(op, a, b))
for _name in ("logical_and", "bitwise_and", "__and__"):
    handler(_name)(lambda a, b: _both("and", a, b))
for _name in ("logical_or", "bitwise_or", "__or__"):
    handler(_name)(lambda a, b: _both("or", a, b))


def _both(op: str, a: Value, b: Value) -> Value:
    if a.dtype != torch.bool or b.dtype != torch.bool:
        raise Unknown("of numbers that are not booleans")
    return elementwise(op, a, b)


@handler("eq")
def _eq(a: Value, b: Any) -> Value:
    return _not(_ne(a, b)) if a.dtype == torch.bool else binary("eq", a, b)


@handler("ne")
def _ne(a: Value, b: Any) -> Value:
    if a.dtype == torch.bool and isinstance(b, Value) and b.dtype == torch.bool:
        return elementwise("and", elementwise("or", a, b), _not(elementwise("and", a, b)))
    return binary("ne", a, b)


@handler("logical_xor", "bitwise_xor", "__xor__")
def _xor(a: Value, b: Value) -> Value:
    if a.dtype != torch.bool or b.dtype != torch.bool:
        raise Unknown("of numbers that are not booleans")
    return _ne(a, b)


@handler("logical_not", "bitwise_not")
def _not(a: Value) -> Value:
    return elementwise("not", a) if a.dtype == torch.bool else binary("eq", a, 0)


@handler("round")
def _round(a: Value, decimals: int = 0) -> Value:
    if decimals:
        raise Unknown("with decimals")
    return elementwise("round", a)


@handler("log_sigmoid_forward")
def _log_sigmoid(a: Value) -> tuple[Value, Value]:
    return elementwise("logsigmoid", a), full(0, (0,), a.dtype)


@handler("log_sigmoid_backward")
def _log_sigmoid_backward(g: Value, a: Value, buffer: Any = None) -> Value:
    return binary("mul", g, unary("sigmoid", elementwise("neg", a)))


@handler("add")
def _add(a: Any, b: Any, alpha: Any = 1) -> Value:
    return binary("add", a, b if alpha == 1 else binary("mul", b, alpha))


@handler("sub")
def _sub(a: Any, b: Any, alpha: Any = 1) -> Value:
    return binary("sub", a, b if alpha == 1 else binary("mul", b, alpha))


@handler("rsub")
def _rsub(a: Any, b: Any, alpha: Any = 1) -> Value:
    return _sub(b, a, alpha)


@handler("div")
def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode is None:
        return binary("div", a, b, floating=True)
    a, b = common(a, b)
    if rounding_mode == "floor" and a.dtype.is_floating_point:
        raise Unknown("of floats, rounded down: a quotient a hair below a whole number would be another")
    dtype = a.dtype if a.dtype.is_floating_point else torch.float64  # which holds every whole number below 2**53
    return cast(elementwise(rounding_mode, binary("div", cast(a, dtype), cast(b, dtype))), a.dtype)


@handler("floor_divide")
def _floor_divide(a: Any, b: Any) -> Value:
    return _div(a, b, "floor")


@handler("remainder")
def _remainder(a: Any, b: Any) -> Value:
    return binary("sub", a, binary("mul", _floor_divide(a, b), b))


@handler("pow")
def _pow(a: Any, b: Any) -> Value:
    a, b = common(a, b)
    exponent = p.constant_of(b)
    if exponent in (2, 3, -2) and b.shape == ():
        power = binary("mul", a, a) if abs(exponent) == 2 else binary("mul", binary("mul", a, a), a)
        return power if exponent > 0 else elementwise("reciprocal", power)
    if exponent in (0.5, -0.5, -1) and b.shape == ():
        return elementwise({0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}[exponent], a)
    return binary("pow", a, b)


@handler("square")
def _square(a: Value) -> Value:
    return binary("mul", a, a)


@handler("lerp")
def _lerp(a: Value, b: Value, weight: Any) -> Value:
    return binary("add", a, binary("mul", weight, binary("sub", b, a)))


@handler("addcmul")
def _addcmul(a: Value, b: Value, c: Value, value: Any = 1) -> Value:
    product = binary("mul", b, c)
    return binary("add", a, product if value == 1 else binary("mul", product, value))


@handler("addcdiv")
def _addcdiv(a: Value, b: Value, c: Value, value: Any = 1) -> Value:
    return binary("add", a, binary("mul", binary("div", b, c), value))


@handler("where")
def _where(condition: Value, a: Any, b: Any) -> Value:
    a, b = common(a, b)
    return _checked(elementwise("where", condition, a, b), condition, a, b)


@handler("masked_fill")
def _masked_fill(a: Value, mask: Value, value: Any) -> Value:
    value = cast(value, a.dtype) if isinstance(value, Value) else full(value, (), a.dtype)
    return _where(mask, value, a)


@handler("clamp", "clamp_min")
def _clamp(a: Value, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> Value:
    low, high = low if min is None else min, high if max is None else max
    # Not maximum and minimum: at a tie those share the gradient out, but a clamp passes it on.
    a = a if low is None else _where(binary("lt", a, low), low, a)
    return a if high is None else _where(binary("gt", a, high), high, a)


@handler("clamp_max")
def _clamp_max(a: Value, high: Any) -> Value:
    return _clamp(a, None, high)


@handler("hardtanh")
def _hardtanh(a: Value, min_val: Any = -1, max_val: Any = 1) -> Value:
    # Not a clamp: at the borders the gradient is 0.
    a = _where(binary("le", a, min_val), min_val, a)
    return _where(binary("ge", a, max_val), max_val, a)


@handler("relu")
def _relu(a: Value) -> Value:
    return _where(binary("le", a, 0), 0, a)


@handler("threshold_backward")
def _threshold_backward(g: Value, a: Value, threshold: float) -> Value:
    return _where(binary("gt", a, threshold), g, 0)


@handler("leaky_relu")
def _leaky_relu(a: Value, negative_slope: Any = 0.01) -> Value:
    return _where(binary("gt", a, 0), a, binary("mul", a, negative_slope))


@handler("_prelu_kernel")
def _prelu(a: Value, slope: Value) -> Value:
    return _where(binary("gt", a, 0), a, binary("mul", a, slope))


@handler("elu")
def _elu(a: Value, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Value:
    # Of 0 where it is not asked for: an infinity there would make the gradient NaN.
    below = _where(binary("gt", a, 0), 0, a)
    negative = binary("mul", unary("expm1", binary("mul", below, input_scale)), alpha)
    return binary("mul", _where(binary("gt", a, 0), a, negative), scale)


@handler("celu")
def _celu(a: Value, alpha: Any = 1) -> Value:
    return _elu(a, alpha, 1, 1 / alpha)


@handler("silu")
def _silu(a: Value) -> Value:
    return binary("mul", a, unary("sigmoid", a))


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
    return _where(binary("gt", scaled, threshold), a, soft)


@handler("mish")
def _mish(a: Value) -> Value:
    return binary("mul", a, unary("tanh", _softplus(a)))


@handler("glu")
def _glu(a: Value, dim: int = -1) -> Value:
    dim = _feature_axis(a, dim, "the halving")
    half = a.shape[dim] // 2
    return binary("mul", p.slice_(a, dim, 0, half), unary("sigmoid", p.slice_(a, dim, half, 2 * half)))


@handler("threshold")
def _threshold(a: Value, threshold: Any, value: Any) -> Value:
    return _where(binary("le", a, threshold), value, a)


@handler("hardshrink")
def _hardshrink(a: Value, border: Any = 0.5) -> Value:
    return _where(binary("le", elementwise("abs", a), border), 0, a)


@handler("softshrink")
def _softshrink(a: Value, border: Any = 0.5) -> Value:
    below = _where(binary("lt", a, -border), binary("add", a, border), binary("mul", a, 0))
    return _where(binary("gt", a, border), binary("sub", a, border), below)


@handler("hardsigmoid")
def _hardsigmoid(a: Value) -> Value:
    return binary("div", _hardtanh(binary("add", a, 3), 0, 6), 6)


@handler("hardswish")
def _hardswish(a: Value) -> Value:
    return binary("mul", a, _hardsigmoid(a))


@handler("tan")
def _tan(a: Value) -> Value:
    return binary("div", unary("sin", a), unary("cos", a))


@handler("sinh")
def _sinh(a: Value) -> Value:
    return binary("mul", binary("sub", unary("exp", a), unary("exp", elementwise("neg", a))), 0.5)


@handler("cosh")
def _cosh(a: Value) -> Value:
    return binary("mul", binary("add", unary("exp", a), unary("exp", elementwise("neg", a))), 0.5)


@handler("exp2")
def _exp2(a: Value) -> Value:
    return unary("exp", binary("mul", a, math.log(2)))


@handler("log2")
def _log2(a: Value) -> Value:
    return binary("mul", unary("log", a), 1 / math.log(2))


@handler("log10")
def _log10(a: Value) -> Value:
    return binary("mul", unary("log", a), 1 / math.log(10))


@handler("isnan")
def _isnan(a: Value) -> Value:
    return binary("ne", a, a)


@handler("sigmoid_backward")
def _sigmoid_backward(g: Value, y: Value) -> Value:
    return binary("mul", g, binary("mul", y, binary("sub", full(1, (), y.dtype), y)))


@handler("tanh_backward")
def _tanh_backward(g: Value, y: Value) -> Value:
    return binary("mul", g, binary("sub", full(1, (), y.dtype), binary("mul", y, y)))


# Shapes.


def _axis(value: Value, dim: int) -> int:
    return dim % max(len(value.shape), 1)


def _feature_axis(value: Value, dim: int, what: str) -> int:
    dim = _axis(value, dim)
    if value.shape and value.shape[dim] is BATCH:
        raise NotRowwise(f"{what} goes over the batch axis")
    return dim


@handler("view", "reshape", "_unsafe_view", "_reshape_alias")
def view(value: Value, shape: Sequence[Any], *_: Any) -> Value:
    """Another shape; the batch has to stay an axis of its own, with as much before it as before."""
    shape = list(shape)
    if -1 in shape:
        known = [dim for dim in shape if dim != -1]
        if value.has_rows and BATCH not in known:
            if p.numel(known) != value.row_numel:
                raise NotRowwise("it lays the batch axis and features into one")
            shape[shape.index(-1)] = BATCH
        else:
            have = value.row_numel
            shape[shape.index(-1)] = have // max(p.numel(dim for dim in known if dim is not BATCH), 1)
    if value.has_rows:
        if shape.count(BATCH) != 1:
            raise NotRowwise("it lays the batch axis and features into one")
        before = p.numel(value.shape[: value.batch_axis])
        if p.numel(shape[: shape.index(BATCH)]) != before and value.row_numel:
            raise NotRowwise("it mixes the batch axis with features")
    return p.reshape(value, shape)


@handler("unsqueeze")
def _unsqueeze(value: Value, dim: int) -> Value:
    dim = dim % (len(value.shape) + 1)
    return p.reshape(value, (*value.shape[:dim], 1, *value.shape[dim:]))


@handler("squeeze")
def _squeeze(value: Value, dim: Any = None) -> Value:
    dims = range(len(value.shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = {_axis(value, d) for d in dims}
    return p.reshape(value, [d for i, d in enumerate(value.shape) if not (i in dims and d == 1)])


@handler("permute")
def _permute(value: Value, axes: Sequence[int]) -> Value:
    return p.permute(value, axes)


@handler("transpose")
def _transpose(value: Value, a: int, b: int) -> Value:
    axes = list(range(len(value.shape)))
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return p.permute(value, axes)


@handler("t")
def _t(value: Value) -> Value:
    return p.permute(value, range(len(value.shape))[::-1])


@handler("slice")
def _slice(value: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    dim = _axis(value, dim)
    size = value.shape[dim]
    if size is BATCH:
        if start in (None, 0) and step == 1 and (end is None or end is BATCH or end == 2**63 - 1):
            return value
        raise NotRowwise("it picks rows")
    start = 0 if start is None else start
    end = size if end is None else end
    start, end = (min(max(i + size if i < 0 else i, 0), size) for i in (start, end))
    return p.slice_(value, dim, start, end, step)


@handler("slice_backward")
def _slice_backward(g: Value, sizes: Sequence[Any], dim: int, start: int, end: int, step: int) -> Value:
    dim = _axis(g, dim)
    if sizes[dim] is BATCH:
        return g
    start = min(max(start + sizes[dim] if start < 0 else start, 0), sizes[dim])
    if step != 1:
        spread = p.pad(_unsqueeze(g, dim + 1), dim + 1, 0, step - 1)
        spread = p.reshape(spread, (*g.shape[:dim], g.shape[dim] * step, *g.shape[dim + 1 :]))
        g = p.slice_(spread, dim, 0, sizes[dim] - start)
    return p.pad(g, dim, start, sizes[dim] - start - g.shape[dim])


@handler("select")
def _select(value: Value, dim: int, index: int) -> Value:
    dim = _feature_axis(value, dim, "the choice of one row: it")
    index = index % value.shape[dim]
    one = p.slice_(value, dim, index, index + 1)
    return p.reshape(one, (*value.shape[:dim], *value.shape[dim + 1 :]))


@handler("select_backward")
def _select_backward(g: Value, sizes: Sequence[Any], dim: int, index: int) -> Value:
    dim = dim % len(sizes)
    return p.pad(_unsqueeze(g, dim), dim, index % sizes[dim], sizes[dim] - index % sizes[dim] - 1)


@handler("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def _split(value: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    dim = _feature_axis(value, dim, "the split")
    if isinstance(sizes, int):
        sizes = [min(sizes, value.shape[dim] - start) for start in range(0, value.shape[dim], sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(p.slice_(value, dim, start, start + size))
        start += size
    return tuple(parts)


@handler("unbind")
def _unbind(value: Value, dim: int = 0) -> tuple[Value, ...]:
    dim = _feature_axis(value, dim, "the unbinding")
    return tuple(_select(value, dim, i) for i in range(value.shape[dim]))


@handler("cat", "concat")
def _cat(parts: Sequence[Value], dim: int = 0) -> Value:
    parts = [part for part in parts if part.shape != (0,)]
    parts = common(*parts)
    dim = _feature_axis(parts[0], dim, "the concatenation")
    return p.cat([_with_rows_of(part, parts, dim) for part in parts], dim)


def _with_rows_of(part: Value, parts: Sequence[Value], dim: int) -> Value:
    """Concatenation does not broadcast, but what stands for a batch of one traced row must not slip through."""
    for other in parts:
        if any(a is not b and a != b for i, (a, b) in enumerate(zip(part.shape, other.shape, strict=True)) if i != dim):
            raise NotRowwise("it puts parts with and without a batch axis together")
    return part


@handler("stack")
def _stack(parts: Sequence[Value], dim: int = 0) -> Value:
    dim = dim % (len(parts[0].shape) + 1)
    return p.cat([_unsqueeze(part, dim) for part in common(*parts)], dim)


@handler("expand")
def _expand(value: Value, sizes: Sequence[Any], implicit: bool = False) -> Value:
    lead = len(sizes) - len(value.shape)
    shape = [value.shape[i - lead] if size == -1 else size for i, size in enumerate(sizes)]
    return p.expand(value, shape)


@handler("repeat")
def _repeat(value: Value, repeats: Sequence[Any]) -> Value:
    value = p.reshape(value, (*[1] * (len(repeats) - len(value.shape)), *value.shape))
    for dim, times in enumerate(repeats):
        if times is BATCH:
            value = p.expand(value, (*value.shape[:dim], BATCH, *value.shape[dim + 1 :]))
        elif times != 1:
            value = p.cat([value] * times, _feature_axis(value, dim, "the repetition"))
    return value


@handler("roll")
def _roll(value: Value, shifts: Any, dims: Any = ()) -> Value:
    shifts, dims = ([x] if isinstance(x, int) else x for x in (shifts, dims))
    if not dims:
        raise Unknown("of all axes as if they were one")
    for shift, dim in zip(shifts, dims, strict=True):
        dim = _feature_axis(value, dim, "the rolling")
        size = value.shape[dim]
        start = -shift % max(size, 1)
        value = p.cat([p.slice_(value, dim, start, size), p.slice_(value, dim, 0, start)], dim)
    return value


@handler("clone", "contiguous", "alias", "lift_fresh", "lift_fresh_copy", "view_as")
def _same(value: Value, *_: Any, **__: Any) -> Value:
    return value


@handler("_to_copy", "to", "type_as")
def _to_copy(value: Value, *_: Any, dtype: Any = None, device: Any = None, **__: Any) -> Value:
    if device is not None and torch.device(device).type not in ("cpu", "meta"):
        raise Unknown(f"to another device ({device})")
    return value if dtype is None else cast(value, dtype)


@handler("constant_pad_nd")
def _constant_pad(value: Value, pads: Sequence[int], fill: Any = 0) -> Value:
    for i in range(len(pads) // 2):
        dim = _feature_axis(value, len(value.shape) - 1 - i, "the padding")
        for position, size in enumerate(pads[2 * i : 2 * i + 2]):
            if size < 0:
                start, stop = (-size, value.shape[dim]) if position == 0 else (0, value.shape[dim] + size)
                value = p.slice_(value, dim, start, stop)
            elif size:
                more = full(fill, (*value.shape[:dim], size, *value.shape[dim + 1 :]), value.dtype)
                value = p.cat([more, value] if position == 0 else [value, more], dim)
    return value


# Constants.


@handler("zeros", "empty", "new_zeros", "new_empty", "zeros_like", "empty_like", "empty_strided", "new_empty_strided")
def _zeros(first: Any, *rest: Any, dtype: Any = None, **_: Any) -> Value:
    return _constant(0, first, rest, dtype)


@handler("ones", "new_ones", "ones_like")
def _ones(first: Any, *rest: Any, dtype: Any = None, **_: Any) -> Value:
    return _constant(1, first, rest, dtype)


def _constant(number: Any, first: Any, rest: Sequence[Any], dtype: Any) -> Value:
    like = first if isinstance(first, Value) else None
    shape: Any = first if like is None else rest[0] if rest else like.shape
    dtype = dtype or (like.dtype if like is not None else torch.get_default_dtype())
    return full(number, shape, dtype)


@handler("full")
def _full(shape: Sequence[Any], number: Any, dtype: Any = None, **_: Any) -> Value:
    return full(number, shape, dtype or torch.tensor(number).dtype)


@handler("full_like", "new_full")
def _full_like(like: Value, *rest: Any, dtype: Any = None, **_: Any) -> Value:
    shape, number = rest if len(rest) == 2 else (like.shape, rest[0])
    return full(number, shape, dtype or like.dtype)


@handler("scalar_tensor")
def _scalar_tensor(number: Any, dtype: Any = None, **_: Any) -> Value:
    return full(number, (), dtype or torch.get_default_dtype())


@handler("fill")
def _fill(value: Value, number: Any) -> Value:
    return (
        p.expand(cast(number, value.dtype), value.shape)
        if isinstance(number, Value)
        else full(number, value.shape, value.dtype)
    )


# Reductions.


def _dims(value: Value, dims: Any) -> list[int]:
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return list(range(len(value.shape)))
    return [_axis(value, d) for d in ([dims] if isinstance(dims, int) else dims)]


@handler("sum")
def _sum(value: Value, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    if not value.dtype.is_floating_point:
        value = cast(value, dtype or torch.int64)
    return p.reduce("sum", value if dtype is None else cast(value, dtype), _dims(value, dims), keepdim)


@handler("mean")
def _mean(value: Value, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    value = value if dtype is None else cast(value, dtype)
    dims = [_feature_axis(value, d, "the mean") for d in _dims(value, dims)]
    count = p.numel(value.shape[d] for d in dims)
    return binary("mul", p.reduce("sum", value, dims, keepdim), 1 / max(count, 1))


@handler("amax")
def _amax(value: Value, dims: Any = (), keepdim: bool = False) -> Value:
    return p.reduce("amax", value, [_feature_axis(value, d, "the maximum") for d in _dims(value, dims)], keepdim)


@handler("amin")
def _amin(value: Value, dims: Any = (), keepdim: bool = False) -> Value:
    return elementwise("neg", _amax(elementwise("neg", value), dims, keepdim))


@handler("var_mean")
def _var_mean(value: Value, dims: Any = None, correction: Any = 1, keepdim: bool = False) -> tuple[Value, Value]:
    dims = [_feature_axis(value, d, "the variance") for d in _dims(value, dims)]
    mean = _mean(value, dims, True)
    centred = binary("sub", value, mean)
    count = p.numel(value.shape[d] for d in dims) - (1 if correction is None else correction)
    variance = binary("mul", p.reduce("sum", _square(centred), dims, keepdim), 1 / count if count > 0 else math.nan)
    return variance, mean if keepdim else p.reduce("sum", mean, dims)


@handler("var")
def _var(value: Value, dims: Any = None, correction: Any = 1, keepdim: bool = False) -> Value:
    return _var_mean(value, dims, correction, keepdim)[0]


@handler("std")
def _std(value: Value, dims: Any = None, correction: Any = 1, keepdim: bool = False) -> Value:
    return unary("sqrt", _var(value, dims, correction, keepdim))


@handler("linalg_vector_norm")
def _norm(value: Value, ord: Any = 2, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    if ord not in (1, 2):
        raise Unknown(f"of order {ord}")
    value = value if dtype is None else cast(value, dtype)
    dims = [_feature_axis(value, d, "the norm") for d in _dims(value, dims)]
    if ord == 1:
        return p.reduce("sum", elementwise("abs", value), dims, keepdim)
    return unary("sqrt", p.reduce("sum", _square(value), dims, keepdim))


@handler("native_layer_norm")
def _layer_norm(value: Value, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Value, Value, Value]:
    dims = list(range(len(value.shape) - len(shape), len(value.shape)))
    variance, mean = _var_mean(value, dims, 0, True)
    scale = unary("rsqrt", binary("add", variance, eps))
    result = binary("mul", binary("sub", value, mean), scale)
    result = result if weight is None else binary("mul", result, weight)
    return result if bias is None else binary("add", result, bias), mean, scale


@handler("_fused_rms_norm")
def _rms_norm(value: Value, shape: Sequence[int], weight: Any, eps: Any) -> tuple[Value, Value]:
    dims = [_feature_axis(value, d, "the norm") for d in range(len(value.shape) - len(shape), len(value.shape))]
    eps = torch.finfo(value.dtype).eps if eps is None else eps
    scale = unary("rsqrt", binary("add", _mean(_square(value), dims, True), eps))
    result = binary("mul", value, scale)
    return result if weight is None else binary("mul", result, weight), scale


@handler("logsumexp")
def _logsumexp(value: Value, dims: Any, keepdim: bool = False) -> Value:
    dims = [_feature_axis(value, d, "the sum of exponentials") for d in _dims(value, dims)]
    largest = _amax(value, dims, True)
    largest = p.make("detach", (largest,), (), largest.shape, value.dtype)
    total = p.reduce("sum", unary("exp", binary("sub", value, largest)), dims, True)
    result = binary("add", unary("log", total), largest)
    return result if keepdim else p.reduce("sum", result, dims)


@handler("_softmax", "_safe_softmax")
def _softmax(value: Value, dim: int, half_to_float: Any = False) -> Value:
    dim = _feature_axis(value, dim, "the softmax")
    # The largest is subtracted for range alone, the result does not depend on it: no gradient needs to go that way.
    largest = p.make("detach", (_amax(value, dim, True),), (), _amax(value, dim, True).shape, value.dtype)
    scaled = unary("exp", binary("sub", value, largest))
    return binary("div", scaled, p.reduce("sum", scaled, [dim], True))


@handler("_log_softmax")
def _log_softmax(value: Value, dim: int, half_to_float: Any = False) -> Value:
    dim = _feature_axis(value, dim, "the softmax")
    largest = p.make("detach", (_amax(value, dim, True),), (), _amax(value, dim, True).shape, value.dtype)
    shifted = binary("sub", value, largest)
    return binary("sub", shifted, unary("log", p.reduce("sum", unary("exp", shifted), [dim], True)))


# Products.


@handler("mm", "matmul")
def matmul(a: Value, b: Value) -> Value:
    """A product of matrices, at most one of which has rows."""
    a_rows, b_rows = a.batch_axis, b.batch_axis
    if a_rows == 0 and b_rows == -1:
        return p.dot(a, b)
    if a_rows == -1 and b_rows == 1:
        return p.permute(p.dot(p.permute(b, (1, 0)), p.permute(a, (1, 0))), (1, 0))
    if a_rows == 1 and b_rows == 0:
        return p.outer(p.permute(a, (1, 0)), b)
    if a_rows == b_rows == -1:
        return p.make("matmul", (a, b), (), (a.shape[0], b.shape[1]), a.dtype)
    raise NotRowwise("the product contracts or pairs rows")


@handler("mv")
def _mv(a: Value, b: Value) -> Value:
    return p.reshape(matmul(a, _unsqueeze(b, 1)), a.shape[:1])


@handler("dot", "vdot")
def _vdot(a: Value, b: Value) -> Value:
    return p.reduce("sum", binary("mul", a, b), [0])


@handler("addmm")
def _addmm(bias: Value, a: Value, b: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    product = matmul(a, b)
    product = product if alpha == 1 else binary("mul", product, alpha)
    return binary("add", product, bias if beta == 1 else binary("mul", bias, beta))


@handler("linear")
def _linear(x: Value, weight: Value, bias: Any = None) -> Value:
    product = _tensor_dot(x, p.permute(weight, (1, 0)))
    return product if bias is None else binary("add", product, bias)


def _tensor_dot(x: Value, w: Value) -> Value:
    """[..., K] times [K, N]: one product for each place of the axes between the batch and the features."""
    if len(x.shape) <= 2:
        return matmul(x, w)
    axis = next(i for i, dim in enumerate(x.shape[:-1]) if dim is not BATCH)
    parts = [_unsqueeze(_tensor_dot(_select(x, axis, i), w), axis) for i in range(x.shape[axis])]
    return p.cat(parts, axis)


@handler("bmm")
def _bmm(a: Value, b: Value) -> Value:
    if a.shape[0] is BATCH or b.shape[0] is BATCH:
        # Each row has a matrix of its own: a sum of products.
        product = binary("mul", _unsqueeze(a, 3), _unsqueeze(b, 1))
        return p.reduce("sum", product, [2])
    return p.cat([_unsqueeze(matmul(_select(a, 0, i), _select(b, 0, i)), 0) for i in range(a.shape[0])], 0)


@handler("baddbmm")
def _baddbmm(bias: Value, a: Value, b: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    return binary("add", binary("mul", bias, beta), binary("mul", _bmm(a, b), alpha))
