"""Learning curves as a picture."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from treadle.insight.picture import save_figure
from treadle.show.figures import plot


def draw_curves(
    path: str | os.PathLike[str],
    steps: Sequence[int],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    baselines: Mapping[str, float],
) -> Path:
    """Draw learning curves, each in a band as wide as its spread.

    Args:
        path: where to; ``.svg`` or ``.png``.
        steps: training steps, the points of all curves.
        curves: mean and spread in bits per byte at these points, by name; best first. A spread of None draws no band.
        baselines: level lines by name, for scale.

    Example:
        >>> from treadle.show.curves import draw_curves
        >>> draw_curves("curves.svg", [10, 20], {"skip": ([4.0, 3.5], [0.1, 0.05])}, {"unigram": 4.8}).name
        'curves.svg'
    """
    figure, axes = plot(5, "training steps", "bits per byte of held-out text")
    for name, (means, spreads) in curves.items():
        (line,) = axes.plot(steps, means, marker="o", markersize=3, label=name)
        bands = [
            (step, m - s, m + s)
            for step, m, s in zip(steps, means, spreads, strict=True)
            if s is not None and math.isfinite(s)
        ]
        if bands:
            at, low, high = zip(*bands, strict=True)
            axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    for (name, level), style in zip(baselines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(level, color="gray", linestyle=style, linewidth=1, label=name)
    figure.legend(frameon=False, loc="outside right upper")
    return save_figure(figure, path)
