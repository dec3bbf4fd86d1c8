"""The gate in front of every timing: both sides must have computed the same thing."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.tolerances import SMALLEST_NORM, TOLERANCES


@dataclass(frozen=True)
class Check:
    """The largest error of a side, relative to the norm of the reference, and where it is."""

    side: str
    error: float
    tolerance: float
    where: str

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


def compare(
    side: str, actual: Mapping[str, Tensor], reference: Mapping[str, Tensor], precision: torch.dtype = torch.float32
) -> Check:
    """Compare everything that has a name, values and gradients alike.

    Raises:
        ValueError: the two sides have not the same names, or a shape differs.
    """
    if actual.keys() != reference.keys():
        raise ValueError(f"{side} computes {sorted(actual)}, but the reference has {sorted(reference)}")
    errors = {name: relative_error(actual[name], expected) for name, expected in reference.items()}
    where = max(errors, key=lambda name: float("inf") if errors[name] != errors[name] else errors[name])
    return Check(side, errors[where], TOLERANCES[precision], where)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of the reference."""
    if actual.shape != expected.shape:
        raise ValueError(f"the shape is {list(actual.shape)}, but the reference has {list(expected.shape)}")
    actual, expected = actual.detach().double(), expected.detach().double()
    return ((actual - expected).norm() / expected.norm().clamp(min=SMALLEST_NORM)).item()
