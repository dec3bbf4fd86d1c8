"""Many series in one table: one pass over the file puts each of them together."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from treadle.data.table_file import Rows
from treadle.errors import DataError
from treadle.streams.stream import PIECE_BYTES, Piece
from treadle.streams.table import Columns

BYTES_AT_ONCE = 1 << 23
"""How much of the table is sorted by series at once. More makes fewer, longer runs of interleaved series."""


class Series:
    """One series of a table with many; made by `series_of_table`.

    Attributes:
        id: what the id column says, as text.
        path: the table.
        length: its rows.
    """

    def __init__(self, id: str, columns: Columns, store: "_Store", starts: np.ndarray, counts: np.ndarray):
        self.id, self.path = id, columns.file.path
        self._columns, self._store = columns, store
        self._starts, self._ends = starts, counts.cumsum()
        self.length, self.has_targets = int(counts.sum()), bool(columns.targets)

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its rows from ``start`` on."""
        most = max(1, PIECE_BYTES // self._store.row_bytes)
        run = int(self._ends.searchsorted(start, "right"))
        while start < self.length:
            count = min(most, int(self._ends[run]) - start)
            place = int(self._starts[run]) + start - (int(self._ends[run - 1]) if run else 0)
            yield self._columns.piece(self._store.read(place, count))
            start += count
            run += start == self._ends[run]


def series_of_table(
    path: str | os.PathLike[str],
    id: str,
    time: str | None = None,
    inputs: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
) -> list[Series]:
    """The series of a table as streams; a column names the series of each row.

    Rows of different series may lie in any order among each other; those of one series are in the order of time. The
    table is read once, in pieces, and every cell checked, before anything is trained on it; what was asked for of it
    goes to a temporary file, series by series, which is gone when the last of them is. So a series can be read from
    any row on, and memory stays bounded whatever the size of the table.

    Args:
        path: as for `Table`.
        id: the column that names the series: text or whole numbers.
        time: a column of times or numbers by which the rows of a series are in order. It is not read as a feature, but
            refused if two times of a series are equal or go back.
        inputs: the columns that a network reads; all but ``id``, ``time`` and ``targets`` unless given.
        targets: the target columns; without them, the target is the next row of the inputs.

    Returns:
        The series in the order in which they first appear, named as the column names them.

    Raises:
        OSError: the file cannot be read, or there is no room for the temporary one.
        DataError: as of `Table`, with file, row and column; a row without an id.

    Example:
        >>> import pathlib, treadle as td
        >>> table = "day,place,rain\\n1,Ghent,3\\n1,Delft,0\\n2,Ghent,4\\n2,Delft,1\\n3,Ghent,0\\n"
        >>> _ = pathlib.Path("rain.csv").write_text(table)
        >>> ghent, delft = td.streams.series_of_table("rain.csv", id="place", time="day")
        >>> ghent.id, next(ghent.pieces()).x.ravel().tolist()
        ('Ghent', [3.0, 4.0, 0.0])
    """
    columns = Columns(os.fspath(path), inputs, targets, time, series=id)
    store = _Store(8 * len(columns.numbers))
    sorter, pending = _Sorter(columns, store), []
    for rows in columns.rows():
        pending.append(rows)
        if sum(map(len, pending)) * store.row_bytes >= BYTES_AT_ONCE:
            sorter.take(pending)
            pending = []
    if pending:
        sorter.take(pending)
    if not sorter.numbers:
        raise DataError(f"{columns.file.path} has no rows below its header: there is no series in it")
    return sorter.series()


class _Sorter:
    """Takes a table piece by piece and puts the rows of each series into runs that lie together."""

    def __init__(self, columns: Columns, store: "_Store"):
        self.columns, self.store = columns, store
        self.numbers: dict[str | int, int] = {}  # of the series, by what the column says
        self.runs: list[tuple[array[int], array[int]]] = []  # of each series: where its runs start, their lengths
        self.last = np.empty(0)  # the latest time of each series

    def take(self, pieces: list[Rows]) -> None:
        rows = Rows.joined(pieces)
        values, whose = self.columns.values(rows), self._numbers_of(rows)
        order = whose.argsort(kind="stable")
        sorted_by = whose[order]
        starts = np.flatnonzero(np.diff(sorted_by, prepend=-1))
        if self.columns.time:
            self._check_times(rows, order, sorted_by, starts)
        place = self.store.append(values[order])
        counts = np.diff(starts, append=len(order))
        for series, start, count in zip(sorted_by[starts].tolist(), starts.tolist(), counts.tolist(), strict=True):
            self.runs[series][0].append(place + start)
            self.runs[series][1].append(count)

    def series(self) -> list[Series]:
        return [
            Series(str(name), self.columns, self.store, np.array(starts, np.int64), np.array(counts, np.int64))
            for name, (starts, counts) in zip(self.numbers, self.runs, strict=True)
        ]

    def _numbers_of(self, rows: Rows) -> np.ndarray:
        """For each row, the number of its series; new ones get the next."""
        import pyarrow as pa

        assert self.columns.series is not None
        column = rows.column(self.columns.series)
        coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        names = coded.dictionary.to_pylist()
        unnamed = codes == (names.index("") if "" in names else -1)
        if column.null_count or unnamed.any():
            row = int(((codes == -1) | unnamed).argmax())
            raise rows.error(row, self.columns.series, "the id is missing, but every row needs that of its series")
        translate = np.zeros(len(names), np.int64)
        for code in dict.fromkeys(codes[np.sort(np.unique(codes, return_index=True)[1])].tolist()):
            if names[code] not in self.numbers:
                self.numbers[names[code]] = len(self.numbers)
                self.runs.append((array("q"), array("q")))
            translate[code] = self.numbers[names[code]]
        return translate[codes]

    def _check_times(self, rows: Rows, order: np.ndarray, sorted_by: np.ndarray, starts: np.ndarray) -> None:
        assert self.columns.time is not None
        times = rows.times(self.columns.time)[order]
        known = len(self.last)
        wrong = np.zeros(len(times), bool)
        equal = np.zeros(len(times), bool)
        inside = sorted_by[1:] == sorted_by[:-1]
        wrong[1:] = inside & (times[1:] <= times[:-1])
        equal[1:] = inside & (times[1:] == times[:-1])
        old = starts[sorted_by[starts] < known]
        before = self.last[sorted_by[old]]
        wrong[old], equal[old] = times[old] <= before, times[old] == before
        if wrong.any():
            place = min(np.flatnonzero(wrong).tolist(), key=order.__getitem__)  # the first in the file
            name = next(name for name, number in self.numbers.items() if number == sorted_by[place])
            self.columns.refuse_time(rows, int(order[place]), bool(equal[place]), f" of {name!r}")
        ends = np.append(starts[1:], len(times)) - 1
        grown = np.zeros(len(self.numbers), np.result_type(times, self.last) if known else times.dtype)
        grown[:known] = self.last
        grown[sorted_by[ends]] = times[ends]
        self.last = grown


class _Store:
    """Rows of float64 in a temporary file that has no name, and so is gone with the last process that has it open."""

    def __init__(self, row_bytes: int):
        with tempfile.TemporaryFile() as file:
            self._open(os.dup(file.fileno()), row_bytes)
        self._rows = 0

    def _open(self, descriptor: int, row_bytes: int) -> None:
        self._file, self.row_bytes = descriptor, row_bytes
        weakref.finalize(self, os.close, descriptor)

    def append(self, rows: np.ndarray) -> int:
        """Write rows [n, F] at the end; gives the number of the first."""
        data, first = memoryview(np.ascontiguousarray(rows).data).cast("B"), self._rows
        while data:
            data = data[os.write(self._file, data) :]
        self._rows += len(rows)
        return first

    def read(self, first: int, count: int) -> np.ndarray:
        """``count`` rows [n, F] from number ``first`` on. Threads and processes may read at the same time."""
        data = os.pread(self._file, count * self.row_bytes, first * self.row_bytes)
        return np.frombuffer(data).reshape(count, self.row_bytes // 8)

    def __getstate__(self) -> dict[str, Any]:
        from multiprocessing.reduction import DupFd  # what a file becomes on its way to another process

        return {"file": DupFd(self._file), "row_bytes": self.row_bytes, "rows": self._rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(state["file"].detach(), state["row_bytes"])
        self._rows = state["rows"]
