"""A fit as a picture: how the loss fell, and predictions beside what came true."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from treadle.show.files import save_figure


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """What was forecast for each row, and what came."""

    name: str
    rows: Sequence[int]
    true: Sequence[float]
    forecasts: Mapping[str, Sequence[float]]

    def draw(self, axes: Any) -> None:
        """Curves over the rows."""
        axes.plot(self.rows, self.true, color="black", linewidth=1, label="truth")
        for name, values in self.forecasts.items():
            axes.plot(self.rows, values, linewidth=1, label=name)
        axes.set_xlabel("row")
        axes.set_ylabel(self.name)
        axes.legend(frameon=False)


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Numbers that were predicted, over those that are true."""

    name: str
    true: Sequence[float]
    predicted: Sequence[float]

    def draw(self, axes: Any) -> None:
        """Points; on the diagonal they would be right."""
        axes.plot(self.true, self.predicted, ".", markersize=4)
        ends = [min([*self.true, *self.predicted]), max([*self.true, *self.predicted])]
        axes.plot(ends, ends, color="gray", linewidth=1, linestyle="--")
        axes.set_xlabel(f"{self.name}, true")
        axes.set_ylabel(f"{self.name}, predicted")


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How often each label was said where each is true."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    """A row for each true label, a column for each that was said."""

    def draw(self, axes: Any) -> None:
        """A table in shades."""
        axes.imshow(self.counts, cmap="Blues")
        if len(self.labels) <= 30:
            axes.set_xticks(range(len(self.labels)), self.labels, rotation=45, ha="right")
            axes.set_yticks(range(len(self.labels)), self.labels)
            half = max(map(max, self.counts)) / 2
            for row, counts in enumerate(self.counts):
                for column, count in enumerate(counts):
                    if count:
                        colour = "white" if count > half else "black"
                        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
        axes.set_xlabel("said")
        axes.set_ylabel("true")


def draw_fit(
    path: str | os.PathLike[str],
    losses: Sequence[tuple[int, float]],
    scores: Sequence[tuple[int, float]],
    truth: Forecasts | Scatter | Confusion | None = None,
) -> Path:
    """Draw how a fit went, and how good it came out.

    Args:
        path: where to; ``.svg`` or ``.png``.
        losses: step and loss of the training part.
        scores: step and loss of the validation part; may be empty.
        truth: predictions beside what came true, below the curves.

    Returns:
        The path. The file appears there complete or not at all.

    Raises:
        ValueError: a path with another suffix.
        OSError: the file cannot be written.

    Example:
        >>> from treadle.show.fit import Scatter, draw_fit
        >>> draw_fit("fit.svg", [(1, 2.0), (2, 1.0)], [(2, 1.5)], Scatter("heat", [1.0, 2.0], [1.1, 1.9])).name
        'fit.svg'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4 if truth is None else 9), layout="constrained")
    axes = figure.subplots(1 if truth is None else 2, squeeze=False)[:, 0]
    axes[0].plot(*zip(*losses, strict=True), linewidth=0.7, alpha=0.6, label="training")
    if scores:
        axes[0].plot(*zip(*scores, strict=True), marker="o", markersize=2, label="validation")
    if all(loss > 0 for _, loss in (*losses, *scores)):
        axes[0].set_yscale("log")
    axes[0].set_xlabel("training steps")
    axes[0].set_ylabel("loss")
    axes[0].grid(alpha=0.2)
    axes[0].legend(frameon=False)
    if truth is not None:
        truth.draw(axes[1])
    return save_figure(figure, path)
