"""A fit as a picture: how the loss fell, and predictions beside what came true."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from treadle.insight.picture import save_figure
from treadle.show.figures import label


def draw_forecasts(
    axes: Axes, name: str, rows: Sequence[int], true: Sequence[float], forecasts: Mapping[str, Sequence[float]]
) -> None:
    """Draw what was forecast for each row, and what came, as curves."""
    axes.plot(rows, true, color="black", linewidth=1, label="truth")
    for which, values in forecasts.items():
        axes.plot(rows, values, linewidth=1, label=which)
    axes.set(xlabel="row", ylabel=name)
    axes.legend(frameon=False)


def draw_predictions(axes: Axes, name: str, true: Sequence[float], predicted: Sequence[float]) -> None:
    """Draw numbers that were predicted over those that are true: on the diagonal they would be right."""
    axes.plot(true, predicted, ".", markersize=4)
    ends = [min([*true, *predicted]), max([*true, *predicted])]
    axes.plot(ends, ends, color="gray", linewidth=1, linestyle="--")
    axes.set(xlabel=f"{name}, true", ylabel=f"{name}, predicted")


def draw_confusion(axes: Axes, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Draw how often each label was said where each is true, as a table in shades."""
    axes.imshow(counts, cmap="Blues")
    if len(labels) <= 30:
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        half = max(map(max, counts)) / 2
        for row, of_label in enumerate(counts):
            for column, count in enumerate(of_label):
                if count:
                    colour = "white" if count > half else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="said", ylabel="true")


def draw_fit(
    path: str | os.PathLike[str],
    losses: Sequence[tuple[int, float]],
    scores: Sequence[tuple[int, float]],
    truth: Callable[[Axes], None] | None = None,
) -> Path:
    """Draw how a fit went, and how good it came out.

    Args:
        path: where to; ``.svg`` or ``.png``.
        losses: step and loss of the training part.
        scores: step and loss of the validation part; may be empty.
        truth: draws predictions beside what came true, below the curves.

    Example:
        >>> from treadle.show.fit_picture import draw_fit, draw_predictions
        >>> def truth(axes):
        ...     draw_predictions(axes, "heat", [1.0, 2.0], [1.1, 1.9])
        >>> draw_fit("fit.svg", [(1, 2.0), (2, 1.0)], [(2, 1.5)], truth).name
        'fit.svg'
    """
    figure = Figure(figsize=(8, 4 if truth is None else 9), layout="constrained")
    axes = figure.subplots(1 if truth is None else 2, squeeze=False)[:, 0]
    axes[0].plot(*zip(*losses, strict=True), linewidth=0.7, alpha=0.6, label="training")
    if scores:
        axes[0].plot(*zip(*scores, strict=True), marker="o", markersize=2, label="validation")
    if all(loss > 0 for _, loss in (*losses, *scores)):
        axes[0].set_yscale("log")
    label(axes[0], "training steps", "loss")
    axes[0].legend(frameon=False)
    if truth is not None:
        truth(axes[1])
    return save_figure(figure, path)
