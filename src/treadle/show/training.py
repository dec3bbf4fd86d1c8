"""Pictures of training: learning curves, losses, and predictions against targets."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from treadle.insight.picture import label, plot, save_figure


def draw_forecasts(
    axes: Axes, name: str, rows: Sequence[int], true: Sequence[float], forecasts: Mapping[str, Sequence[float]]
) -> None:
    """Draw forecasts and true values of each row as curves."""
    axes.plot(rows, true, color="black", linewidth=1, label="true")
    for which, values in forecasts.items():
        axes.plot(rows, values, linewidth=1, label=which)
    axes.set(xlabel="row", ylabel=name)
    axes.legend(frameon=False)


def draw_predictions(axes: Axes, name: str, true: Sequence[float], predicted: Sequence[float]) -> None:
    """Draw predicted numbers over true ones: on the diagonal, they are equal."""
    axes.plot(true, predicted, ".", markersize=4)
    ends = [min([*true, *predicted]), max([*true, *predicted])]
    axes.plot(ends, ends, color="gray", linewidth=1, linestyle="--")
    axes.set(xlabel=f"{name}, true", ylabel=f"{name}, predicted")


def draw_confusion(axes: Axes, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Draw a confusion matrix as a shaded table."""
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
    axes.set(xlabel="predicted", ylabel="true")


def draw_fit(
    path: str | os.PathLike[str],
    losses: Sequence[tuple[int, float]],
    scores: Sequence[tuple[int, float]],
    truth: Callable[[Axes], None] | None = None,
) -> Path:
    """Draw the losses of a training run, and its predictions.

    Args:
        path: the file to write, ``.svg`` or ``.png``.
        losses: step and loss on the training set.
        scores: step and score on the validation set; may be empty.
        truth: a function that draws predictions against targets below the curves.

    Example:
        >>> from treadle.show.training import draw_fit, draw_predictions
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


def draw_curves(
    path: str | os.PathLike[str],
    steps: Sequence[int],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    baselines: Mapping[str, float],
    score: str = "bits per byte of held-out text",
) -> Path:
    """Draw learning curves, each in a band as wide as its spread.

    Args:
        path: the file to write, ``.svg`` or ``.png``.
        steps: training steps, the points of the longest curve.
        curves: mean and spread at the first of these points, by name; best first. A spread of None draws no band.
        baselines: horizontal lines by name, for comparison.
        score: what curves show, with its unit.

    Example:
        >>> from treadle.show.training import draw_curves
        >>> draw_curves("curves.svg", [10, 20], {"skip": ([4.0, 3.5], [0.1, 0.05])}, {"unigram": 4.8}).name
        'curves.svg'
    """
    figure, axes = plot(5, "training steps", score)
    for name, (means, spreads) in curves.items():
        (line,) = axes.plot(steps[: len(means)], means, marker="o", markersize=3, label=name)
        bands = [
            (step, m - s, m + s)
            for step, m, s in zip(steps[: len(means)], means, spreads, strict=True)
            if s is not None
        ]
        if bands:
            at, low, high = zip(*bands, strict=True)
            axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    for (name, level), style in zip(baselines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(level, color="gray", linestyle=style, linewidth=1, label=name)
    figure.legend(frameon=False, loc="outside right upper")
    return save_figure(figure, path)
