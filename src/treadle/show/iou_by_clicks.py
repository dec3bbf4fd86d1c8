"""Mean IoU by the number of clicks, as a picture."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from treadle.insight.picture import plot, save_figure


def draw_iou_by_clicks(
    path: str | os.PathLike[str], ious: Mapping[str, Sequence[float]], targets: Sequence[float] = ()
) -> Path:
    """Draw the mean intersection over union after each click.

    Args:
        path: the file to write, ``.svg`` or ``.png``.
        ious: by name, the mean after the first, second, … click.
        targets: horizontal lines.

    Example:
        >>> from treadle.show.iou_by_clicks import draw_iou_by_clicks
        >>> draw_iou_by_clicks("clicks.svg", {"two stages": [0.6, 0.75, 0.8]}, targets=[0.85]).name
        'clicks.svg'
    """
    figure, axes = plot(4.5, "clicks", "mean IoU")
    for name, values in ious.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    for target in targets:
        axes.axhline(target, color="gray", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    return save_figure(figure, path)
