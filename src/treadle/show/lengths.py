"""Accuracy by length of the sequence, as a picture."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from treadle.insight.picture import plot, save_figure


def accuracy_by_length(lengths: Sequence[int], right: Sequence[bool]) -> list[tuple[int, float]]:
    """The accuracy at each length, the shortest first.

    Example:
        >>> from treadle.show.lengths import accuracy_by_length
        >>> accuracy_by_length([3, 1, 3], [True, True, False])
        [(1, 1.0), (3, 0.5)]
    """
    found: dict[int, list[bool]] = {}
    for length, one in zip(lengths, right, strict=True):
        found.setdefault(length, []).append(one)
    return [(length, sum(found[length]) / len(found[length])) for length in sorted(found)]


def draw_accuracy_by_length(
    path: str | os.PathLike[str],
    answers: Mapping[str, tuple[Sequence[int], Sequence[bool]]],
    longest: int | None = None,
) -> Path:
    """Draw the accuracy by length of the source.

    Args:
        path: the file to write, ``.svg`` or ``.png``.
        answers: by name, the length of each source and whether its output is correct.
        longest: the longest length in the training set, for a line there.

    Example:
        >>> from treadle.show.lengths import draw_accuracy_by_length
        >>> draw_accuracy_by_length("lengths.svg", {"reverse": ([1, 2, 2], [True, True, False])}, longest=1).name
        'lengths.svg'
    """
    shares = {name: accuracy_by_length(lengths, right) for name, (lengths, right) in answers.items()}
    return save_figure(lengths_figure(shares, longest), path)


def lengths_figure(shares: Mapping[str, Sequence[tuple[int, float]]], longest: int | None = None) -> Figure:
    """The picture that `draw_accuracy_by_length` writes, of what `accuracy_by_length` gives."""
    figure, axes = plot(4, "tokens of the source", "exactly right")
    for name, points in shares.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    if longest is not None:
        axes.axvline(longest, color="gray", linestyle="--", linewidth=1, label="longest in the training set")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False)
    return figure
