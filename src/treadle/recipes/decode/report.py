"""What came of a study, in numbers and as a picture."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from treadle.atomic import replacing
from treadle.recipes.decode.study import EVERY, Followed

WINDOW = 50
"""Presses over which the share of right ones is taken."""
Study = Mapping[int, Mapping[str, Followed]]


class Summary(NamedTuple):
    """How one decoder did over some presses, beside what is attainable on the same ones."""

    share: float
    """Presses that were decoded rightly, over all users, as a share of those that are attainable."""
    error: float
    """Its standard error, as users differ."""
    lowest: float
    """The same for single users: the least,"""
    tenth: float
    """what a tenth of them do not reach,"""
    middle: float
    """and half."""
    reached: float
    """Users with whom it is at least 0.95."""
    information: float
    """Mutual information at the end of these presses, in bits, on average."""


def summarise(study: Study, name: str, end: int) -> Summary:
    """A decoder, over the 50 presses that end with number ``end``."""
    right, attainable = (right_presses(study, who, end) for who in (name, "attainable"))
    shares = right / np.maximum(attainable, 1)
    bits = np.mean([of[name].information[end // EVERY] for of in study.values()])
    tenth, middle = np.quantile(shares, [0.1, 0.5])
    total = right.sum() / max(attainable.sum(), 1)
    error = np.sqrt(((right - total * attainable) ** 2).sum()) / max(attainable.sum(), 1)
    return Summary(*map(float, (total, error, shares.min(), tenth, middle, (shares >= 0.95).mean(), bits)))


def right_presses(study: Study, name: str, end: int) -> NDArray[np.int64]:
    """How many of these presses a decoder was right on, by user."""
    return np.array([sum(of[name].right[max(0, end - WINDOW) : end]) for of in study.values()])


def moments(presses: int) -> list[int]:
    """The presses at which a study of so many is looked at: early, at the end, and so after the change too."""
    half = presses // 2
    points = [max(EVERY, point - point % EVERY) for point in (half // 6, half // 3, 2 * half // 3, half)]
    return points + [half + point for point in points]


def rows(study: Study) -> list[list[str]]:
    """A table: for each decoder and some moments, the share of the attainable and the information."""
    presses = len(next(iter(next(iter(study.values())).values())).right)
    points = moments(presses)
    table = {name: [summarise(study, name, at) for at in points] for name in next(iter(study.values()))}
    shares = [[name, *(f"{one.share:.3f}" for one in summaries)] for name, summaries in table.items()]
    bits = [[f"{name}, bits", *(f"{one.information:.2f}" for one in summaries)] for name, summaries in table.items()]
    return [["presses", *map(str, points)], *shares, *bits]


def write_study(path: str | os.PathLike[str], study: Study) -> None:
    """All of a study, as JSON: by user and decoder, right presses as text of 0 and 1, and bits."""
    text = json.dumps(
        {
            str(seed): {
                name: {"right": "".join(map(str, map(int, one.right))), "bits": [round(b, 4) for b in one.information]}
                for name, one in of.items()
            }
            for seed, of in sorted(study.items())
        }
    )
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def draw_study(path: str | os.PathLike[str], study: Study) -> Path:
    """Draw right presses and information against presses, and how users differ, as ``.svg`` or ``.png``."""
    from matplotlib.figure import Figure

    from treadle.insight.picture import save_figure

    names = list(next(iter(study.values())))
    presses = len(next(iter(study.values()))[names[0]].right)
    figure = Figure(figsize=(9, 9), layout="constrained")
    accuracy, bits, spread = figure.subplots(3, 1)
    width = min(25, presses)
    for name in names:
        right = np.array([of[name].right for of in study.values()], float)
        smooth = np.apply_along_axis(lambda row: np.convolve(row, np.ones(width) / width, "valid"), 1, right)
        at = np.arange(width, presses + 1)
        style = {"color": "gray", "linestyle": "--"} if name == "attainable" else {}
        (line,) = accuracy.plot(at, smooth.mean(0), label=name, linewidth=1.2, **style)
        if name == "decoder":
            low, high = np.quantile(smooth, [0.1, 0.9], axis=0)
            accuracy.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        information = np.array([of[name].information for of in study.values()])
        points = np.arange(information.shape[1]) * EVERY
        bits.plot(points, information.mean(0), color=line.get_color(), linestyle=line.get_linestyle(), linewidth=1.2)
        if name in ("decoder", "memory alone", "Bayes"):
            for end, marker in ((presses // 2, "o"), (presses // 2 + 2 * presses // 6, "x")):
                shares = right_presses(study, name, end) / np.maximum(right_presses(study, "attainable", end), 1)
                label = f"{name}, presses {max(0, end - WINDOW) + 1} to {end}"
                spread.plot(np.sort(shares), marker, color=line.get_color(), markersize=3, label=label)
    for axes in (accuracy, bits):
        axes.axvline(presses / 2, color="gray", linewidth=0.8, linestyle=":")
        axes.set_xlabel("presses; at the dotted line all keys change their meaning")
        axes.grid(alpha=0.2)
    accuracy.set_ylabel(f"accuracy on the last {width} presses")
    bits.set_ylabel("bits between key and command")
    spread.axhline(0.95, color="gray", linewidth=0.8, linestyle=":")
    spread.set_xlabel("users, in ascending order")
    spread.set_ylabel("accuracy relative to the best attainable")
    spread.grid(alpha=0.2)
    accuracy.legend(frameon=False)
    spread.legend(frameon=False)
    return save_figure(figure, path)
