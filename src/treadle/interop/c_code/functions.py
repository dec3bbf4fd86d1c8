"""The elementary functions that C compilers are to vectorise: arithmetic alone, no calls, no branches.

What the C library has and is met rarely in a step (logarithms, sine, erf, powers) is left to it.
"""

import math

from treadle.approximations import EXP, EXP_LIMITS, LN2

LIBRARY = {
    "log": "log", "log1p": "log1p", "sin": "sin", "cos": "cos", "erf": "erf", "sqrt": "sqrt", "floor": "floor",
    "ceil": "ceil", "trunc": "trunc", "round": "nearbyint", "abs": "fabs", "pow": "pow", "expm1": "expm1",
}  # fmt: skip
"""Of C99's <math.h>; the name for float ends in f."""

OWN = ("exp", "sigmoid", "tanh", "logsigmoid", "maximum", "minimum", "sign")
"""Those that are written into the file where they are needed."""
_NEEDS = {"sigmoid": ("exp",), "logsigmoid": ("exp",)}


def own_functions(names: set[tuple[str, str]], prefix: str) -> list[str]:
    """The texts of functions, each with the type that it is of, those first that others call."""
    wanted = set(names)
    for name, type in names:
        wanted |= {(needed, type) for needed in _NEEDS.get(name, ())}
    texts = [_text(name, type, prefix) for name in OWN for type in ("float", "double") if (name, type) in wanted]
    return [_INLINE.replace("NAME", prefix.upper()), *texts] if texts else []


_INLINE = """#if defined(__GNUC__)
#define NAME_INLINE static inline __attribute__((always_inline))
#else
#define NAME_INLINE static inline
#endif
"""
"""A loop that calls a function is not vectorised."""


def function_name(name: str, type: str, prefix: str) -> str:
    """What a function is called in the file."""
    if name in LIBRARY:
        return LIBRARY[name] + ("f" if type == "float" else "")
    return f"{prefix}_{name}" + ("" if type == "float" else "_double")


def literal(number: float, type: str) -> str:
    """A number as C reads it, the same to the last bit."""
    if type not in ("float", "double"):
        return str(int(number))
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INFINITY" if number > 0 else "(-INFINITY)"
    text = f"{number:.9g}" if type == "float" else repr(float(number))
    if "." not in text and "e" not in text:
        text += ".0"
    return (f"({text}f)" if number < 0 else f"{text}f") if type == "float" else f"({text})" if number < 0 else text


def _text(name: str, type: str, prefix: str) -> str:
    called = function_name(name, type, prefix)
    mantissa = 23 if type == "float" else 52
    inline = f"{prefix.upper()}_INLINE"

    def number(value: float) -> str:
        return literal(value, type)

    if name in ("maximum", "minimum"):
        sign = ">" if name == "maximum" else "<"
        return f"""/* NaN if one of them is. */
{inline} {type} {called}({type} a, {type} b)
{{
    return a {sign} b || a != a ? a : b;
}}
"""
    one, zero = number(1), number(0)
    if name == "sign":
        return f"""{inline} {type} {called}({type} x)
{{
    return ({type})((x > {zero}) - (x < {zero}));
}}
"""
    if name == "sigmoid":
        exp = function_name("exp", type, prefix)
        return f"""{inline} {type} {called}({type} x)
{{
    return {one} / ({one} + {exp}(-x));
}}
"""
    if name == "logsigmoid":
        exp, log1p = function_name("exp", type, prefix), function_name("log1p", type, prefix)
        return f"""{inline} {type} {called}({type} x)
{{
    return (x < {zero} ? x : {zero}) - {log1p}({exp}(x < {zero} ? x : -x));
}}
"""
    whole = "uint32_t" if type == "float" else "uint64_t"
    bias = 127 if type == "float" else 1023
    magic = number(1.5 * 2**mantissa + bias)
    high, low = LN2[mantissa]
    tail = _horner(EXP[mantissa], "r", number)
    power = f"""{inline} {type} {called}_power({type} t)
{{
    /* 2 to the whole number whose bits, plus the bias of exponents, are the lowest of t. */
    union {{ {type} number; {whole} bits; }} both;
    both.number = t;
    both.bits <<= {mantissa};
    return both.number;
}}
"""
    reduce = f"""    const {type} n = t - {magic};
    const {type} r = (x - n * {number(high)}) - n * {number(low)};
    const {type} e = r + r * r * ({tail});"""
    if name == "exp":
        least, most = EXP_LIMITS[mantissa]
        return f"""{power}
{inline} {type} {called}({type} x)
{{
    /* x = n log 2 + r, 2^n in two factors that stay normal numbers while their product may not. */
    x = x > {number(most)} ? {number(most)} : x;
    x = x < {number(least)} ? {number(least)} : x;
    const {type} t = x * {number(1 / math.log(2))} + {magic};
{reduce}
    const {type} half = n * {number(0.5)} + {magic};
    return ({one} + e) * {called}_power(half) * {called}_power(n - (half - {magic}) + {magic});
}}
"""
    return f"""{power}
{inline} {type} {called}({type} y)
{{
    /* q / (q + 2) of q = exp(2 |y|) - 1: good to the last bits at both ends. */
    {type} x = {number(2)} * (y < {zero} ? -y : y);
    x = x > {number(40)} ? {number(40)} : x;
    const {type} t = x * {number(1 / math.log(2))} + {magic};
{reduce}
    const {type} power = {called}_power(t);
    const {type} q = power * e + (power - {one});
    const {type} size = q / (q + {number(2)});
    return y < {zero} ? -size : size;
}}
"""


def _horner(coefficients: tuple[float, ...], x: str, number: "object") -> str:
    text = number(coefficients[-1])  # pyright: ignore[reportCallIssue]
    for coefficient in reversed(coefficients[:-1]):
        text = f"{number(coefficient)} + {x} * ({text})"  # pyright: ignore[reportCallIssue]
    return text
