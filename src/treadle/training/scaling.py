"""Columns brought to mean 0 and deviation 1, by what the training set says, and back."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.errors import DataError

LARGEST = 1e150
"""What can be squared."""
FINEST = 100
"""A column varies by so many steps of its numbers' own precision at least; with fewer, rounding is much of it."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What each column is shifted by and divided by.

    Attributes:
        names: of the columns.
        means: what is taken away, float64 [I].
        deviations: what the rest is divided by, float64 [I]; 1 for a column that is constant.

    Example:
        >>> import torch
        >>> from treadle.training.scaling import Scaling
        >>> scaling = Scaling.fit(["celsius"], [torch.tensor([[10.0], [20.0], [float("nan")], [30.0]])])
        >>> scaling.apply(torch.tensor([[20.0]]))
        tensor([[0.]])
        >>> scaling.undo(torch.tensor([[0.0]]))
        tensor([[20.]], dtype=torch.float64)
    """

    names: tuple[str, ...]
    means: Tensor
    deviations: Tensor

    @classmethod
    def fit(cls, names: Sequence[str], parts: Iterable[Tensor]) -> "Scaling":
        """The scaling of the training set alone: validation and test set must not be looked at.

        Parts are [N, I]; missing values (NaN) do not count.

        Raises:
            DataError: a column varies by less than its numbers can hold, or has numbers that nobody can square.
        """
        values = torch.cat([part.double() for part in parts])
        means = values.nanmean(0).nan_to_num(0)
        lowest, highest = values.nan_to_num(torch.inf).amin(0), values.nan_to_num(-torch.inf).amax(0)
        constant = lowest >= highest  # or there is nothing
        means = torch.where(lowest == highest, lowest, means)
        spread = (values - means).square().nanmean(0).nan_to_num(0).sqrt()
        columns = zip(names, *(part.tolist() for part in (lowest, highest, means, spread)), strict=True)
        for name, low, high, mean, varies in columns:
            largest = 0.0 if low > high else max(abs(low), abs(high))
            if largest > LARGEST:
                raise DataError(f"column {name!r} has numbers as large as {largest:.3g}: give it in other units")
            if varies < FINEST * math.ulp(largest) and not (low >= high and largest <= 2**53):
                raise DataError(
                    f"column {name!r} varies by {varies:.3g} around {mean:.16g}, where numbers of 64 bits are"
                    f" {math.ulp(largest):.3g} apart: subtract {mean:.16g} from it before it is written"
                )
        return cls(tuple(names), means, torch.where(constant, 1.0, spread))

    def apply(self, values: Tensor) -> Tensor:
        """Values [..., I] in their own units, scaled; float32.

        Raises:
            DataError: one is so far away from the training set that float32 cannot hold it.
        """
        scaled = ((values.double() - self.means) / self.deviations).float()
        if scaled.isinf().any():
            place = int(scaled.isinf().flatten(0, -2).any(0).nonzero()[0])
            far = values[..., place][scaled[..., place].isinf()][0]
            raise DataError(
                f"column {self.names[place]!r} has the value {far:.3g}, but was {self.means[place]:.3g} ±"
                f" {self.deviations[place]:.3g} in the training set: correct it"
            )
        return scaled

    def undo(self, values: Tensor) -> Tensor:
        """Scaled values [..., I] in their own units; float64."""
        return values.double() * self.deviations + self.means

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"names": list(self.names), "means": self.means.tolist(), "deviations": self.deviations.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Scaling":
        """The inverse of `as_json`.

        Raises:
            ValueError: there is not one name, mean and positive deviation for each column.
        """
        means, deviations = (torch.tensor(values[key], dtype=torch.float64) for key in ("means", "deviations"))
        names = tuple(values["names"])
        if not (all(isinstance(name, str) for name in names) and means.shape == deviations.shape == (len(names),)):
            raise ValueError("names, means and deviations")
        if not (means.isfinite().all() and deviations.isfinite().all() and (deviations > 0).all()):
            raise ValueError("means or deviations that are no numbers")
        return cls(names, means, deviations)


def fill_previous(values: Tensor) -> Tensor:
    """Scaled values [T, I] without gaps: what is missing is as it was last; before there was anything, the mean, 0.

    Looking back only, so that it can be done live.

    Example:
        >>> import torch
        >>> from treadle.training.scaling import fill_previous
        >>> nan = float("nan")
        >>> fill_previous(torch.tensor([[nan], [2.0], [nan], [nan], [3.0]])).T
        tensor([[0., 2., 2., 2., 3.]])
    """
    found = last_known(values)
    return torch.where(found.isnan(), 0.0, found)


def last_known(values: Tensor) -> Tensor:
    """Values [T, I] in which each that is missing is the last that there was; NaN before there was any."""
    if not len(values):
        return values
    last = torch.where(values.isnan(), -1, torch.arange(len(values))[:, None]).cummax(0).values
    return values.gather(0, last.clamp(min=0))
