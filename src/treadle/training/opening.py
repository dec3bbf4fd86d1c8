"""From a file to something to be learned, by what the file is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from treadle.data.table_file import TableFile, is_table
from treadle.errors import DataError
from treadle.training.fitted import Fitted
from treadle.training.sequence_task import SequenceTask
from treadle.training.sequences import read_sequences
from treadle.training.series import read_series
from treadle.training.series_task import SeriesTask
from treadle.training.task import Task
from treadle.training.text import read_text
from treadle.training.text_task import TextTask

KINDS: dict[str, type[Any]] = {"text": TextTask, "sequences": SequenceTask, "series": SeriesTask}


def kind_of(path: str | os.PathLike[str], target: Sequence[str] = (), inputs: Sequence[str] = ()) -> str:
    """What a file holds: ``"sequences"`` in ``.ts`` and in ``.parquet`` with lists in the columns that are read,
    ``"series"`` in other tables (``.csv``, ``.tsv``, ``.parquet``), ``"text"`` in everything else.

    Raises:
        DataError: a column is missing.
        OSError: the file cannot be read.
    """
    if not is_table(path):
        return "sequences" if Path(path).suffix.lower() == ".ts" else "text"
    file = TableFile(path)
    file.require(inputs)
    lists = [name for name in inputs or file.names if name not in target and file.is_list(name)]
    return "sequences" if lists else "series"


def open_task(
    path: str | os.PathLike[str],
    kind: str,
    *,
    start: Fitted | None = None,
    test: str | os.PathLike[str] | None = None,
    target: Sequence[str] = (),
    inputs: Sequence[str] = (),
    validation: float = 0.15,
    missing: str = "refuse",
    rows: int = 32,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    series_id: str | None = None,
    time: str | None = None,
    **options: Any,
) -> Task:
    """Read a file and make of it what is to be learned.

    Args:
        path: the file.
        kind: what it holds, of `KINDS`.
        start: the network to resume, of series or sequences.
        test: a second file with the test set.
        target: the columns to predict; one for sequences; those of ``start`` unless given.
        inputs: the columns to read; those of ``start`` unless given.
        validation: the share that says when to stop.
        missing: ``"refuse"`` gaps, or read the ``"previous"`` value.
        rows: ``B``.
        seed: of the order, and of the validation set.
        share: ``(rank, ranks)`` of the process.
        series_id: the column that tells series apart.
        time: the column of times.
        **options: what the task of the kind takes besides.

    Raises:
        DataError: the data does not fit, with file, row and column.
        ShapeError: a text that is too short.
        OSError: a file cannot be read.
    """
    if kind == "text":
        return TextTask(read_text(path), rows=rows, seed=seed, share=share, **options)
    if start is not None:
        target = target or (start.targets.names if start.targets is not None else ())
        inputs = inputs or (() if Path(path).suffix.lower() == ".ts" else start.inputs.names)
    common = {"start": start, "rows": rows, "seed": seed, "share": share, **options}
    if kind == "series":
        columns = {"series_id": series_id, "time": time, "missing": missing, "validation": validation}
        return SeriesTask(read_series(path, target, inputs, **columns), **common)
    if len(target) > 1:
        raise DataError(f"{path}: sequences have one column of answers, but `target` names {', '.join(target)}")
    answer = target[0] if target else None
    learned, chosen = read_sequences(path, answer, inputs).split(validation, seed)
    judge = None if test is None else read_sequences(test, answer, inputs)
    return SequenceTask(learned, chosen, judge, missing=missing, **common)
