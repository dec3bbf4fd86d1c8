"""Columns of a CSV or Parquet file; whatever is wrong in them is said with file, row and column."""

import csv
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"]
"""How a CSV file may write that there is no value."""


class Table:
    """Some columns of a file.

    Args:
        path: ``.csv`` (comma-separated, names in the first line) or ``.parquet``.
        columns: those to read; all if there are none.

    Raises:
        DataError: the file is neither, or lacks a column, or has no rows.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str] = ()):
        import pyarrow as pa

        self.path = Path(path)
        self.is_csv = self.path.suffix.lower() == ".csv"
        with open(self.path, "rb"):
            pass  # raises what the operating system has to say, which pyarrow rewords
        try:
            names = _names(self.path, self.is_csv)
            for column in columns:
                if column not in names:
                    near = difflib.get_close_matches(column, names, 1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise DataError(f"{path} has no column {column!r}: it has {', '.join(names)}{hint}")
            self._table = _read(self.path, self.is_csv, list(columns) or names)
        except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
            if self.is_csv and "Expected" in str(error):
                _refuse_ragged(self.path)
            raise DataError(f"{path} cannot be read as {'CSV' if self.is_csv else 'Parquet'}: {error}") from None
        if not len(self):
            raise DataError(f"{path} has no rows")

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def names(self) -> list[str]:
        """Of the columns that were read."""
        return self._table.column_names

    def is_list(self, column: str) -> bool:
        """Whether each row has a list in this column."""
        import pyarrow as pa

        kind = self._table.schema.field(column).type
        return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)

    def is_text(self, column: str) -> bool:
        """Whether there is anything in this column, or in its lists, that is no number."""
        import pyarrow as pa

        values = self._flat(column)
        return not pa.types.is_null(values.type) and _first_failure(values, pa.float64()) is not None

    def values(self, column: str) -> list[Any]:
        """A column as Python has it: words, numbers, lists, None where there is nothing."""
        return self._table.column(column).to_pylist()

    def numbers(self, column: str) -> np.ndarray:
        """A column as float64 [N], NaN where there is nothing.

        Raises:
            DataError: a value is no number, or infinite.
        """
        import pyarrow as pa

        values = self._flat(column)
        wrong = _first_failure(values, pa.float64())
        if wrong is not None:
            raise self.error(wrong, column, f"{values[wrong].as_py()!r:.40} is not a number")
        # A Parquet column may hold both nulls and NaN, and both mean that there is nothing.
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        infinite = np.isinf(numbers).nonzero()[0]
        if len(infinite):
            raise self.error(int(infinite[0]), column, "the value is infinite")
        return numbers

    def times(self, column: str) -> np.ndarray:
        """A column of times as whole numbers or float64 [N] that can be compared.

        Raises:
            DataError: a value is neither a number, nor a date or a time as ISO 8601 writes it, or is missing.
        """
        import pyarrow as pa

        values = self._flat(column)
        # What the first value is, the others are to be: a wrong one among numbers is the wrong one.
        first = values.drop_null()[:1]
        kind = pa.float64() if _first_failure(first, pa.float64()) is None else pa.timestamp("us")
        if pa.types.is_temporal(values.type):
            kind = pa.timestamp("us", tz=getattr(values.type, "tz", None))
        wrong = _first_failure(values, kind)
        if wrong is not None:
            message = f"{values[wrong].as_py()!r:.40} is no time: write numbers, or times such as 2024-05-01 12:00:00"
            raise self.error(wrong, column, message)
        values = values.cast(kind)
        nothing = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        if nothing.any():
            raise self.error(int(nothing.argmax()), column, "there is no time")
        return (values if kind == pa.float64() else values.cast(pa.int64())).to_numpy(zero_copy_only=False)

    def error(self, row: int, column: str | None, message: str) -> DataError:
        """What to raise about a row, counted from 0."""
        return DataError(f"{self.path}, {self.where(row)}{f', column {column!r}' if column else ''}: {message}")

    def where(self, row: int) -> str:
        """A row as people find it: by its line in a CSV file, by its number, from 1, in others."""
        if not self.is_csv:
            return f"row {row + 1}"
        with open(self.path, newline="", encoding="utf-8", errors="replace") as file:
            lines = csv.reader(file)
            filled = (lines.line_num for fields in lines if fields)
            for _ in range(row + 1):
                next(filled)
            return f"line {next(filled)}"

    def _flat(self, column: str) -> "pa.Array":
        import pyarrow as pa

        values = self._table.column(column).combine_chunks()
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        return values.flatten() if self.is_list(column) else values


def _names(path: Path, is_csv: bool) -> list[str]:
    import pyarrow.parquet as pq

    if not is_csv:
        return pq.read_schema(path).names
    with open(path, newline="", encoding="utf-8-sig") as file:
        names = next((fields for fields in csv.reader(file) if fields), [])
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}: give each a name of its own in the first line")
    return names


def _refuse_ragged(path: Path) -> None:
    """Refuse a CSV file whose lines have more or fewer fields than the first: pyarrow does not say where."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(file)
        columns = next(len(fields) for fields in lines if fields)
        for fields in lines:
            if fields and len(fields) != columns:
                count = f"{len(fields)} field" + "s" * (len(fields) != 1)
                raise DataError(f"{path}, line {lines.line_num}: {count}, but the first line has {columns} columns")


def _read(path: Path, is_csv: bool, columns: list[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    if not is_csv:
        return pq.read_table(path, columns=columns)
    # All as text at first: pyarrow would say only that a column is not of the type that its first rows seemed to have.
    convert = pc.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=MISSING,
    )
    # Line ends inside of quotes are rare, but then all is wrong without this.
    return pc.read_csv(path, parse_options=pc.ParseOptions(newlines_in_values=True), convert_options=convert)


def _first_failure(values: "pa.Array", kind: "pa.DataType") -> int | None:
    """Where the first value is that cannot be turned into this type."""
    import pyarrow as pa

    def fails(first: int, last: int) -> bool:
        try:
            values.slice(first, last - first).cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return True
        return False

    first, last = 0, len(values)
    if not last or not fails(first, last):
        return None
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if fails(first, middle) else (middle, last)
    return first
