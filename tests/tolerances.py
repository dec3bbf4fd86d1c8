"""How equal is equal: once per precision, relative to the norm of the reference, the same for every test."""

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}

# A reference may vanish (a gradient that cancels, a state of zeros); below this norm the tolerance stops shrinking.
SMALLEST_NORM = 1e-3


def assert_close(actual: Tensor, expected: Tensor, precision: torch.dtype | None = None, what: str = "") -> None:
    """``actual`` differs from the reference by at most the tolerance of the precision, times the reference's norm.

    The precision is the coarser of the two dtypes unless given. Whole numbers and booleans must be equal.
    """
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, but expected {list(expected.shape)}"
    if not expected.dtype.is_floating_point:
        assert torch.equal(actual, expected), f"{what}: {actual} is not {expected}"
        return
    precision = precision or max(actual.dtype, expected.dtype, key=TOLERANCES.__getitem__)
    actual, expected = actual.detach().double(), expected.detach().double()
    assert expected.isfinite().all(), f"{what}: the reference itself is not finite"
    allowed = TOLERANCES[precision] * max(expected.norm().item(), SMALLEST_NORM)
    difference = (actual - expected).norm().item()
    assert difference <= allowed, f"{what}: off by {difference:.3g}, more than {allowed:.3g}\n{actual}\n{expected}"


def assert_all_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], precision: torch.dtype | None = None
) -> None:
    """`assert_close` for everything that has a name."""
    assert list(actual) == list(expected)
    for name, reference in expected.items():
        assert_close(actual[name], reference, precision, name)
