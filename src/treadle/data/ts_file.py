"""Files of the UEA and UCR archives of time series: ``.ts``."""

import math
import os
import re
from typing import Any, NamedTuple

import numpy as np

from treadle.atomic import regular
from treadle.errors import DataError

NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf(inity)?|nan|\?", re.ASCII | re.IGNORECASE
)
"""A number as all programs write it; `float` would also take 1_0."""


class TsFile(NamedTuple):
    """What a ``.ts`` file holds."""

    cases: list[np.ndarray]
    """One sequence each, float64 [T, I], NaN where a value is missing."""
    answers: list[str] | list[float] | None
    """Labels, or numbers to predict; None if the file has neither."""
    labels: tuple[str, ...]
    """All labels, as the header declares them; empty if it declares none."""
    lines: list[int]
    """Where each case stands in the file."""


def read_ts(path: str | os.PathLike[str]) -> TsFile:
    """Read a ``.ts`` file: a header of ``@name value`` lines, then ``@data`` and a case a line.

    A case is its dimensions, with colons between them, each a list of numbers with commas between them (``?`` or
    ``NaN`` is a missing value), then its label (``@classLabel true …``) or number (``@targetLabel true``). Dimensions
    of a case are of equal length, cases need not be. Source of the format: the archive of time series at
    timeseriesclassification.com (Bagnall et al., *The UEA multivariate time series classification archive*, 2018).

    Raises:
        DataError: time stamps, which are not read; something in it is not as the header says or no number. With the
            line.
        OSError: it cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from treadle.data.ts_file import read_ts
        >>> _ = Path("tiny.ts").write_text('''
        ... @problemName tiny
        ... @dimensions 2
        ... @classLabel true up down
        ... @data
        ... 1,2,3:0,?,0:up
        ... 2,1:0,0:down
        ... ''')
        >>> file = read_ts("tiny.ts")
        >>> file.cases[0].tolist(), file.answers
        ([[1.0, 0.0], [2.0, nan], [3.0, 0.0]], ['up', 'down'])
    """
    with open(regular(path), encoding="utf-8", errors="replace") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith(("#", "%"))]
    tags: dict[str, list[str]] = {}
    data = None
    for at, (number, line) in enumerate(lines):
        if not line.startswith("@"):
            raise DataError(f"{path}, line {number}: a header line begins with @, but this is {line[:40]!r}")
        name, *words = line[1:].split()
        if name.lower() == "data":
            data = lines[at + 1 :]
            break
        tags[name.lower()] = words
    if data is None:
        raise DataError(f"{path} has no line @data: it is not a .ts file, or it is cut off")
    if _says(tags, "timestamps"):
        raise DataError(f"{path} has time stamps (@timeStamps true), which treadle does not read: leave them out of it")
    classes, numbers = _says(tags, "classlabel"), _says(tags, "targetlabel")
    labels = tuple(tags["classlabel"][1:]) if classes else ()
    dimensions = _number(path, tags, "dimensions") or _number(path, tags, "dimension")
    if _says(tags, "univariate") and dimensions is None:
        dimensions = 1

    found = TsFile([], [] if classes or numbers else None, labels, [])
    answers: list[Any] | None = found.answers
    for number, line in data:
        parts = [part.strip() for part in line.split(":")]
        where = f"{path}, line {number}"
        if answers is not None:
            answer = parts.pop()
            if numbers:
                values = _numbers(where, "the number to predict", answer)
                if len(values) != 1 or np.isnan(values[0]):
                    raise DataError(f"{where}: a case ends with one number to predict, but here are {answer[:40]!r}")
                answer = float(values[0])
            elif not answer or (labels and answer not in labels):
                raise DataError(f"{where}: {answer[:40]!r} is no label: @classLabel declares {', '.join(labels)}")
            answers.append(answer)
        dimensions = dimensions or len(parts)
        if len(parts) != dimensions:
            extra = " besides the label" if classes else ""
            raise DataError(f"{where}: {len(parts)} dimensions{extra}, but {dimensions} are expected")
        columns = [_numbers(where, f"dimension {i}", part) for i, part in enumerate(parts, 1)]
        for i, column in enumerate(columns, 1):
            if len(column) != len(columns[0]):
                raise DataError(f"{where}: dimension {i} has {len(column)} values, dimension 1 has {len(columns[0])}")
        found.cases.append(np.stack(columns, 1))
        found.lines.append(number)
    if not found.cases:
        raise DataError(f"{path} has no cases after @data")
    return found


def _says(tags: dict[str, list[str]], name: str) -> bool:
    return tags.get(name, ["false"])[:1] in (["true"], ["True"], ["TRUE"])


def _number(path: str | os.PathLike[str], tags: dict[str, list[str]], name: str) -> int | None:
    if name not in tags:
        return None
    word = " ".join(tags[name])
    if not re.fullmatch("0*[1-9][0-9]{0,8}", word):
        raise DataError(f"{path}: @{name} is a positive whole number, but is {word[:40]!r}")
    return int(word)


def _numbers(where: str, what: str, text: str) -> np.ndarray:
    words = [word.strip() for word in text.split(",")] if text else []
    values = []
    for step, word in enumerate(words, 1):
        if not NUMBER.fullmatch(word):
            raise DataError(f"{where}, {what}, value {step}: {word[:40]!r} is not a number")
        values.append(np.nan if word == "?" else float(word))
        if math.isinf(values[-1]):
            raise DataError(f"{where}, {what}, value {step}: the value is infinite")
    return np.array(values, dtype=np.float64)
