"""Scores of predicted numbers, and the linear model that they are compared with."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

METRICS = ("loss", "mae", "rmse", "last-mae", "last-rmse", "accuracy")
"""What validation can watch. The loss is the mean squared error of scaled numbers, or the cross-entropy of labels."""


@dataclasses.dataclass(frozen=True)
class Errors:
    """Sums over predicted numbers, to which more can be added; what has no truth (NaN) does not count."""

    count: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    level: float = 0.0
    """The mean of the true values."""
    spread: float = 0.0
    """The summed squared distances of the true values from their mean."""

    @classmethod
    def of(cls, said: Tensor, true: Tensor) -> "Errors":
        """Of predictions beside the truth, of one shape."""
        there = ~true.isnan()
        said, true = said[there].double(), true[there].double()
        if not len(true):
            return cls()
        far, level = said - true, true.mean()
        figures = far.abs().sum(), far.square().sum(), level, (true - level).square().sum()
        return cls(len(true), *(figure.item() for figure in figures))

    def add(self, other: "Errors") -> "Errors":
        """Both together (Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm for computing sample
        variances*, 1979)."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.level - self.level
        return Errors(
            count,
            self.absolute + other.absolute,
            self.squared + other.squared,
            self.level + apart * other.count / count,
            self.spread + other.spread + apart**2 * self.count * other.count / count,
        )

    @property
    def scores(self) -> dict[str, float]:
        """By name; R² only where the truth varies."""
        if not self.count:
            return {}
        found = {
            "mean_absolute_error": self.absolute / self.count,
            "root_mean_squared_error": (self.squared / self.count) ** 0.5,
        }
        return found | ({"r_squared": 1 - self.squared / self.spread} if self.spread else {})

    def __str__(self) -> str:
        found = self.scores
        r = f", R² {found['r_squared']:.3f}" if "r_squared" in found else ""
        return (
            f"mean absolute error {found['mean_absolute_error']:.4g} (RMSE {found['root_mean_squared_error']:.4g}{r})"
        )


def last_of(said: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of each sequence [T, …] what is said and true at its last step that has a truth, [N, …]."""
    pairs = []
    for ys, y in zip(said, true, strict=True):
        steps = (~y.isnan()).flatten(1).any(1).nonzero()
        if len(steps):
            pairs.append((ys[steps[-1, 0]], y[steps[-1, 0]]))
    if not pairs:
        return torch.empty(0), torch.empty(0)
    lasts, truths = zip(*pairs, strict=True)
    return torch.stack(lasts), torch.stack(truths)


def metric_of(metric: str, said: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """A metric of numbers over some sequences, each [T, …] in units."""
    if metric.startswith("last-"):
        said, true = ([part] for part in last_of(said, true))
    scores = Errors.of(torch.cat(list(said)), torch.cat(list(true))).scores
    return scores["mean_absolute_error" if metric.endswith("mae") else "root_mean_squared_error"]


def delayed(x: Tensor, delays: Sequence[int]) -> Tensor:
    """[T, I] as a linear model reads it, [T, I * D]: a block of columns for each delay, zeros before the start."""
    blank = x.new_zeros(max(delays), x.shape[1])
    return torch.cat([torch.cat([blank[:delay], x[: max(len(x) - delay, 0)]])[: len(x)] for delay in delays], 1)


def least_squares(examples: Sequence[tuple[Tensor, Tensor]], delays: Sequence[int]) -> Tensor | None:
    """The linear model of what was ``delays`` steps ago: weights and bias [I * D + 1, K], float64, by ridge regression.

    Examples are pairs of ``x`` [T, I], scaled, and ``y`` [T, K], NaN where there is nothing to predict; None if there
    is no step with that much past.
    """
    longest, designs, targets = max(delays), [], []
    for x, y in examples:
        if len(x) > longest:
            y = y.double()[longest:]
            there = ~y.isnan().any(1)
            past = delayed(x.double(), delays)[longest:][there]
            designs.append(torch.cat([past, torch.ones(len(past), 1).double()], 1))
            targets.append(y[there])
    rows = sum(map(len, designs))
    if not rows:
        return None
    design, target = torch.cat(designs), torch.cat(targets)
    # A little ridge, for columns that say the same; inputs are scaled, so one number does for all.
    square = design.T @ design + 1e-3 * rows * torch.eye(design.shape[1]).double()
    return torch.linalg.solve(square, design.T @ target)


def linear_predictions(solution: Tensor | None, x: Tensor, delays: Sequence[int], outputs: int) -> Tensor:
    """What the linear model says at every step, [T, K]; the mean of scaled targets, 0, if there is none."""
    if solution is None:
        return torch.zeros(len(x), outputs).double()
    return delayed(x.double(), delays) @ solution[:-1] + solution[-1]
