"""Figures of one style."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure


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
