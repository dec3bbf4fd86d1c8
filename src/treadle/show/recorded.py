"""Values over time, as a picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from treadle.insight.picture import save_figure
from treadle.insight.record import Record

MOST_PANELS, MOST_LABELS = 40, 80
SIGNED, SHARE = "RdBu_r", "viridis"  # colour-blind people can read both


def draw_record(
    record: Record,
    path: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    row: int = 0,
    units: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
) -> Path:
    """Draw values over time: a heat map of units × time for each, or lines of some units.

    Values from 0 to 1, such as gates, are coloured from dark to bright; others from blue through white, which is 0, to
    red. All heat maps of the second kind have a scale of their own, written beside them.

    Args:
        record: what `treadle.record` gave.
        path: where to; ``.svg`` or ``.png``.
        names: which values, from above to below; without it the input, unless it is tokens, the states after each step,
            and the output.
        row: which row of the batch.
        units: which units to draw as lines, in place of heat maps; values of one unit are lines in any case.
        labels: what each step reads, such as its letter, written below.

    Returns:
        The path. The file appears there complete or not at all.

    Raises:
        KeyError: there is no value of that name.
        ValueError: more values than a picture can show, a row or unit that is not there, labels of another number, or
            a path with another suffix.

    Example:
        >>> import torch, treadle as td
        >>> values = td.record(td.LSTMCell(3, 16), torch.randn(1, 40, 3))
        >>> td.show.draw_record(values, "gates.svg", ["input_gate", "forget", "output_gate", "c", "h"]).name
        'gates.svg'
    """
    return save_figure(record_figure(record, names, row, units, labels), path)


def record_figure(
    record: Record,
    names: Sequence[str] | None = None,
    row: int = 0,
    units: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
) -> Figure:
    """The picture that `draw_record` writes."""
    names = _remembered(record) if names is None else list(names)
    if not 0 < len(names) <= MOST_PANELS:
        raise ValueError(f"a picture shows 1 to {MOST_PANELS} values, but `names` has {len(names)}: pass some of them")
    values = {name: _of_row(record, name, row, units) for name in names}
    steps = next(iter(values.values())).shape[0]
    if labels is not None and len(labels) != steps:
        raise ValueError(f"there are {steps} steps, but {len(labels)} `labels`: pass one for each step")
    heights = [_height(array, units) for array in values.values()]
    figure = Figure(figsize=(min(16.0, max(7.0, 2.5 + steps * 0.09)), 0.8 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, array) in zip(panels, values.items(), strict=True):
        if units is not None or array.shape[1] == 1:
            _draw_lines(axes, array, units)
        else:
            _draw_map(figure, axes, array)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    panels[-1].set_xlabel("step")
    if labels is not None and steps <= MOST_LABELS:
        panels[-1].set_xticks(range(steps), [label.replace("$", r"\$") for label in labels], fontsize=7)
    panels[-1].set_xlim(-0.5, steps - 0.5)
    return figure


def _remembered(record: Record) -> list[str]:
    """The input, if it is no tokens, the states after each step, and the output."""
    after = [name.removesuffix("(t-1)") for name in record if name.endswith("(t-1)")]
    after = [name for name in after if name != "x" and not name.endswith(".y")]  # what is kept to be read late
    names = ("x", *after, "y") if record["x"].is_floating_point() else (*after, "y")
    return list(dict.fromkeys(name for name in names if name in record))


def _of_row(record: Record, name: str, row: int, units: Sequence[int] | None) -> Any:
    """[T, units] of one row."""
    tensor = record[name] if record.batch_first else record[name].transpose(0, 1)
    if not -len(tensor) <= row < len(tensor):
        raise ValueError(f"the record has {len(tensor)} rows, but `row={row}` was passed")
    array = tensor[row].reshape(tensor.shape[1], -1).double().cpu().numpy()
    wrong = [unit for unit in units or () if not 0 <= unit < array.shape[1]]
    if wrong:
        raise ValueError(f"{name} has units 0 to {array.shape[1] - 1}, but `units` has {wrong[0]}")
    return array


def _height(array: Any, units: Sequence[int] | None) -> float:
    """In inches."""
    return 0.9 if units is not None or array.shape[1] == 1 else min(2.6, max(0.7, 0.06 * array.shape[1]))


def _draw_lines(axes: Axes, array: Any, units: Sequence[int] | None) -> None:
    for unit in units if units is not None else [0]:
        axes.plot(array[:, unit], linewidth=1.2, label=f"unit {unit}")
    axes.grid(alpha=0.2)
    if units is not None:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_map(figure: Figure, axes: Axes, array: Any) -> None:
    finite = array[np.isfinite(array)]
    is_share = bool(((finite >= 0) & (finite <= 1)).all())
    most = float(np.abs(finite).max(initial=0)) or 1.0
    low, high = (0.0, 1.0) if is_share else (-most, most)
    image = axes.imshow(
        array.T, aspect="auto", interpolation="nearest", cmap=SHARE if is_share else SIGNED, vmin=low, vmax=high
    )
    axes.set_yticks([0, array.shape[1] - 1])
    figure.colorbar(image, ax=axes, ticks=[low, 0.0, high] if not is_share else [0.0, 1.0], format="%.2g", pad=0.01)
