"""Columns brought to mean 0 and deviation 1, by what the training part says, and back."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


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
        tensor([[20.]])
    """

    names: tuple[str, ...]
    means: Tensor
    deviations: Tensor

    @classmethod
    def fit(cls, names: Sequence[str], parts: Iterable[Tensor]) -> "Scaling":
        """The scaling of the training set alone: validation and test set must not be looked at.

        Parts are [N, I]; missing values (NaN) do not count.
        """
        values = torch.cat([part.double() for part in parts])
        means = values.nanmean(0).nan_to_num(0)
        deviations = (values - means).square().nanmean(0).nan_to_num(0).sqrt()
        # What is left of a constant by rounding is no deviation.
        constant = deviations <= 1e-12 * means.abs()
        return cls(tuple(names), means, torch.where(constant, 1.0, deviations))

    def apply(self, values: Tensor) -> Tensor:
        """Values [..., I] in their own units, scaled; float32."""
        return ((values.double() - self.means) / self.deviations).float()

    def undo(self, values: Tensor) -> Tensor:
        """Scaled values [..., I] in their own units; float32."""
        return (values.double() * self.deviations + self.means).float()

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"names": list(self.names), "means": self.means.tolist(), "deviations": self.deviations.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Scaling":
        """The inverse of `as_json`."""
        means, deviations = (torch.tensor(values[key], dtype=torch.float64) for key in ("means", "deviations"))
        return cls(tuple(values["names"]), means, deviations)


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
