"""Operations that take each number by itself: arithmetic, comparisons, choices."""

import math
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.operations.table import HANDLERS, Unknown, binary, checked, common, handler, unary
from treadle.compiler.program import Value, cast, elementwise, full

for _op in "exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid erf reciprocal".split():
    handler(_op)(lambda a, op=_op: unary(op, a))
for _op in "neg abs floor ceil trunc sign sgn".split():
    handler(_op)(lambda a, op=_op: elementwise(op.replace("sgn", "sign"), a))
for _op in "mul maximum minimum lt le gt ge".split():
    handler(_op)(lambda a, b, op=_op: binary(op, a, b))
for _op in ("and", "or"):
    handler(f"logical_{_op}", f"bitwise_{_op}", f"__{_op}__")(lambda a, b, op=_op: _both(op, a, b))


def _both(op: str, a: Value, b: Value) -> Value:
    if a.dtype != torch.bool or b.dtype != torch.bool:
        raise Unknown("of numbers that are not booleans")
    return elementwise(op, a, b)


@handler("ne")
def _ne(a: Value, b: Any) -> Value:
    both_bool = a.dtype == torch.bool and isinstance(b, Value) and b.dtype == torch.bool
    return _xor(a, b) if both_bool else binary("ne", a, b)


@handler("logical_xor", "bitwise_xor", "__xor__")
def _xor(a: Value, b: Value) -> Value:
    return elementwise("and", _both("or", a, b), _not(_both("and", a, b)))


@handler("logical_not", "bitwise_not")
def _not(a: Value) -> Value:
    return elementwise("not", a) if a.dtype == torch.bool else binary("eq", a, 0)


@handler("round")
def _round(a: Value, decimals: int = 0) -> Value:
    if decimals:
        raise Unknown("with decimals")
    return elementwise("round", a)


@handler("sub")
def _sub(a: Any, b: Any, alpha: Any = 1) -> Value:
    return binary("sub", a, b if alpha == 1 else binary("mul", b, alpha))


@handler("div")
def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode is None:
        return binary("div", a, b, floating=True)
    a, b = common(a, b)
    if rounding_mode == "floor" and a.dtype.is_floating_point:
        raise Unknown("of floats, rounded down: a quotient a hair below a whole number would be another")
    dtype = a.dtype if a.dtype.is_floating_point else torch.float64  # which holds every whole number below 2**53
    return cast(elementwise(rounding_mode, binary("div", cast(a, dtype), cast(b, dtype))), a.dtype)


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
def square(a: Value) -> Value:
    """Each number times itself."""
    return binary("mul", a, a)


@handler("where")
def where(condition: Value, a: Any, b: Any) -> Value:
    """``a`` where the condition holds, else ``b``."""
    a, b = common(a, b)
    return checked(elementwise("where", condition, a, b), condition, a, b)


@handler("masked_fill")
def _masked_fill(a: Value, mask: Value, value: Any) -> Value:
    value = cast(value, a.dtype) if isinstance(value, Value) else full(value, (), a.dtype)
    return where(mask, value, a)


@handler("clamp", "clamp_min")
def _clamp(a: Value, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> Value:
    low, high = low if min is None else min, high if max is None else max
    # Not maximum and minimum: at a tie those share the gradient out, but a clamp passes it on.
    a = a if low is None else where(binary("lt", a, low), low, a)
    return a if high is None else where(binary("gt", a, high), high, a)


HANDLERS |= {
    "floor_divide": lambda a, b: _div(a, b, "floor"),
    "eq": lambda a, b: _not(_ne(a, b)) if a.dtype == torch.bool else binary("eq", a, b),
    "add": lambda a, b, alpha=1: binary("add", a, b if alpha == 1 else binary("mul", b, alpha)),
    "rsub": lambda a, b, alpha=1: _sub(b, a, alpha),
    "remainder": lambda a, b: binary("sub", a, binary("mul", _div(a, b, "floor"), b)),
    "lerp": lambda a, b, weight: binary("add", a, binary("mul", weight, binary("sub", b, a))),
    "addcmul": lambda a, b, c, value=1: binary("add", a, binary("mul", binary("mul", b, c), value)),
    "addcdiv": lambda a, b, c, value=1: binary("add", a, binary("mul", binary("div", b, c), value)),
    "clamp_max": lambda a, high: _clamp(a, None, high),
    "tan": lambda a: binary("div", unary("sin", a), unary("cos", a)),
    "sinh": lambda a: binary("mul", binary("sub", unary("exp", a), unary("exp", elementwise("neg", a))), 0.5),
    "cosh": lambda a: binary("mul", binary("add", unary("exp", a), unary("exp", elementwise("neg", a))), 0.5),
    "exp2": lambda a: unary("exp", binary("mul", a, math.log(2))),
    "log2": lambda a: binary("mul", unary("log", a), 1 / math.log(2)),
    "log10": lambda a: binary("mul", unary("log", a), 1 / math.log(10)),
    "isnan": lambda a: binary("ne", a, a),
}
