"""Elementary functions on LLVM vectors, made of arithmetic alone: nothing that is generated calls a library.

Each function becomes one internal LLVM function per module and vector type (``tanh.v16f32``), made when first used and
always inlined. Vectors may have any number of lanes, of float or of double. Results are those of PyTorch up to a few
ulp (the tests say how many), also for NaN, infinities and signed zeros; sine and cosine want |x| up to 1e6 (float) or
1e9 (double).

Multiply-adds are ``llvm.fmuladd``: one instruction wherever the target has one, two elsewhere. ``llvm.fma`` would be a
call of ``fmaf`` there, lane by lane. So no formula below relies on the product being exact: where that matters,
constants and operands are short enough that it is.

The polynomials and quotients of polynomials are minimax approximations, computed for this file by Remez' exchange in
50-digit arithmetic and then rounded; beside each stands what it approximates, where. Lowest power first.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, Union

from llvmlite import ir

__all__ = ["FUNCTIONS", "emit"]

Number: TypeAlias = float | int
Operand: TypeAlias = Union["_Vector", float, int]


class _Vector:
    """A vector value with operators; numbers beside it are spread over its lanes."""

    def __init__(self, builder: ir.IRBuilder, value: Any):
        self.builder: Any = builder  # llvmlite's methods have no types, and pyright infers wrong ones
        self.value, self.type = value, value.type
        self.single = value.type.element == ir.FloatType()
        self.mantissa, self.bias = (23, 127) if self.single else (52, 1023)
        self.integer = ir.VectorType(ir.IntType(32 if self.single else 64), value.type.count)

    def lift(self, operand: Operand) -> ir.Value:
        if isinstance(operand, _Vector):
            return operand.value
        return ir.Constant(self.type, [float(operand)] * self.type.count)

    def new(self, value: ir.Value) -> "_Vector":
        return _Vector(self.builder, value)

    def __add__(self, other: Operand) -> "_Vector":
        return self.new(self.builder.fadd(self.value, self.lift(other)))

    def __sub__(self, other: Operand) -> "_Vector":
        return self.new(self.builder.fsub(self.value, self.lift(other)))

    def __rsub__(self, other: Number) -> "_Vector":
        return self.new(self.builder.fsub(self.lift(other), self.value))

    def __mul__(self, other: Operand) -> "_Vector":
        return self.new(self.builder.fmul(self.value, self.lift(other)))

    def __truediv__(self, other: Operand) -> "_Vector":
        return self.new(self.builder.fdiv(self.value, self.lift(other)))

    def __rtruediv__(self, other: Number) -> "_Vector":
        return self.new(self.builder.fdiv(self.lift(other), self.value))

    def __neg__(self) -> "_Vector":
        return self.new(self.builder.fneg(self.value))

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, operator: str, other: Operand) -> ir.Value:
        """A mask of the lanes where it holds, false beside NaN (but not for ``!=``)."""
        compare = self.builder.fcmp_unordered if operator == "!=" else self.builder.fcmp_ordered
        return compare(operator, self.value, self.lift(other))

    def where(self, mask: ir.Value, other: Operand) -> "_Vector":
        """This where the mask is set, the other elsewhere."""
        return self.new(self.builder.select(mask, self.value, self.lift(other)))

    def replaced(self, mask: ir.Value, other: Operand) -> "_Vector":
        """The other where the mask is set, this elsewhere."""
        return self.new(self.builder.select(mask, self.lift(other), self.value))

    # Both keep NaN, and in this order of operands are x86's minps and maxps.
    def at_most(self, limit: Number) -> "_Vector":
        return self.replaced(self.builder.fcmp_ordered("<", self.lift(limit), self.value), limit)

    def at_least(self, limit: Number) -> "_Vector":
        return self.replaced(self.builder.fcmp_ordered(">", self.lift(limit), self.value), limit)

    def intrinsic(self, name: str, *others: Operand, fastmath: Sequence[str] = ()) -> "_Vector":
        operands = [self.value, *map(self.lift, others)]
        signature = ir.FunctionType(self.type, [self.type] * len(operands))
        function = _declared(self.builder.module, f"llvm.{name}.{_suffix(self.type)}", signature)
        return self.new(self.builder.call(function, operands, fastmath=fastmath))

    def multiply_add(self, factor: Operand, term: Operand) -> "_Vector":
        return self.intrinsic("fmuladd", factor, term)

    def polynomial(self, coefficients: Sequence[Number]) -> "_Vector":
        """By Horner's rule."""
        *rest, before, leading = coefficients
        result = self.multiply_add(leading, before)
        for coefficient in reversed(rest):
            result = result.multiply_add(self, coefficient)
        return result

    def abs(self) -> "_Vector":
        return self.intrinsic("fabs")

    def with_sign_of(self, other: "_Vector") -> "_Vector":
        return self.intrinsic("copysign", other)

    # Numbers as bits. `bits` and `number` change the type, not the bits.
    def bits(self) -> ir.Value:
        return self.builder.bitcast(self.value, self.integer)

    def number(self, bits: ir.Value) -> "_Vector":
        return self.new(self.builder.bitcast(bits, self.type))

    def whole(self, value: int) -> ir.Constant:
        return ir.Constant(self.integer, [value] * self.type.count)

    def bits_of(self, value: Number) -> int:
        """The bits of a number whose mantissa has few digits (of this type, not of Python's)."""
        fraction, exponent = math.frexp(value)
        return (exponent - 2 + self.bias << self.mantissa) + int(math.ldexp(fraction, self.mantissa + 1))

    def cut(self) -> "_Vector":
        """With the lower half of the mantissa zero, so that products of two such are exact."""
        return self.number(self.builder.and_(self.bits(), self.whole(-1 << (self.mantissa + 2) // 2)))


def _suffix(type: ir.VectorType) -> str:
    return f"v{type.count}{'f32' if type.element == ir.FloatType() else 'f64'}"


def _declared(module: ir.Module, name: str, signature: ir.FunctionType) -> ir.Function:
    return module.globals.get(name) or ir.Function(module, signature, name)


FUNCTIONS: dict[str, Callable[..., ir.Value]] = {}
"""By name: what emits the function's code in place, given the builder and vectors of one type. `emit` calls instead."""


def emit(builder: ir.IRBuilder, name: str, *operands: ir.Value) -> ir.Value:
    """The function of that name (`FUNCTIONS`) of vectors of one type, as a call that the optimiser inlines."""
    first: Any = operands[0]
    type = first.type
    full_name = f"{name}.{_suffix(type)}"
    function = builder.module.globals.get(full_name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(type, [type] * len(operands)), full_name)
        function.linkage = "internal"
        function.attributes.add("alwaysinline")
        function.attributes.add("nounwind")
        body = ir.IRBuilder(function.append_basic_block())
        body.ret(FUNCTIONS[name](body, *function.args))
    return builder.call(function, operands)


def _call(name: str, *operands: _Vector) -> _Vector:
    return operands[0].new(emit(operands[0].builder, name, *(o.value for o in operands)))


def _function(formula: Callable[..., _Vector]) -> Callable[..., _Vector]:
    """Put a formula into the table, under its name less the underscore."""

    def emit_in_place(builder: ir.IRBuilder, *operands: ir.Value) -> ir.Value:
        return formula(*(_Vector(builder, operand) for operand in operands)).value

    FUNCTIONS[formula.__name__.removeprefix("_")] = emit_in_place
    return formula


# One instruction, or about as many.


@_function
def _neg(x: _Vector) -> _Vector:
    return -x


@_function
def _abs(x: _Vector) -> _Vector:
    return x.abs()


@_function
def _sqrt(x: _Vector) -> _Vector:
    return x.intrinsic("sqrt")


@_function
def _rsqrt(x: _Vector) -> _Vector:
    return 1 / x.intrinsic("sqrt")


@_function
def _reciprocal(x: _Vector) -> _Vector:
    return 1 / x


@_function
def _floor(x: _Vector) -> _Vector:
    return x.intrinsic("floor")


@_function
def _ceil(x: _Vector) -> _Vector:
    return x.intrinsic("ceil")


@_function
def _trunc(x: _Vector) -> _Vector:
    return x.intrinsic("trunc")


@_function
def _round(x: _Vector) -> _Vector:
    return x.intrinsic("roundeven")


@_function
def _sign(x: _Vector) -> _Vector:
    # Zero for NaN, as PyTorch's.
    zero = x.new(x.lift(0))
    return zero.replaced(x.compare(">", 0), 1).replaced(x.compare("<", 0), -1)


# Which zero is the larger is nobody's concern, and x86 needs three more instructions to tell.
@_function
def _maximum(x: _Vector, y: _Vector) -> _Vector:
    return x.intrinsic("maximum", y, fastmath=("nsz",))


@_function
def _minimum(x: _Vector, y: _Vector) -> _Vector:
    return x.intrinsic("minimum", y, fastmath=("nsz",))


# Exponentials: x = n·ln 2 + r with |r| <= ln 2 / 2, then 2^n · e^r.

_LOG2_E = 1 / math.log(2)
# ln 2 in two parts; the first is short, so that its product with an exponent is exact.
_LN2 = {23: (0.693145751953125, 1.428606765330187e-06), 52: (0.6931471805598903, 5.497923018708371e-14)}
# (e^r - 1 - r) / r² for |r| <= 0.3473
_EXP = {
    23: (0.50000000546005881, 0.16666547684686361, 0.041666297878603081, 0.0083661686050291546, 0.0013945664755181489),
    52: (
        0.50000000000000036793, 0.16666666666666682616, 0.04166666666658986105, 0.0083333333333165410876,
        0.0013888888928191472468, 0.00019841269899246960121, 0.000024801508614365404292, 2.7557230986397322697e-6,
        2.7624912756617181341e-7, 2.5113609392780791485e-8,
    ),
}  # fmt: skip
# e^r for |r| <= 0.3473, a degree less than the above
_SHORT_EXP = (
    1.0,
    0.99999970461243874,
    0.4999914370742177,
    0.16667642713744134,
    0.041898759822533380,
    0.0082901691652267257,
)
# Where e^x is infinite, and where it is zero.
_EXP_LIMITS = {23: (-104.0, 89.0), 52: (-746.0, 710.0)}


def _magic(x: _Vector) -> float:
    """Added to a small number, it leaves in the low bits the nearest integer, plus the bias of exponents."""
    return 1.5 * 2**x.mantissa + x.bias


def _power_of_two(t: _Vector) -> _Vector:
    """2^n of t = n + magic: zero for the n below those of normal numbers, infinity for the n above."""
    return t.number(t.builder.shl(t.bits(), t.whole(t.mantissa)))


def _reduced(x: _Vector) -> tuple[_Vector, _Vector, _Vector]:
    """(n + magic, n, r) for e^x = 2^n · e^r."""
    high, low = _LN2[x.mantissa]
    t = x.multiply_add(_LOG2_E, _magic(x))
    n = t - _magic(x)
    return t, n, n.multiply_add(-low, n.multiply_add(-high, x))


def _scaled_exp(n: _Vector, r: _Vector) -> _Vector:
    """2^n · e^r, in two factors that stay normal numbers while their product may not."""
    half = n.multiply_add(0.5, _magic(n))
    rest = n - (half - _magic(n)) + _magic(n)
    return r.polynomial((1, 1, *_EXP[n.mantissa])) * _power_of_two(half) * _power_of_two(rest)


@_function
def _exp(x: _Vector) -> _Vector:
    low, high = _EXP_LIMITS[x.mantissa]
    _, n, r = _reduced(x.at_most(high).at_least(low))
    return _scaled_exp(n, r)


@_function
def _expm1(x: _Vector) -> _Vector:
    t, _, r = _reduced(x.at_most(_EXP_LIMITS[x.mantissa][1]).at_least(-40))
    tail = (r * r).multiply_add(r.polynomial(_EXP[x.mantissa]), r)
    half = _power_of_two(t - 1)  # not 2^n, which may be infinite where the result is not yet
    return (2 * half.multiply_add(tail, half - 0.5)).with_sign_of(x)


@_function
def _sigmoid(x: _Vector) -> _Vector:
    # 1 / (1 + 2^n·e^r) of -x: scaling is part of the addition, and 2^n is 0 or infinity in time for the limits.
    limit, (high, low) = _EXP_LIMITS[x.mantissa][1], _LN2[x.mantissa]
    coefficients = _SHORT_EXP if x.single else (1, 1, *_EXP[x.mantissa])
    x = x.at_most(limit - 1).at_least(-limit)
    t = x.multiply_add(-_LOG2_E, _magic(x))
    n = t - _magic(x)
    minus_r = n.multiply_add(low, n.multiply_add(high, x))
    power = minus_r.polynomial([c * (-1) ** i for i, c in enumerate(coefficients)])
    return 1 / _power_of_two(t).multiply_add(power, 1)


@_function
def _logsigmoid(x: _Vector) -> _Vector:
    return x.at_most(0) - _call("log1p", _call("exp", -x.abs()))


# (e^2r - 1) / r for |r| <= 0.174
_EXPM1_OF_DOUBLE = (
    2.0000000217689048, 1.9999999231902218, 1.3333202913698642, 0.66667429807630521, 0.26781935676592348,
    0.088888840310356552,
)  # fmt: skip


@_function
def _tanh(x: _Vector) -> _Vector:
    # e / (e + 2) of e = exp(2|x|) - 1: never above 1, and good to the last bits at both ends. A quotient of polynomials
    # is two instructions shorter in floats, but near 1 its roundings add up to 5 ulp, some of them beyond 1.
    size = x.abs().at_most(20)
    if x.single:
        # ln 2 needs no second part: where n is large enough for that to matter, tanh is 1.
        t = size.multiply_add(2 * _LOG2_E, _magic(x))
        r = (t - _magic(x)).multiply_add(-0.5 * math.log(2), size)
        power = _power_of_two(t)
        e = (power * r).multiply_add(r.polynomial(_EXPM1_OF_DOUBLE), power - 1)
    else:
        t, _, r = _reduced(2 * size)
        power = _power_of_two(t)
        e = power.multiply_add((r * r).multiply_add(r.polynomial(_EXP[x.mantissa]), r), power - 1)
    return (e / (e + 2)).with_sign_of(x)


# Logarithms: x = 2^k · (1 + f) with 1 + f between √½ and √2, s = f / (2 + f), and
# log(1 + f) = f - f²/2 + s·(f²/2 + R) where R = log((1 + s) / (1 - s)) / s - 2.

# R / s² in terms of s², for |s| <= 0.1718
_LOG = {
    23: (0.66666775903981884296, 0.39977560523651607135, 0.29871914601572414247),
    52: (
        0.66666666666667311336, 0.39999999999429948719, 0.28571428739882674158, 0.22222198765232378897,
        0.18183556951600076087, 0.15314184931516897745, 0.14795064457683791327,
    ),
}  # fmt: skip
_SQRT_HALF = 0.70703125  # few digits are enough


def _exponent(x: _Vector, raised: ir.Value | None = None) -> tuple[_Vector, _Vector]:
    """(k, f) of a positive normal number; where ``raised``, x was scaled up by 2^(mantissa + 1)."""
    b, lowest = x.builder, x.bits_of(_SQRT_HALF)
    bits = b.add(x.bits(), x.whole(x.bits_of(1.0) - lowest))
    f = x.number(b.add(b.and_(bits, x.whole((1 << x.mantissa) - 1)), x.whole(lowest))) - 1
    # AVX2 has no conversion of 64-bit integers: make it the end of a mantissa.
    k = x.number(b.or_(b.lshr(bits, x.whole(x.mantissa)), x.whole(x.bits_of(2.0**x.mantissa))))
    offset = x.new(x.lift(2.0**x.mantissa + x.bias))
    if raised is not None:
        offset = offset.replaced(raised, 2.0**x.mantissa + x.bias + x.mantissa + 1)
    return k - offset, f


def _raised(x: _Vector) -> tuple[_Vector, ir.Value]:
    """Without denormals: where these were, scaled up by 2^(mantissa + 1)."""
    tiny = x.compare("<", 2.0 ** (1 - x.bias))
    return x.replaced(tiny, x * 2.0 ** (x.mantissa + 1)), tiny


def _log_limits(log: _Vector, x: _Vector) -> _Vector:
    """What the logarithm of x is at and below zero, at infinity and of NaN."""
    log = x.replaced(x.compare("<", math.inf), log)
    edge = x.new(x.lift(math.nan)).replaced(x.compare("==", 0), -math.inf)
    return log.replaced(x.compare("<=", 0), edge)


def _log_sum(k: _Vector, f: _Vector, correction: _Vector | None = None) -> _Vector:
    high, low = _LN2[f.mantissa]
    s = f / (f + 2)
    z, half_square = s * s, f * f * 0.5
    small = s * (half_square + z * z.polynomial(_LOG[f.mantissa]))
    small = k.multiply_add(low, small if correction is None else small + correction)
    return k.multiply_add(high, f - (half_square - small))


@_function
def _log(x: _Vector) -> _Vector:
    return _log_limits(_log_sum(*_exponent(*_raised(x))), x)


@_function
def _log1p(x: _Vector) -> _Vector:
    u = x + 1
    part = u - 1
    lost = (1 - (u - part)) + (x - part)  # u + lost is 1 + x exactly
    return _log_limits(_log_sum(*_exponent(u), lost / u), u).with_sign_of(x)


def _long_log(x: _Vector) -> tuple[_Vector, _Vector]:
    """The logarithm of a positive number as a sum of two, good to about half as many digits again."""
    high, low = _LN2[x.mantissa]
    k, f = _exponent(*_raised(x))
    s = f / (f + 2)
    z, short = s * s, f.cut()
    square, square_rest = short * short * 0.5, (f - short) * (f + short) * 0.5
    small = s * (square + (square_rest + z * z.polynomial(_LOG[f.mantissa])))
    small = k.multiply_add(low, small) - square_rest
    first = k * high
    second = first + f
    third = second - square
    small = ((f - (second - first)) + ((second - third) - square)) + small
    result = third + small
    return _log_limits(result, x), small - (result - third)


@_function
def _pow(x: _Vector, y: _Vector) -> _Vector:
    b = x.builder
    if x.single:
        wide = ir.VectorType(ir.DoubleType(), x.type.count)
        return x.new(b.fptrunc(emit(b, "pow", b.fpext(x.value, wide), b.fpext(y.value, wide)), x.type))
    size = x.abs()
    log, log_rest = _long_log(size)
    log_short, y_short = log.cut(), y.cut()
    exponent = (y_short * log_short).where(log.abs().compare("<", math.inf), y * log)  # y_short may be 0, y not
    rest = y_short * (log - log_short + log_rest) + (y - y_short) * log
    rest = rest.where(exponent.abs().compare("<", 1000), 0)  # beyond, it is NaN or no matter
    low, high = _EXP_LIMITS[x.mantissa]
    _, n, r = _reduced(exponent.at_most(high).at_least(low))
    result = _scaled_exp(n, r + rest)
    endless = y.abs().compare("==", math.inf)
    one_to_infinity = b.and_(size.compare("==", 1), endless)
    result = result.replaced(b.or_(one_to_infinity, b.or_(x.compare("==", 1), y.compare("==", 0))), 1)
    half = y * 0.5
    broken, odd = y.compare("!=", y.intrinsic("trunc")), half.compare("!=", half.intrinsic("trunc"))
    one = x.new(x.lift(1))
    signed = result * one.where(b.not_(odd), one.with_sign_of(x))
    result = signed.where(b.not_(broken), result)
    negative = b.and_(x.compare("<", 0), x.compare(">", -math.inf))
    return result.replaced(b.and_(negative, b.and_(broken, b.not_(endless))), math.nan)


# Sine and cosine: x = n·π/2 + r with |r| <= π/4; the last two bits of n say which of the two, and its sign.

# π/2 in parts, all but the last so short that their products with n are exact.
_HALF_PI = {
    23: (1.5703125, 0.0004837512969970703, 7.549533620476723e-08, 2.5633440682570896e-12),
    52: (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21),
}
# (sin(r)/r - 1) / r² in terms of r², |r| <= 0.79
_SIN = {
    23: (-0.16666654649351044716, 0.0083321577852542678906, -0.00019514378031726182686),
    52: (
        -0.16666666666666630731, 0.0083333333333220147347, -0.00019841269829446871305, 2.7557313555648371538e-6,
        -2.5050735361445243233e-8, 1.5895406597208213722e-10,
    ),
}  # fmt: skip
# (cos(r) - 1 + r²/2) / r⁴ in terms of r², |r| <= 0.79
_COS = {
    23: (0.041666646524993795327, -0.0013887347479806742036, 0.000024435867458593102753),
    52: (
        0.041666666666666609303, -0.0013888888888875391004, 0.000024801587290081768584, -2.7557314483783359494e-7,
        2.0875736657725238545e-9, -1.1360151106541774577e-11,
    ),
}  # fmt: skip


def _wave(x: _Vector, quarters: int) -> _Vector:
    """The sine of x + quarters · π/2."""
    b, magic = x.builder, 1.5 * 2**x.mantissa
    t = x.multiply_add(2 / math.pi, magic)
    n, r = t - magic, x
    for part in _HALF_PI[x.mantissa]:
        r = n.multiply_add(-part, r)
    r = r.at_most(1).at_least(-1)  # for the x that are too large, something between -1 and 1
    z = r * r
    sine = r * z.multiply_add(z.polynomial(_SIN[x.mantissa]), 1)
    cosine = z.multiply_add(z.multiply_add(z.polynomial(_COS[x.mantissa]), -0.5), 1)
    quadrant = b.add(t.bits(), x.whole(quarters))
    is_cosine = b.icmp_unsigned("!=", b.and_(quadrant, x.whole(1)), x.whole(0))
    sign = b.shl(b.and_(quadrant, x.whole(2)), x.whole(30 if x.single else 62))
    return x.number(b.xor(sine.replaced(is_cosine, cosine).bits(), sign))


@_function
def _sin(x: _Vector) -> _Vector:
    return _wave(x, 0)


@_function
def _cos(x: _Vector) -> _Vector:
    return _wave(x, 1)


# erf(x) / x as P(x²) / Q(x²): for floats |x| <= 3.95, where erf is 1; for doubles |x| <= 1
_ERF_P = {
    23: (
        1.1283791437405663554, 0.19155170478515896438, 0.05287563522115264448, 0.0038082226447613029537,
        0.00028468929234968215567, 2.0258996562689109473e-6,
    ),
    52: (
        1.1283791670955125747, 0.14350661994682507073, 0.045483607506801053811, 0.0018774096210205338581,
        0.00019688467510361225046, 7.7715300703305515272e-8,
    ),
}  # fmt: skip
_ERF_Q = {
    23: (
        1.0, 0.50309095379100920582, 0.11456020387198241752, 0.01505521183737227148, 0.0011707409351897904527,
        0.000037831796562418495656,
    ),
    52: (
        1.0, 0.46051276391092573035, 0.093813052276219977738, 0.010693075800214782924, 0.00069249785897576681038,
        0.000020810241075547697836,
    ),
}  # fmt: skip
# (1 - erf(x))·e^(x²) as P(x) / Q(x) for 0.99 <= x <= 6
_ERFC_P = (
    0.99999982632994601881, 1.4094118010168554885, 0.97273286916225234713, 0.38736142730666182846,
    0.088695714323365616778, 0.0095744068239996287613,
)  # fmt: skip
_ERFC_Q = (
    1.0, 2.5377891734362531767, 2.8363301418947804692, 1.8022531420269153473, 0.69511199863371172043,
    0.15720618650269390681, 0.016970277731691466674,
)  # fmt: skip


@_function
def _erf(x: _Vector) -> _Vector:
    p, q = _ERF_P[x.mantissa], _ERF_Q[x.mantissa]
    if x.single:
        # As doubles: in floats, roundings near 1 add up to 5 ulp, some of them beyond 1.
        wide = x.new(x.builder.fpext(x.value, ir.VectorType(ir.DoubleType(), x.type.count)))
        wide = wide.at_most(3.925).at_least(-3.925)
        z = wide * wide
        return x.new(x.builder.fptrunc((wide * z.polynomial(p) / z.polynomial(q)).value, x.type))
    size = x.abs().at_most(6)
    z = size * size
    below = size.compare("<", 1)
    denominator = size.polynomial(_ERFC_Q)
    numerator = denominator - _call("exp", -z) * size.polynomial(_ERFC_P)
    numerator = numerator.replaced(below, size * z.polynomial(p))
    return (numerator / denominator.replaced(below, z.polynomial(q))).with_sign_of(x)
