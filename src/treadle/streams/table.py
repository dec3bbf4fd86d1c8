"""Tables, Parquet or text: read in pieces, every cell checked."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from treadle.data.table_file import Rows, TableFile, some
from treadle.errors import DataError
from treadle.streams.stream import Piece


class Table:
    """A Parquet or CSV file whose rows are one stream, read in pieces: any size in bounded memory.

    For a table of many series, which a column names, use `series_of_table`. Messages say the line of a text file, and
    of a Parquet file the row, from 1.

    Args:
        path: ``.parquet``, ``.pq``, ``.csv`` or ``.tsv``; text files may be compressed (``.csv.gz``). The first line of
            a text file names the columns.
        inputs: the columns that a network reads, which become the features of x, float64 [n, F]; all but ``time`` and
            ``targets`` unless given.
        targets: the target columns; without them, the target is the next row of the inputs.
        time: a column of times or numbers by which rows are in order. It is not read as a feature, but refused if two
            times are equal or go back.
        id: the stream's name; the path unless given.

    Raises:
        OSError: the file cannot be read.
        DataError: it is no such table, lacks a column or, when read, has a cell among inputs and targets that is
            missing, text or infinite, or a time that is missing or does not follow the one before. Missing is what is
            empty, and ``NA``, ``N/A``, ``n/a``, ``NaN``, ``nan``, ``null``, ``NULL``, ``None`` and ``?``.

    A Parquet file knows its length and where to find a row. A CSV file does not: to continue at a row, those before it
    are read again, and its length is not known until it has been read.

    Example:
        >>> import pathlib, treadle as td
        >>> _ = pathlib.Path("tide.csv").write_text("hour,level,wind\\n0,1.2,3\\n1,1.5,2\\n2,1.7,4\\n")
        >>> tide = td.streams.Table("tide.csv", inputs=["level", "wind"], targets=["level"], time="hour")
        >>> piece = next(tide.pieces(1))
        >>> piece.x.tolist(), piece.target.tolist()
        ([[1.5, 2.0], [1.7, 4.0]], [[1.5], [1.7]])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        inputs: str | Sequence[str] | None = None,
        targets: str | Sequence[str] | None = None,
        time: str | None = None,
        *,
        id: str | None = None,
    ):
        self.path = os.fspath(path)
        self.id = self.path if id is None else str(id)
        self._columns = Columns(self.path, inputs, targets, time)
        self.length, self.has_targets = self._columns.file.row_count(), bool(self._columns.targets)

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its rows from ``start`` on."""
        columns, before = self._columns, None
        for rows in columns.rows(start):
            values = columns.values(rows)
            if columns.time:
                times = rows.times(columns.time)
                columns.check_order(times, rows, times[:0] if before is None else before)
                before = times[-1:]
            yield columns.piece(values)


class Columns:
    """The columns of a table that were asked for."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        inputs: str | Sequence[str] | None,
        targets: str | Sequence[str] | None,
        time: str | None,
        series: str | None = None,
    ):
        self.file, self.time, self.series = TableFile(path), time, series
        self.targets, self.inputs = _as_names(targets), _as_names(inputs)
        if inputs is None:
            self.inputs = [name for name in self.file.names if name not in {*self.targets, time, series}]
        if not self.inputs:
            names = some(self.file.names)
            raise DataError(f"{path} has no column left to read: name the inputs among {names}")
        self.numbers, self.others = [*self.inputs, *self.targets], [name for name in (time, series) if name is not None]
        self.file.require([*self.numbers, *self.others])
        self.file.check_numbers(self.numbers)

    def piece(self, values: np.ndarray) -> Piece:
        """Inputs and targets, which lie beside each other in ``values`` [n, F]."""
        width = len(self.inputs)
        return Piece(values[:, :width], values[:, width:] if self.targets else None)

    def rows(self, start: int = 0) -> Iterator[Rows]:
        """Rows from ``start`` on, in pieces."""
        return self.file.batches(self.numbers, self.others, start)

    def values(self, rows: Rows) -> np.ndarray:
        """Inputs and targets as float64 [n, F], once every cell is known to hold a number."""
        values = np.empty((len(rows), len(self.numbers)))
        for place, name in enumerate(self.numbers):
            values[:, place] = rows.numbers(name)
        missing = np.isnan(values)
        if missing.any():
            row, place = np.argwhere(missing)[0].tolist()
            raise rows.error(row, self.numbers[place], "the value is missing: fill it in, or leave the row out")
        return values

    def check_order(self, times: np.ndarray, rows: Rows, before: np.ndarray) -> None:
        """Refuse ``times`` [n] that do not grow, each beyond the one before it; ``before`` is the one before them."""
        joined = np.concatenate([before, times])
        late = np.flatnonzero(joined[1:] <= joined[:-1])
        if len(late):
            at = int(late[0])
            self.refuse_time(rows, at + 1 - len(before), bool(joined[at] == joined[at + 1]))

    def refuse_time(self, rows: Rows, row: int, equal: bool, who: str = "") -> None:
        """Say that the time of one of the rows does not follow the one before."""
        assert self.time is not None
        what = "is a time that was there before" if equal else "goes back in time"
        order = " and ".join(repr(name) for name in (self.series, self.time) if name)
        raise rows.error(
            row,
            self.time,
            f"{rows.written(self.time, row)}{who} {what}: sort the file by {order}, with one row for each time",
        )


def _as_names(names: str | Sequence[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)
