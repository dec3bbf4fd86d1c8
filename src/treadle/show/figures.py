"""Figures of one style, and how they become files."""

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from treadle.files.atomic import replacing
from treadle.insight.picture import write_figure


def plot(height: float, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure 8 inches wide, with one pair of axes for curves.

    Args:
        height: inches.
        x: what the horizontal axis says.
        y: what the vertical one says.
    """
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    label(axes, x, y)
    return figure, axes


def label(axes: Axes, x: str, y: str) -> None:
    """Say what axes show, and lay a grid under it."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as SVG (its text stays text) or PNG, by suffix. The file appears complete or not at all.

    Args:
        figure: what to write.
        path: where to.

    Returns:
        The path.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from treadle.show.figures import save_figure
        >>> save_figure(Figure(), "empty.svg").name
        'empty.svg'
    """
    path = Path(path)
    with replacing(path) as beside:
        write_figure(figure, path, beside)
    return path
