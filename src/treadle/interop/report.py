"""What became of an export or an import: what was compared, and how far both sides agree."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from treadle.errors import InteropError


@dataclasses.dataclass(frozen=True)
class Report:
    """How an export or an import came out.

    Attributes:
        path: the file that was written or read.
        compared: what ran on both sides, in words; empty if nothing could.
        difference: the largest difference of outputs and states, relative to the largest number of each; None if
            nothing was compared.
        notes: what is other than in the network, a sentence each.
    """

    path: str
    compared: str
    difference: float | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = self.difference is not None
        agreement = f"agrees to {self.difference:.1e} ({self.compared})" if known else "not compared"
        return "\n".join([f"{self.path}: {agreement}", *(f"  {note}" for note in self.notes)])


def relative_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference of finite numbers, relative to the largest one of each tensor.

    Infinite where one side is NaN, or infinite, and the other is something else; and where no number of a tensor is
    finite, so that nothing can be compared.
    """
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        one, other = one.double().reshape(-1), other.double().reshape(-1)
        if not one.numel():
            continue
        finite = other.isfinite()
        alike = (one == other) | (one.isnan() & other.isnan()) | (finite & one.isfinite())
        if not finite.any() or not alike.all():
            return float("inf")
        scale = max(other[finite].abs().max().item(), 1e-3)
        worst = max(worst, ((one - other)[finite].abs().max() / scale).item())
    return worst


def check_agreement(difference: float, tolerance: float, what: str, done: str = "written") -> None:
    """Refuse a difference above the tolerance.

    Raises:
        InteropError: it is above.
    """
    if difference == float("inf"):
        raise InteropError(
            f"{what} cannot be compared with the network: on the inputs that treadle tried, numbers of one or both are"
            " infinite or NaN. Where the network alone gives finite ones, that is a fault of treadle: please report it."
            f" Where it does not, its weights or inputs are too large. Nothing was {done}",
            difference,
        )
    if not difference <= tolerance:
        raise InteropError(
            f"{what} differs from the network by {difference:.1e}, more than tolerance={tolerance:g}: nothing was"
            f" {done}",
            difference,
        )


def check_finite(wanted: Sequence[Tensor]) -> None:
    """Refuse to compare with numbers that are not finite.

    Raises:
        InteropError: some are not.
    """
    if not all(one.isfinite().all() for one in wanted):
        raise InteropError(
            "the model cannot be compared with what was read: on the inputs that treadle tried, some of its numbers are"
            " infinite or NaN; pass inputs= on which all are finite"
        )
