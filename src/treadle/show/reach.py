"""How far gradients reach, as a picture."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from treadle.show.files import save_figure

_FAINT = 1e-10
"""Of the largest norm: what is less is not shown."""


def draw_reach(path: str | os.PathLike[str], measured: Mapping[str, Any]) -> Path:
    """Draw how much of the loss at a step flows back k steps, on a logarithmic scale.

    Args:
        path: where to; ``.svg`` or ``.png``.
        measured: what `treadle.gradient_reach` gave, by name. Where no gradient is left, a curve falls to the bottom.

    Returns:
        The path. The file appears there complete or not at all.

    Raises:
        ValueError: a path with another suffix.
        OSError: the file cannot be written.

    Example:
        >>> import torch, treadle as td
        >>> from treadle.show.reach import draw_reach
        >>> cell, xs, measured = td.GRUCell(2, 8), torch.randn(4, 60, 2), {}
        >>> for method in (td.FullBPTT(), td.TruncatedBPTT(10), td.TruncatedBPTT(10, 20)):
        ...     measured[repr(method)] = td.gradient_reach(td.Recurrent(cell, gradient=method), xs)
        >>> draw_reach("horizons.svg", measured).name
        'horizons.svg'
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    largest = max((float(reach.states.max()) for reach in measured.values()), default=0.0) or 1.0
    lowest = largest * _FAINT
    for name, reach in measured.items():
        (line,) = axes.plot(reach.lags, _at_least(lowest, reach.states), label=f"{name}, state")
        if reach.inputs is not None:
            inputs = _at_least(lowest, reach.inputs)
            axes.plot(reach.lags, inputs, color=line.get_color(), linestyle=":", label=f"{name}, input")
    axes.set_yscale("log")
    axes.set_ylim(bottom=lowest)
    axes.set_xlabel("steps back, k")
    axes.set_ylabel("norm of the gradient of the loss at t, at t − k")
    axes.grid(alpha=0.2)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return save_figure(figure, path)


def _at_least(lowest: float, norms: np.ndarray) -> np.ndarray:
    """A curve that leaves the picture once, and does not come back along its lower edge."""
    seen = np.flatnonzero(norms >= lowest)
    end = int(seen[-1]) + 2 if len(seen) else 0
    shown = np.where(norms > 0, norms, lowest * _FAINT)
    shown[end:] = np.nan
    return shown
