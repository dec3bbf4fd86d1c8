"""How far gradients reach, as a picture."""

import os
from collections.abc import Mapping
from pathlib import Path

from treadle.insight.picture import save_figure
from treadle.insight.reach_curves import GradientReach, figure_of


def draw_reach(path: str | os.PathLike[str], measured: Mapping[str, GradientReach]) -> Path:
    """Draw how much gradient of the loss at a step flows back k steps, on a logarithmic scale.

    Args:
        path: the file to write, ``.svg`` or ``.png``.
        measured: results of `treadle.gradient_reach`, by name. Where no gradient is left, a curve falls to the bottom.

    Returns:
        The path; see `save_figure`.

    Example:
        >>> import torch, treadle as td
        >>> from treadle.show.reach import draw_reach
        >>> cell, xs, measured = td.GRUCell(2, 8), torch.randn(4, 60, 2), {}
        >>> for method in (td.FullBPTT(), td.TruncatedBPTT(10), td.TruncatedBPTT(10, 20)):
        ...     measured[repr(method)] = td.gradient_reach(td.Recurrent(cell, gradient=method), xs)
        >>> draw_reach("horizons.svg", measured).name
        'horizons.svg'
    """
    return save_figure(figure_of(measured), path)
