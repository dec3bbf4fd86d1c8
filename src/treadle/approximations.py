"""Polynomials for the exponential function, for whoever writes it in another language: LLVM's, or C.

The polynomials are minimax approximations, computed for this file by Remez' exchange in 50-digit arithmetic and then
rounded; lowest power first. Each table has an entry for floats and one for doubles, by the bits of their mantissas.
e^x = 2^n · e^r where x = n·ln 2 + r with |r| <= ln 2 / 2.
"""

FLOAT, DOUBLE = 23, 52
"""Bits of mantissas, by which tables of constants are keyed."""

# ln 2 in two parts; the first is short, so that its product with an exponent is exact.
LN2 = {FLOAT: (0.693145751953125, 1.428606765330187e-06), DOUBLE: (0.6931471805598903, 5.497923018708371e-14)}
# (e^r - 1 - r) / r² for |r| <= 0.3473
EXP = {
    FLOAT: (
        0.50000000546005881, 0.16666547684686361, 0.041666297878603081, 0.0083661686050291546, 0.0013945664755181489,
    ),
    DOUBLE: (
        0.50000000000000036793, 0.16666666666666682616, 0.04166666666658986105, 0.0083333333333165410876,
        0.0013888888928191472468, 0.00019841269899246960121, 0.000024801508614365404292, 2.7557230986397322697e-6,
        2.7624912756617181341e-7, 2.5113609392780791485e-8,
    ),
}  # fmt: skip
# Below the first e^x is zero, above the second infinite.
EXP_LIMITS = {FLOAT: (-104.0, 89.0), DOUBLE: (-746.0, 710.0)}
