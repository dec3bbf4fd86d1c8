"""What was measured of how far gradients reach: curves over the lag, and their picture."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FAINT = 1e-10
"""Of the largest norm: what is less is not shown."""


@dataclasses.dataclass(frozen=True, eq=False)
class GradientReach:
    """How much of the loss at a step flows back k steps; made by `gradient_reach`.

    Args:
        states: [K] the norm of the gradient with respect to the state that the step k earlier began with; the root of
            the mean square over rows and steps.
        inputs: [K] with respect to the input k steps earlier; None where inputs are whole numbers.
        steps: [N] the steps whose loss was followed.
        method: how gradients went back in time, as text.
    """

    states: np.ndarray
    inputs: np.ndarray | None
    steps: np.ndarray
    method: str

    @property
    def lags(self) -> np.ndarray:
        """[K]: k = 0, 1, …; at 0 is the step of the loss itself."""
        return np.arange(len(self.states))

    def horizon(self, share: float = 0.01) -> int:
        """The last lag at which the state's gradient is more than ``share`` of the largest one; 0 if there is none."""
        reached = np.flatnonzero(self.states > share * self.states.max())
        return int(reached[-1]) if len(reached) else 0

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw it, on a logarithmic scale; where no gradient is left, the curve falls to the bottom.

        Args:
            path: where to; ``.svg`` or ``.png``.

        Raises:
            ValueError: a path with another suffix.
            OSError: the file cannot be written.
        """
        from treadle.insight.picture import save_figure  # matplotlib is loaded when it is needed

        return save_figure(figure_of({self.method: self}), path)


def figure_of(measured: Mapping[str, GradientReach]) -> Figure:
    """Several measurements as curves by name, on a logarithmic scale."""
    from treadle.insight.picture import plot  # matplotlib is loaded when it is needed

    figure, axes = plot(5, "steps back, k", "norm of the gradient of the loss at t, at t − k")
    largest = max((float(reach.states.max()) for reach in measured.values()), default=0.0) or 1.0
    lowest = largest * _FAINT
    for name, reach in measured.items():
        (line,) = axes.plot(reach.lags, _at_least(lowest, reach.states), label=f"{name}, state")
        if reach.inputs is not None:
            inputs = _at_least(lowest, reach.inputs)
            axes.plot(reach.lags, inputs, color=line.get_color(), linestyle=":", label=f"{name}, input")
    axes.set_yscale("log")
    axes.set_ylim(bottom=lowest)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure


def _at_least(lowest: float, norms: np.ndarray) -> np.ndarray:
    """A curve that leaves the picture once, and does not come back along its lower edge."""
    seen = np.flatnonzero(norms >= lowest)
    end = int(seen[-1]) + 2 if len(seen) else 0
    shown = np.where(norms > 0, norms, lowest * _FAINT)
    shown[end:] = np.nan
    return shown
