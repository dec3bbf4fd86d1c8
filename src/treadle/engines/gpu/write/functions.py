"""Functions that Triton's language lacks, for float32 and float64 alike, on a GPU and in Triton's interpreter.

Kernels import this module, and nothing else does: it needs triton.
"""

# pyright: reportOperatorIssue=false, reportReturnType=false, reportAttributeAccessIssue=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def expm1(x):
    """Kahan's way: what rounding does to exp(x) it does to its logarithm as well."""
    u = tl.exp(x)
    v = u - 1
    l = tl.log(u)
    usual = tl.where(l == 0, x, v * x / tl.where(l == 0, 1.0, l))
    return tl.where(u == 1, x, tl.where(v == -1, -1.0, tl.where(u == float("inf"), u, usual)))


@triton.jit
def tanh(x):
    """By expm1, which is exact where exp(x) is near 1."""
    m = expm1(-2 * tl.abs(x))
    big = -m / (2 + m)
    return tl.where(x < 0, -big, big)


@triton.jit
def tanh_float32(x):
    """By exp; near 0 by a polynomial, whose error is far below that of float32."""
    a = tl.abs(x)
    e = tl.exp(-2 * a)
    big = (1 - e) / (1 + e)
    q = x * x
    small = a + a * q * (-1 / 3 + q * (2 / 15 + q * (-17 / 315 + q * (62 / 2835 + q * (-1382 / 155925)))))
    big = tl.where(a < 0.25, small, big)
    return tl.where(x < 0, -big, big)


@triton.jit
def log1p(x):
    """The logarithm of 1 + x, with what rounding took from 1 + x given back."""
    u = 1 + x
    d = u - 1
    whole = tl.log(u)
    usual = tl.where(d == 0, x, whole * (x / tl.where(d == 0, 1.0, d)))
    return tl.where(u == float("inf"), u, usual)


@triton.jit
def sigmoid(x):
    """Without overflow."""
    e = tl.exp(-tl.abs(x))
    s = 1 / (1 + e)
    return tl.where(x < 0, e * s, s)


@triton.jit
def logsigmoid(x):
    """Without overflow."""
    return tl.minimum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def rounded(x):
    """To the nearest whole number, to the even one if there are two."""
    f = tl.floor(x)
    d = x - f
    odd = (f - 2 * tl.floor(f * 0.5)) != 0
    return tl.where(d < 0.5, f, tl.where(d > 0.5, f + 1, tl.where(odd, f + 1, f)))


@triton.jit
def sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x * 0)).to(x.dtype)


@triton.jit
def power(x, y):
    """x to the power of y, which is whole where x is negative."""
    a = tl.exp(y * tl.log(tl.abs(x)))
    whole = tl.floor(y) == y
    odd = (y - 2 * tl.floor(y * 0.5)) == 1
    a = tl.where(y == 0, 1.0, tl.where(x == 0, tl.where(y > 0, 0.0, float("inf")), a))
    a = tl.where((x < 0) & odd, -a, a)
    return tl.where((x < 0) & (whole == 0), float("nan"), a).to(x.dtype)


@triton.jit
def as_bfloat16(x):
    """Rounded to bfloat16, but still float32."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def largest(x):
    """The largest number of each row, NaN where there is one."""
    found = tl.max(tl.where(x == x, x, float("-inf")), 1)[:, None]
    wrong = tl.sum(tl.where(x == x, 0.0, 1.0), 1)[:, None]
    return tl.where(wrong > 0, float("nan"), found).to(x.dtype)


@triton.jit
def meet(counter, target):
    """Wait until programs have been here so many times; all that they wrote before is seen after.

    Release and acquire, of a whole GPU, make one program's writes visible to the next; the barriers hand that on to and
    from the threads of a program, of which one counts. The programs have to run at once, or they wait for ever.
    """
    tl.debug_barrier()
    met = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") + 1
    while met < target:
        met = tl.atomic_add(counter, 0, sem="acq_rel", scope="gpu")
    tl.debug_barrier()
