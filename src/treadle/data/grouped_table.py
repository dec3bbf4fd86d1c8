"""The series within a table: rows that a column tells apart, or a row each whose cells are lists."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle.data.table_file import Rows, TableFile
from treadle.errors import DataError


class GroupedTable:
    """Columns of a table with a value for each step, and which of these values belong to which series.

    In a flat table a row is a step. Where the columns of numbers are lists, as Parquet may have them, a row is a
    series.

    Args:
        path: as of `TableFile`.
        numbers: columns of numbers, one for each step.
        others: columns of anything else.
        series_id: the column that says to which series a row belongs; one series, or one for each row of lists, if it
            is None. Rows of several series may alternate.
        time: the column of times: numbers, or times as ISO 8601 writes them. Within a series they must grow.

    Attributes:
        ids: of the series, in the order in which they begin.
        places: of each series, where its steps are in the columns.
        clock: the time of each step, as a number; its number in the file if no column says the time.

    Raises:
        DataError: a column is missing; a value is no number; times stand still or go back. With row and column.
        OSError: the file cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from treadle.data.grouped_table import GroupedTable
        >>> _ = Path("tiny.csv").write_text("unit,y\\na,1\\nb,5\\na,2\\n")
        >>> table = GroupedTable("tiny.csv", ["y"], series_id="unit")
        >>> [(name, table.numbers("y")[places].tolist()) for name, places in zip(table.ids, table.places)]
        [('a', [1.0, 2.0]), ('b', [5.0])]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        numbers: Sequence[str],
        others: Sequence[str] = (),
        series_id: str | None = None,
        time: str | None = None,
    ):
        self.file = file = TableFile(path)
        extra = [name for name in (series_id, time) if name is not None]
        file.require([*numbers, *others, *extra])
        self.lists = all(file.is_list(name) for name in numbers)
        flat = ([] if self.lists else [*numbers, *others, *extra]) + [name for name in [series_id] if name]
        for name in flat:
            if file.is_list(name):
                raise DataError(f"{path}: column {name!r} has a list in each row; a series has one value in each")
        self._starts = np.empty(0, np.int64)
        if self.lists:
            self.rows = file.read(others=[*numbers, *others, *extra])
            self._find_lists([*numbers, *([time] if time else [])])
            self._numbers = {name: self.rows.numbers_of_lists(name) for name in numbers}
        else:
            self.rows = file.read(numbers, [*others, *extra])
            self._numbers = {name: self.rows.numbers(name) for name in numbers}
        self.ids, self.places = self._group(series_id)
        self.clock = np.arange(int(self._starts[-1]) if self.lists else len(self.rows))
        if time is not None:
            self.clock = self.rows.numbers_of_lists(time) if self.lists else self.rows.times(time)
            self._check_times(time)

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers: float64, one for each step, NaN where a value is missing."""
        return self._numbers[name]

    def values(self, name: str) -> list[Any]:
        """A column of anything of a flat table, as Python has it; None where a value is missing."""
        return self.rows.values(name)

    def error(self, place: int, column: str, message: str) -> DataError:
        """What to raise about a step, by its place in the columns."""
        if not self.lists:
            return self.rows.error(place, column, message)
        row = int(self._starts.searchsorted(place, "right")) - 1
        return self.rows.error(row, column, f"step {place - self._starts[row] + 1}: {message}")

    def _find_lists(self, names: Sequence[str]) -> None:
        """Where the steps of each row begin; all lists of a row are of one length."""
        for name in names:
            if not self.file.is_list(name):
                raise DataError(
                    f"{self.file.path}: column {name!r} has one value in each row, {names[0]!r} has a list of steps:"
                    " name other columns"
                )
            lengths = self.rows.lengths_of_lists(name)
            starts = np.concatenate([[0], np.cumsum(lengths)])
            if not len(self._starts):
                self._starts = starts
            wrong = np.flatnonzero(starts != self._starts)
            if len(wrong):
                row = int(wrong[0]) - 1
                known = self._starts[row + 1] - self._starts[row]
                raise self.rows.error(row, name, f"{lengths[row]} steps, but {names[0]!r} has {known}")

    def _group(self, series_id: str | None) -> tuple[list[str], list[np.ndarray]]:
        """Ids of series, in the order in which they begin, and where their steps are."""
        count = len(self.rows)
        if self.lists:
            ids = [str(row + 1) for row in range(count)] if series_id is None else ids_of(self.rows, series_id)
            of_rows = np.repeat(np.arange(count), np.diff(self._starts))
            if len(set(ids)) == count:
                return ids, np.split(np.arange(len(of_rows)), self._starts[1:-1])
            raise DataError(f"{self.file.path}: column {series_id!r} has one name for several rows of lists")
        if series_id is None:
            return [""], [np.arange(count)]
        ids, number = numbered_ids(self.rows, series_id)
        return ids, np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])

    def _check_times(self, time: str) -> None:
        for places in self.places:
            wrong = (np.diff(self.clock[places]) <= 0).nonzero()[0]
            if len(wrong):
                before, place = int(places[wrong[0]]), int(places[wrong[0] + 1])
                what = "is the same time as" if self.clock[place] == self.clock[before] else "is earlier than"
                if self.lists:
                    raise self.error(place, time, f"{self.clock[place]:g} {what} {self.clock[before]:g} before it")
                earlier = f"{self.rows.written(time, before)} in {self.file.place(before)}"
                raise self.error(
                    place,
                    time,
                    f"{self.rows.written(time, place)} {what} {earlier}: rows of a series are sorted by"
                    " time, each time once; if there are several series, name the column that tells them apart"
                    " (`series_id`)",
                )


def numbered_ids(rows: Rows, series_id: str) -> tuple[list[str], np.ndarray]:
    """The names of series, in the order in which they begin, and for each row [N] the number of its series among them.

    Raises:
        DataError: a row has none.
    """
    import pyarrow as pa

    values = rows.column(series_id)
    if values.null_count:
        missing = values.is_null().to_numpy(zero_copy_only=False)
        raise rows.error(int(missing.argmax()), series_id, "the id of the series is missing")
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()  # pyright: ignore[reportAttributeAccessIssue]
    coded = values.dictionary_encode()
    return [str(one) for one in coded.dictionary.to_pylist()], coded.indices.to_numpy()


def ids_of(rows: Rows, series_id: str) -> list[str]:
    """The series of each row, by name.

    Raises:
        DataError: a row has none.
    """
    ids, numbers = numbered_ids(rows, series_id)
    return [ids[number] for number in numbers.tolist()]
