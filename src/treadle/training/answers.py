"""What sequences are labelled with, labels or numbers: seen from the values, asked for where these leave a doubt."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from treadle.data.table_file import Rows, shown
from treadle.data.ts_file import NUMBER
from treadle.errors import DataError

MOST_CLASSES = 20
"""Whole numbers of more values than this may be labels or numbers: somebody has to say which."""


class Answers(NamedTuple):
    """The targets of sequences."""

    each: list[Any]
    """Of each: a label, or a list of T labels; or float64 [1], or [T, 1], numbers to predict."""
    labels: tuple[str, ...]
    """All of them, in order; empty for numbers."""
    per_step: bool
    """Whether every step has one."""


def answers_of(
    rows: Rows,
    column: str,
    values: list[Any],
    per_step: bool,
    classes: bool | None,
    places: Sequence[Any] | None = None,
) -> Answers:
    """The targets in a column.

    Args:
        rows: the table, for messages.
        column: the name.
        values: of each sequence, a value as the file has it, or a list of them if ``per_step``.
        per_step: whether every step has a target.
        classes: whether they are labels; None to see it from them.
        places: the row of each value, if it is not that of its sequence; of lists, the row of each step.

    Raises:
        DataError: one is missing or not what it should be; whole numbers of many values, and nobody says what they
            are. With row and column.
    """

    def row_of(sequence: int, step: int) -> int:
        if places is None:
            return sequence
        return int(places[sequence][step] if per_step else places[sequence])

    lists = values if per_step else [[value] for value in values]
    for sequence, some in enumerate(lists):
        for step, value in enumerate([None] if some is None else some):
            if value is None:
                raise rows.error(row_of(sequence, step), column, "there is no target")
    numbers = [[_number(value) for value in some] for some in lists]
    if _are_labels(rows, column, numbers, classes):
        words = [[_word(value) for value in some] for some in lists]
        whole = all(type(value) is int for some in numbers for value in some)
        labels = sorted({word for some in words for word in some}, key=int if whole else str)
        return Answers(words if per_step else [word for (word,) in words], tuple(labels), per_step)
    for sequence, some in enumerate(numbers):
        for step, value in enumerate(some):
            if isinstance(value, str):
                raise rows.error(row_of(sequence, step), column, f"{shown(value)} is not a number, but `classes=False`")
            if not np.isfinite(value):
                raise rows.error(row_of(sequence, step), column, "the target is not a finite number")
    each = [torch.tensor(some, dtype=torch.float64) for some in numbers]
    return Answers([one[:, None] for one in each] if per_step else each, (), per_step)


def _number(value: Any) -> Any:
    """A value of a text file as the number that it writes, if it is one; other values as they are."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip(), re.ASCII):
        return int(value)
    return float(value) if NUMBER.fullmatch(value.strip()) else value


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _are_labels(rows: Rows, column: str, lists: list[list[Any]], classes: bool | None) -> bool:
    """Whether they are labels: as was said, or words, truth values and few whole numbers."""
    flat = [value for some in lists for value in some]
    if classes is not None:
        return classes
    if all(isinstance(value, float | int) and not isinstance(value, bool) for value in flat):
        if any(isinstance(value, float) for value in flat):
            return False
        distinct = set(flat)
        if len(distinct) > MOST_CLASSES:
            raise DataError(
                f"{rows.file.path}: column {column!r} has {len(distinct)} different whole numbers, from {min(flat)} to"
                f" {max(flat)}, which may be numbers to predict or labels: pass `classes=False` or `classes=True`"
            )
    return True
