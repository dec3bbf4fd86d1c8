"""Tables, Parquet or CSV: read in pieces, every cell checked, every refusal with file, row and column."""

import csv
import difflib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from treadle.errors import DataError
from treadle.streams.stream import Piece

__all__ = ["Table"]

CSV_BLOCK_BYTES = 1 << 18  # pyarrow reads some thirty of them ahead
PARQUET_ROWS_AT_ONCE = 1 << 14
PARQUET = (".parquet", ".pq")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
TIME_FORMATS = ["%Y-%m", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S"]
"""Ways to write a time, besides ISO 8601, in which nobody could take the day for the month."""


class Table:
    """A Parquet or CSV file whose rows are one stream, read in pieces: any size in bounded memory.

    A table of many series, told apart by a column, is for `series_of_table`.

    Rows are numbered in messages as a reader counts them: the first below the header is row 1.

    Args:
        path: ``.parquet``, ``.pq``, ``.csv`` or ``.tsv``; text files may be compressed (``.csv.gz``). The first line of
            a text file names the columns.
        inputs: the columns that a network reads, which become the features of x, float64 [n, F]; all but ``time`` and
            ``targets`` unless given.
        targets: the columns that it is to give; without them, windows ask for the next row of the inputs.
        time: a column of times or numbers by which rows are in order. It is not read as a feature, but refused if two
            times are equal or go back.
        id: the stream's name; the path unless given.

    Raises:
        OSError: the file cannot be read.
        DataError: it is no such table, lacks a column or, when read, has a cell among inputs and targets that is empty,
            text, NaN or infinite, or a time that is missing or does not follow the one before.

    A Parquet file knows its length and where to find a row. A CSV file does not: going on from a row means reading over
    those before it, and its length is not known until it has been read.

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
        self.length = self._columns.row_count()

    @property
    def has_targets(self) -> bool:
        """Whether there are target columns."""
        return bool(self._columns.targets)

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its rows from ``start`` on."""
        columns, before = self._columns, None
        for first, batch in columns.batches(start):
            values = columns.numbers(batch, first)
            if columns.time:
                times = columns.times(batch, first)
                columns.check_order(times, first, batch, times[:0] if before is None else before)
                before = times[-1:]
            yield columns.piece(values)


class Columns:
    """The columns of a table that were asked for: found, read and checked."""

    def __init__(self, path: str, inputs: Any, targets: Any, time: str | None, series: str | None = None):
        self.path, self.time, self.series = path, time, series
        suffixes = [suffix.lower() for suffix in _suffixes(path)]
        self._parquet = bool(suffixes) and suffixes[-1] in PARQUET
        self._separator = next((SEPARATORS[suffix] for suffix in suffixes if suffix in SEPARATORS), None)
        if not self._parquet and self._separator is None:
            raise DataError(
                f"{path} is not called like a table: pass a file ending in {', '.join([*PARQUET, *SEPARATORS])}"
            )
        with open(path, "rb"):  # a file that is not there or may not be read says so itself
            pass
        names = self._names()
        self.targets = _as_names(targets)
        self.inputs = _as_names(inputs)
        if inputs is None:
            self.inputs = [name for name in names if name not in {*self.targets, time, series}]
        if not self.inputs:
            raise DataError(f"{path} has no column left to read: name the inputs among {', '.join(names)}")
        for name in [*self.inputs, *self.targets, *filter(None, [time, series])]:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                raise DataError(
                    f"{path} has no column {name!r}: it has {', '.join(names)}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
            if names.count(name) > 1:
                raise DataError(f"{path} has {names.count(name)} columns called {name!r}: give each its own name")
        if self._parquet:
            self._check_parquet_types()

    def row_count(self) -> int | None:
        """Rows, where the file says so."""
        return _parquet(self.path).metadata.num_rows if self._parquet else None

    def piece(self, values: np.ndarray) -> Piece:
        """Inputs and targets, which lie beside each other in ``values`` [n, F]."""
        width = len(self.inputs)
        return Piece(values[:, :width], values[:, width:] if self.targets else None)

    def batches(self, start: int) -> Iterator[tuple[int, Any]]:
        """Arrow record batches with the columns asked for, each with the number of its first row."""
        first = start
        for batch in self._parquet_batches(start) if self._parquet else self._text_batches(start):
            if batch.num_rows:
                yield first, batch
            first += batch.num_rows

    def numbers(self, batch: Any, first: int) -> np.ndarray:
        """Inputs and targets as float64 [n, F], once every cell is known to hold a number."""
        import pyarrow as pa

        values = np.empty((batch.num_rows, len(self.inputs) + len(self.targets)))
        for place, name in enumerate([*self.inputs, *self.targets]):
            column = batch.column(batch.schema.get_field_index(name))
            values[:, place] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            row, place = map(int, wrong[0])
            name = [*self.inputs, *self.targets][place]
            valid = batch.column(batch.schema.get_field_index(name))[row].is_valid
            self._refuse_cell(first + row, name, f"is {values[row, place]}" if valid else "is empty")
        return values

    def times(self, batch: Any, first: int) -> Any:
        """The column of times as numbers that can be compared, whole ones where it has times or whole numbers."""
        import pyarrow as pa

        assert self.time is not None
        column = batch.column(batch.schema.get_field_index(self.time))
        if column.null_count:
            row = column.is_valid().to_numpy(zero_copy_only=False).argmin()
            self._refuse_cell(first + int(row), self.time, "is empty, but every row needs its time")
        kind = column.type
        if pa.types.is_temporal(kind):
            width = pa.int32() if kind.bit_width == 32 else pa.int64()
            return column.cast(width).cast(pa.int64()).to_numpy(zero_copy_only=False)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            times = column.to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero(np.isnan(times) if times.dtype.kind == "f" else [])
            if len(wrong):
                self._refuse_cell(first + int(wrong[0]), self.time, "is NaN, but every row needs its time")
            return times
        raise DataError(
            f"{self.path}, row {first + 1}, column {self.time!r}: {column[0].as_py()!r} was read as {kind}, which is no"
            " time: write ISO 8601, as 2031-05-17T08:30, or numbers"
        )

    def check_order(self, times: Any, first: int, batch: Any, before: Any) -> None:
        """Refuse ``times`` [n] that do not grow, each beyond the one before it; ``before`` is the one before them."""
        joined = np.concatenate([before, times])
        late = np.flatnonzero(joined[1:] <= joined[:-1])
        if len(late):
            at = int(late[0])
            row = at + 1 - len(before)
            self.refuse_time(first + row, batch, row, bool(joined[at] == joined[at + 1]))

    def refuse_time(self, row: int, batch: Any, place: int, equal: bool, who: str = "") -> None:
        """Say that a time does not follow the one before."""
        import pyarrow as pa

        assert self.time is not None
        value = batch.column(batch.schema.get_field_index(self.time))[place].cast(pa.string()).as_py()
        what = "is a time that was there before" if equal else "goes back in time"
        order = [self.series, self.time] if self.series else [self.time]
        raise DataError(
            f"{self.path}, row {row + 1}, column {self.time!r}: {value}{who} {what}: sort the file by"
            f" {' and '.join(map(repr, order))}, with one row for each time"
        )

    def _refuse_cell(self, row: int, name: str, what: str) -> None:
        raise DataError(
            f"{self.path}, row {row + 1}, column {name!r}: the cell {what}: fill it in, or leave the row out"
        )

    def _names(self) -> list[str]:
        import pyarrow as pa

        if self._parquet:
            return _parquet(self.path).schema_arrow.names
        # Not with pyarrow, which merges columns of equal names, and takes a name for a number if one is below it.
        with pa.input_stream(self.path, compression="detect") as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
            try:
                names = next(filter(None, csv.reader(text, delimiter=self._separator or ",")), [])
            except (csv.Error, OSError) as error:
                raise DataError(f"{self.path} is not a table of text: {error}") from error
        if not names:
            raise DataError(f"{self.path} is not a table of text: it has no header")
        for number, name in enumerate(names, 1):
            try:
                name.encode()
            except UnicodeEncodeError as error:
                shown = _shown(name.encode(errors="surrogateescape"))
                raise DataError(
                    f"{self.path}, header, column {number}: the name {shown} is not UTF-8: save the file as UTF-8"
                ) from error
        return names

    def _check_parquet_types(self) -> None:
        import pyarrow as pa

        schema = _parquet(self.path).schema_arrow
        for name in [*self.inputs, *self.targets]:
            kind = schema.field(name).type
            number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
            if any(is_kind(kind) for is_kind in number):
                continue
            example = next((batch.column(0)[0] for batch in self._parquet_batches(0, [name]) if batch.num_rows), None)
            raise DataError(
                f"{self.path}, row 1, column {name!r}: the column holds {kind}"
                + (f", such as {example.as_py()!r}," if example is not None else ",")
                + " but networks need numbers: convert it, or name other columns"
            )

    def _parquet_batches(self, start: int, names: list[str] | None = None) -> Iterator[Any]:
        import pyarrow as pa

        file = _parquet(self.path)
        metadata, group = file.metadata, 0
        while group < metadata.num_row_groups and start >= metadata.row_group(group).num_rows:
            start -= metadata.row_group(group).num_rows
            group += 1
        wanted = names or list(dict.fromkeys([*self.inputs, *self.targets, *filter(None, [self.time, self.series])]))
        groups = list(range(group, metadata.num_row_groups))
        try:
            for batch in file.iter_batches(PARQUET_ROWS_AT_ONCE, groups, wanted, use_threads=False):
                yield batch.slice(min(start, batch.num_rows))
                start -= min(start, batch.num_rows)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path} is damaged: {error}") from error

    def _text_batches(self, start: int) -> Iterator[Any]:
        import pyarrow as pa

        numbers = {name: pa.float64() for name in [*self.inputs, *self.targets]}
        try:
            yield from self._read_text(start, numbers)
        except pa.ArrowInvalid as error:
            self._refuse_text(error)

    def _read_text(self, start: int, types: dict[str, Any]) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if self.series:
            types = {self.series: pa.string(), **types}  # "007" is not 7
        over = min(start, 2**31 - 1)  # pyarrow skips a 32-bit number of rows
        read = arrow_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES, skip_rows_after_names=over)
        convert = arrow_csv.ConvertOptions(
            column_types=types,
            include_columns=list(dict.fromkeys([*types, *filter(None, [self.time, self.series])])),
            null_values=[""],  # "n/a" and the like are refused as the text that they are
            timestamp_parsers=[arrow_csv.ISO8601, *TIME_FORMATS],
        )
        parse = arrow_csv.ParseOptions(delimiter=self._separator, newlines_in_values=True)
        rest = start - over
        with pa.input_stream(self.path, compression="detect") as stream:
            for batch in arrow_csv.open_csv(stream, read, parse, convert):
                yield batch.slice(min(rest, batch.num_rows))
                rest -= min(rest, batch.num_rows)

    def _refuse_text(self, error: Exception) -> None:
        """Find the cell that pyarrow could not read: read everything again, as text."""
        import pyarrow as pa

        numbers, first = [*self.inputs, *self.targets], 0
        names = list(dict.fromkeys([*numbers, *filter(None, [self.series])]))
        try:
            for batch in self._read_text(0, {name: pa.binary() for name in names}):
                columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
                found = []
                for place, (name, column) in enumerate(zip(names, columns, strict=True)):
                    kind = pa.float64() if name in numbers else pa.string()
                    if not _are(kind, column):
                        row = next(row for row in range(batch.num_rows) if not _are(kind, column.slice(row, 1)))
                        found.append((row, place))
                if found:
                    row, place = min(found)
                    cell = columns[place][row].as_py().strip()
                    what = "no number" if names[place] in numbers else "not UTF-8"
                    self._refuse_cell(
                        first + row, names[place], f"holds {_shown(cell)}, which is {what}" if cell else "is empty"
                    )
                first += batch.num_rows
        except pa.ArrowInvalid:
            pass  # not a cell that is no number, but a table that is no table: what was said first stands
        raise DataError(f"{self.path} cannot be read as a table: {error}") from error


def _are(kind: Any, column: Any) -> bool:
    """Whether bytes are all UTF-8, and numbers if they are to be."""
    import pyarrow as pa

    try:
        column.cast(pa.string()).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _shown(cell: bytes) -> str:
    """In quotes; what is not UTF-8 byte by byte."""
    try:
        return repr(cell.decode())
    except UnicodeDecodeError:
        return repr(cell)[1:]


def _parquet(path: str) -> Any:
    """An open Parquet file that is read a page at a time: its row groups may be larger than the memory."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file, or is damaged: {error}") from error


def _as_names(names: str | Sequence[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _suffixes(path: str) -> list[str]:
    return ["." + part for part in os.path.basename(path).split(".")[1:]]
