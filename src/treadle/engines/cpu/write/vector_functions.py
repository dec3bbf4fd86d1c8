"""Elementary functions on LLVM vectors, made of arithmetic alone: nothing that is generated calls a library.

Each function becomes one internal LLVM function per module and vector type (``tanh.v16f32``), made when first used and
always inlined. Vectors may have any number of lanes, of float or of double. Results are those of PyTorch up to a few
ulp (the tests say how many), also for NaN, infinities and signed zeros; sine and cosine want |x| up to 1e6 (float) or
1e9 (double).

The polynomials and quotients of polynomials are minimax approximations, computed for this file by Remez' exchange in
50-digit arithmetic and then rounded; beside each stands what it approximates, where. Lowest power first.
"""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from treadle.approximations import DOUBLE, EXP, EXP_LIMITS, FLOAT, LN2
from treadle.engines.cpu.write.vector import Vector, suffix


def emit(builder: ir.IRBuilder, name: str, *operands: ir.Value) -> ir.Value:
    """The function of that name (`FUNCTIONS`) of vectors of one type, as a call that the optimiser inlines."""
    first: Any = operands[0]
    type = first.type
    full_name = f"{name}.{suffix(type)}"
    function = builder.module.globals.get(full_name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(type, [type] * len(operands)), full_name)
        function.linkage = "internal"
        function.attributes.add("alwaysinline")
        function.attributes.add("nounwind")
        body = ir.IRBuilder(function.append_basic_block())
        body.ret(FUNCTIONS[name](*(Vector(body, argument) for argument in function.args)).value)
    return builder.call(function, operands)


def _call(name: str, *operands: Vector) -> Vector:
    return operands[0].new(emit(operands[0].builder, name, *(o.value for o in operands)))


# Exponentials: x = n·ln 2 + r with |r| <= ln 2 / 2, then 2^n · e^r.

_LOG2_E = 1 / math.log(2)
# e^r for |r| <= 0.3473, a degree less than the above
_SHORT_EXP = (
    1.0, 0.99999970461243874, 0.4999914370742177, 0.16667642713744134, 0.041898759822533380, 0.0082901691652267257,
)  # fmt: skip


def _magic(x: Vector) -> float:
    """Added to a small number, it leaves in the low bits the nearest integer, plus the bias of exponents."""
    return 1.5 * 2**x.mantissa + x.bias


def _power_of_two(t: Vector) -> Vector:
    """2^n of t = n + magic: zero for the n below those of normal numbers, infinity for the n above."""
    return t.number(t.builder.shl(t.bits(), t.whole(t.mantissa)))


def _reduced(x: Vector) -> tuple[Vector, Vector, Vector]:
    """(n + magic, n, r) for e^x = 2^n · e^r."""
    high, low = LN2[x.mantissa]
    t = x.multiply_add(_LOG2_E, _magic(x))
    n = t - _magic(x)
    return t, n, n.multiply_add(-low, n.multiply_add(-high, x))


def _scaled_exp(n: Vector, r: Vector) -> Vector:
    """2^n · e^r, in two factors that stay normal numbers while their product may not."""
    half = n.multiply_add(0.5, _magic(n))
    rest = n - (half - _magic(n)) + _magic(n)
    return r.polynomial((1, 1, *EXP[n.mantissa])) * _power_of_two(half) * _power_of_two(rest)


def _exp(x: Vector) -> Vector:
    low, high = EXP_LIMITS[x.mantissa]
    _, n, r = _reduced(x.at_most(high).at_least(low))
    return _scaled_exp(n, r)


def _expm1(x: Vector) -> Vector:
    t, _, r = _reduced(x.at_most(EXP_LIMITS[x.mantissa][1]).at_least(-40))
    tail = (r * r).multiply_add(r.polynomial(EXP[x.mantissa]), r)
    half = _power_of_two(t - 1)  # not 2^n, which may be infinite where the result is not yet
    return (2 * half.multiply_add(tail, half - 0.5)).with_sign_of(x)


def _sigmoid(x: Vector) -> Vector:
    # 1 / (1 + 2^n·e^r) of -x: scaling is part of the addition, and 2^n is 0 or infinity in time for the limits.
    limit, (high, low) = EXP_LIMITS[x.mantissa][1], LN2[x.mantissa]
    coefficients = _SHORT_EXP if x.single else (1, 1, *EXP[x.mantissa])
    x = x.at_most(limit - 1).at_least(-limit)
    t = x.multiply_add(-_LOG2_E, _magic(x))
    n = t - _magic(x)
    minus_r = n.multiply_add(low, n.multiply_add(high, x))
    power = minus_r.polynomial([c * (-1) ** i for i, c in enumerate(coefficients)])
    return 1 / _power_of_two(t).multiply_add(power, 1)


def _logsigmoid(x: Vector) -> Vector:
    return x.at_most(0) - _call("log1p", _call("exp", -x.abs()))


# (e^2r - 1) / r for |r| <= 0.174
_EXPM1_OF_DOUBLE = (
    2.0000000217689048, 1.9999999231902218, 1.3333202913698642, 0.66667429807630521, 0.26781935676592348,
    0.088888840310356552,
)  # fmt: skip


def _tanh(x: Vector) -> Vector:
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
        e = power.multiply_add((r * r).multiply_add(r.polynomial(EXP[x.mantissa]), r), power - 1)
    return (e / (e + 2)).with_sign_of(x)


# Logarithms: x = 2^k · (1 + f) with 1 + f between √½ and √2, s = f / (2 + f), and
# log(1 + f) = f - f²/2 + s·(f²/2 + R) where R = log((1 + s) / (1 - s)) / s - 2.

# R / s² in terms of s², for |s| <= 0.1718
_LOG = {
    FLOAT: (0.66666775903981884296, 0.39977560523651607135, 0.29871914601572414247),
    DOUBLE: (
        0.66666666666667311336, 0.39999999999429948719, 0.28571428739882674158, 0.22222198765232378897,
        0.18183556951600076087, 0.15314184931516897745, 0.14795064457683791327,
    ),
}  # fmt: skip
_SQRT_HALF = 0.70703125  # few digits are enough


def _exponent(x: Vector, raised: ir.Value | None = None) -> tuple[Vector, Vector]:
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


def _raised(x: Vector) -> tuple[Vector, ir.Value]:
    """Without denormals: where these were, scaled up by 2^(mantissa + 1)."""
    tiny = x.compare("<", 2.0 ** (1 - x.bias))
    return x.replaced(tiny, x * 2.0 ** (x.mantissa + 1)), tiny


def _log_limits(log: Vector, x: Vector) -> Vector:
    """What the logarithm of x is at and below zero, at infinity and of NaN."""
    log = x.replaced(x.compare("<", math.inf), log)
    edge = x.new(x.lift(math.nan)).replaced(x.compare("==", 0), -math.inf)
    return log.replaced(x.compare("<=", 0), edge)


def _log_sum(k: Vector, f: Vector, correction: Vector | None = None) -> Vector:
    high, low = LN2[f.mantissa]
    s = f / (f + 2)
    z, half_square = s * s, f * f * 0.5
    small = s * (half_square + z * z.polynomial(_LOG[f.mantissa]))
    small = k.multiply_add(low, small if correction is None else small + correction)
    return k.multiply_add(high, f - (half_square - small))


def _log(x: Vector) -> Vector:
    return _log_limits(_log_sum(*_exponent(*_raised(x))), x)


def _log1p(x: Vector) -> Vector:
    u = x + 1
    part = u - 1
    lost = (1 - (u - part)) + (x - part)  # u + lost is 1 + x exactly
    return _log_limits(_log_sum(*_exponent(u), lost / u), u).with_sign_of(x)


def _long_log(x: Vector) -> tuple[Vector, Vector]:
    """The logarithm of a positive number as a sum of two, good to about half as many digits again."""
    high, low = LN2[x.mantissa]
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


def _pow(x: Vector, y: Vector) -> Vector:
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
    low, high = EXP_LIMITS[x.mantissa]
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
    FLOAT: (1.5703125, 0.0004837512969970703, 7.549533620476723e-08, 2.5633440682570896e-12),
    DOUBLE: (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21),
}
# (sin(r)/r - 1) / r² in terms of r², |r| <= 0.79
_SIN = {
    FLOAT: (-0.16666654649351044716, 0.0083321577852542678906, -0.00019514378031726182686),
    DOUBLE: (
        -0.16666666666666630731, 0.0083333333333220147347, -0.00019841269829446871305, 2.7557313555648371538e-6,
        -2.5050735361445243233e-8, 1.5895406597208213722e-10,
    ),
}  # fmt: skip
# (cos(r) - 1 + r²/2) / r⁴ in terms of r², |r| <= 0.79
_COS = {
    FLOAT: (0.041666646524993795327, -0.0013887347479806742036, 0.000024435867458593102753),
    DOUBLE: (
        0.041666666666666609303, -0.0013888888888875391004, 0.000024801587290081768584, -2.7557314483783359494e-7,
        2.0875736657725238545e-9, -1.1360151106541774577e-11,
    ),
}  # fmt: skip


def _wave(x: Vector, quarters: int) -> Vector:
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


# erf(x) / x as P(x²) / Q(x²): for floats |x| <= 3.95, where erf is 1; for doubles |x| <= 1
_ERF_P = {
    FLOAT: (
        1.1283791437405663554, 0.19155170478515896438, 0.05287563522115264448, 0.0038082226447613029537,
        0.00028468929234968215567, 2.0258996562689109473e-6,
    ),
    DOUBLE: (
        1.1283791670955125747, 0.14350661994682507073, 0.045483607506801053811, 0.0018774096210205338581,
        0.00019688467510361225046, 7.7715300703305515272e-8,
    ),
}  # fmt: skip
_ERF_Q = {
    FLOAT: (
        1.0, 0.50309095379100920582, 0.11456020387198241752, 0.01505521183737227148, 0.0011707409351897904527,
        0.000037831796562418495656,
    ),
    DOUBLE: (
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


def _erf(x: Vector) -> Vector:
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


def _sign(x: Vector) -> Vector:
    # Zero for NaN, as PyTorch's.
    zero = x.new(x.lift(0))
    return zero.replaced(x.compare(">", 0), 1).replaced(x.compare("<", 0), -1)


# Which zero is the larger is nobody's concern, and x86 needs three more instructions to tell.
_ANY_ZERO = ("nsz",)

FUNCTIONS: dict[str, Callable[..., Vector]] = {
    "neg": lambda x: -x,
    "abs": Vector.abs,
    "sqrt": lambda x: x.intrinsic("sqrt"),
    "rsqrt": lambda x: 1 / x.intrinsic("sqrt"),
    "reciprocal": lambda x: 1 / x,
    "floor": lambda x: x.intrinsic("floor"),
    "ceil": lambda x: x.intrinsic("ceil"),
    "trunc": lambda x: x.intrinsic("trunc"),
    "round": lambda x: x.intrinsic("roundeven"),
    "sign": _sign,
    "maximum": lambda x, y: x.intrinsic("maximum", y, fastmath=_ANY_ZERO),
    "minimum": lambda x, y: x.intrinsic("minimum", y, fastmath=_ANY_ZERO),
    "exp": _exp,
    "expm1": _expm1,
    "sigmoid": _sigmoid,
    "logsigmoid": _logsigmoid,
    "tanh": _tanh,
    "log": _log,
    "log1p": _log1p,
    "pow": _pow,
    "sin": lambda x: _wave(x, 0),
    "cos": lambda x: _wave(x, 1),
    "erf": _erf,
}
"""By name: the formula, of vectors of one type."""
