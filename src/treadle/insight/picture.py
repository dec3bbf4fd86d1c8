"""Figures of one style, and their picture files."""

import os
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from treadle.atomic import replacing

SUFFIXES = (".svg", ".png")


def plot(height: float, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure 8 inches wide, with one pair of axes for curves."""
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    label(axes, x, y)
    return figure, axes


def label(axes: Axes, x: str, y: str) -> None:
    """Say what axes show, and lay a grid under it."""
    axes.set(xlabel=x, ylabel=y)
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
        >>> from treadle.insight.picture import save_figure
        >>> save_figure(Figure(), "empty.svg").name
        'empty.svg'
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if f".{kind}" not in SUFFIXES:
        raise ValueError(f"a picture is {' or '.join(SUFFIXES)}, but the path is {str(path)!r}: change its suffix")
    # The same figure gives the same file, whoever draws it and when.
    with replacing(path) as beside, rc_context({"svg.fonttype": "none", "svg.hashsalt": "treadle"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(beside, format=kind, dpi=150, metadata=metadata, facecolor=figure.get_facecolor())
    return path
