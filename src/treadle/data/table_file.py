"""Tables: CSV, TSV and Parquet files, read in pieces or whole; what is wrong is said with file, row and column."""

import collections
import contextlib
import csv
import difflib
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.atomic import regular
from treadle.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")
"""How a text file may write that a value is missing, in any column. Parquet has nulls, and NaN, for that."""

PARQUET = (".parquet", ".pq")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
COMPRESSED = (".gz", ".bz2", ".lz4", ".zst")
SUFFIXES = (*PARQUET, *SEPARATORS)

TEXT_BLOCK_BYTES = 1 << 18  # pyarrow reads some thirty of them ahead
TEXT_BLOCK_BYTES_OF_COLUMN = 1 << 12  # each column of each block costs as much as a hundred numbers
MOST_BLOCK_BYTES = 1 << 30  # a line has to fit into a block
PARQUET_ROWS_AT_ONCE = 1 << 14
TIME_FORMATS = ("%Y-%m", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%H:%M:%S", "%H:%M")
"""Ways to write a time, besides ISO 8601, in which nobody could take the day for the month."""

NO_TIME = "{} is no time: write ISO 8601, as 2031-05-17T08:30, or numbers"
CONVERSION_ERRORS = (ValueError, TypeError, NotImplementedError)
"""What pyarrow's errors about values and types are kinds of."""


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether a file is called like a table."""
    return _suffix(path) in SUFFIXES


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Whether a file is called like a table of Parquet, whose cells may be lists."""
    return _suffix(path) in PARQUET


class TableFile:
    """A table in a file of any size: its columns are known, nothing else has been read yet.

    Rows are counted from 0 here. Messages say the line of a text file, and of a Parquet file the row, from 1.

    Args:
        path: ``.csv``, ``.tsv``, ``.parquet`` or ``.pq``; text files may be compressed (``.csv.gz``). The first line of
            a text file names the columns.

    Example:
        >>> from pathlib import Path
        >>> from treadle.data.table_file import TableFile
        >>> _ = Path("tide.tsv").write_text("hour\\tlevel\\n0\\t1.5\\n1\\tNA\\n")
        >>> TableFile("tide.tsv").read(numbers=["level"]).numbers("level").tolist()
        [1.5, nan]
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        if not is_table(path):
            raise DataError(f"{path} is not called like a table: pass a file ending in {', '.join(SUFFIXES)}")
        with open(regular(path), "rb"):  # a file that is not there or may not be read says so itself
            pass
        suffix = _suffix(path)
        self.is_parquet, self._separator = is_parquet(path), SEPARATORS.get(suffix, ",")
        self._schema = self._parquet().schema_arrow if self.is_parquet else None
        self.names: list[str] = self._header() if self._schema is None else self._schema.names
        self._counts = collections.Counter(self.names)
        self.ways_to_write_times: dict[str, str] = {}
        """Of columns of text, as soon as their first times have been read."""

    def require(self, columns: Iterable[str]) -> None:
        """Refuse what is not the name of one column."""
        for name in columns:
            count = self._counts[name]
            if not count:
                near = difflib.get_close_matches(name[:100], self.names[:1000], 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(f"{self.path} has no column {name!r:.100}: it has {some(self.names)}{hint}")
            if count > 1:
                raise DataError(f"{self.path} has {count} columns called {name!r:.100}: give each its own name")

    def row_count(self) -> int | None:
        """How many rows there are, where the file says so: in Parquet."""
        return self._parquet().metadata.num_rows if self.is_parquet else None

    def is_list(self, column: str) -> bool:
        """Whether each row has a list in this column."""
        import pyarrow as pa

        if self._schema is None:
            return False
        kind = self._schema.field(column).type
        return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)

    def check_numbers(self, columns: Sequence[str]) -> None:
        """Refuse columns of Parquet that do not begin with numbers, before all is read."""
        import pyarrow as pa

        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
        types = self._schema
        odd = [name for name in columns if types and not any(is_kind(types.field(name).type) for is_kind in numbers)]
        for rows in itertools.islice(self.batches(odd), 1 if odd else 0):
            for name in odd:
                rows.numbers(name)

    def read(self, numbers: Sequence[str] = (), others: Sequence[str] = ()) -> "Rows":
        """All rows of some columns, at least one; see `batches`."""
        self.require([*numbers, *others])
        self.check_numbers(numbers)
        pieces = list(self.batches(numbers, others))
        if not pieces:
            raise DataError(f"{self.path} has no rows")
        return Rows.joined(pieces)

    def batches(self, numbers: Sequence[str], others: Sequence[str] = (), start: int = 0) -> "Iterator[Rows]":
        """Rows in pieces, from ``start`` on, in memory that does not depend on the size of the file.

        Numbers are expected in some columns; the others are text, times or lists. Parquet knows where a row is; of a
        text file, those before it are read over.
        """
        first = start
        read = self._of_parquet if self.is_parquet else self._of_text
        for batch in read(numbers, others, start):
            if batch.num_rows:
                yield Rows(self, first, batch)
            first += batch.num_rows

    def error(self, row: int, column: str, message: str) -> DataError:
        """What to raise about a row, counted from 0."""
        return DataError(f"{self.path}, {self.place(row)}, column {column!r}: {message}")

    def place(self, row: int) -> str:
        """Where people find a row, counted from 0: its line in a text file, its number from 1 in Parquet."""
        if not self.is_parquet:
            with contextlib.suppress(csv.Error, StopIteration), self._lines() as lines:
                filled = (lines.line_num for fields in lines if fields)
                return f"line {next(itertools.islice(filled, row + 1, None))}"
        return f"row {row + 1}"

    def _parquet(self) -> "parquet.ParquetFile":
        """The open file, read a page at a time: its row groups may be larger than the memory."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.path} is not a Parquet file, or is damaged: {error}") from error

    @contextlib.contextmanager
    def _lines(self) -> Iterator[Any]:
        """The fields of each line, as the `csv` module reads them: pyarrow does not say where a line is."""
        import pyarrow as pa

        before = csv.field_size_limit(MOST_BLOCK_BYTES)
        try:
            with pa.input_stream(self.path, compression="detect") as stream:
                text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
                yield csv.reader(text, delimiter=self._separator)
        finally:
            csv.field_size_limit(before)

    def _header(self) -> list[str]:
        # Not with pyarrow, which merges columns of equal names, and takes a name for a number if one is below it.
        try:
            with self._lines() as lines:
                names = next(filter(None, lines), [])
        except (csv.Error, OSError) as error:
            raise DataError(f"{self.path} is not a table of text: {error}") from error
        if not names:
            raise DataError(f"{self.path} is not a table of text: it has no header")
        if names == ["\0" * len(names[0])]:
            raise DataError(f"{self.path} is not a table of text: it holds zero bytes only; write it again")
        for number, name in enumerate(names, 1):
            if not name.isascii() and any("\udc80" <= letter <= "\udcff" for letter in name):  # of surrogateescape
                data = name.encode(errors="surrogateescape")
                raise DataError(
                    f"{self.path}, header, column {number}: the name {shown(data)} is not UTF-8: save the file as UTF-8"
                )
        return names

    def _of_parquet(self, numbers: Sequence[str], others: Sequence[str], start: int) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        file = self._parquet()
        metadata, group = file.metadata, 0
        while group < metadata.num_row_groups and start >= metadata.row_group(group).num_rows:
            start -= metadata.row_group(group).num_rows
            group += 1
        groups, wanted = list(range(group, metadata.num_row_groups)), list(dict.fromkeys([*numbers, *others]))
        try:
            for batch in file.iter_batches(PARQUET_ROWS_AT_ONCE, groups, wanted, use_threads=False):
                yield batch.slice(min(start, batch.num_rows))
                start -= min(start, batch.num_rows)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path} is damaged: {error}") from error

    def _of_text(self, numbers: Sequence[str], others: Sequence[str], start: int) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        types = dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(others, pa.binary())
        try:
            yield from self._parsed(types, start)
        except pa.ArrowInvalid as error:
            if "Expected" in str(error):
                self._refuse_ragged()
            self._refuse_text(numbers, others)
            raise DataError(f"{self.path} cannot be read as a table: {error}") from error

    def _parsed(self, types: "dict[str, pa.DataType]", start: int) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        block_bytes = max(TEXT_BLOCK_BYTES, TEXT_BLOCK_BYTES_OF_COLUMN * len(self.names))
        packed = os.fspath(self.path).lower().endswith(COMPRESSED)
        most = MOST_BLOCK_BYTES if packed else min(MOST_BLOCK_BYTES, os.path.getsize(self.path))
        while True:
            try:
                for batch in self._parsed_in_blocks(types, start, block_bytes):
                    start += batch.num_rows
                    yield batch
                return
            except pa.ArrowInvalid as error:  # of a line that is longer than a block
                if not re.search("straddling|Empty CSV file or block", str(error)) or block_bytes >= most:
                    raise
                block_bytes *= 8

    def _parsed_in_blocks(
        self, types: "dict[str, pa.DataType]", start: int, block_bytes: int
    ) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        over = min(start, 2**31 - 1)  # pyarrow skips a 32-bit number of rows
        read = arrow_csv.ReadOptions(use_threads=False, block_size=block_bytes, skip_rows_after_names=over)
        convert = arrow_csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=MISSING, strings_can_be_null=True
        )
        # Line ends inside of quotes are rare, but then all is wrong without this.
        parse = arrow_csv.ParseOptions(delimiter=self._separator, newlines_in_values=True)
        rest = start - over
        with pa.input_stream(self.path, compression="detect") as stream:
            for batch in arrow_csv.open_csv(stream, read, parse, convert):
                yield batch.slice(min(rest, batch.num_rows))
                rest -= min(rest, batch.num_rows)

    def _refuse_ragged(self) -> None:
        """Refuse the first line that has more or fewer fields than the header."""
        with contextlib.suppress(csv.Error), self._lines() as lines:
            for fields in filter(None, lines):
                if len(fields) != len(self.names):
                    count = f"{len(fields)} field" + "s" * (len(fields) != 1)
                    raise DataError(
                        f"{self.path}, line {lines.line_num}: {count}, but the first line has {len(self.names)} columns"
                    )

    def _refuse_text(self, numbers: Sequence[str], others: Sequence[str]) -> None:
        """Refuse the first cell that is not a number where one is expected: all is read again, as bytes."""
        import pyarrow as pa

        first = 0
        with contextlib.suppress(pa.ArrowInvalid):  # not a cell that is wrong, but a table that is no table
            for batch in self._parsed(dict.fromkeys([*numbers, *others], pa.binary()), 0):
                rows = Rows(self, first, batch)
                wrong = {name: _first_failure(batch.column(name), _as_float64) for name in numbers}
                places = {row: name for name, row in reversed(wrong.items()) if row is not None}
                if places:
                    rows.numbers(places[min(places)])
                first += batch.num_rows


class Rows:
    """Rows of a table that follow each other."""

    def __init__(self, file: TableFile, first: int, batch: "pa.RecordBatch"):
        self.file, self.first, self.batch = file, first, batch

    @classmethod
    def joined(cls, pieces: "Sequence[Rows]") -> "Rows":
        """Pieces that follow each other, as one."""
        import pyarrow as pa

        table = pa.Table.from_batches([rows.batch for rows in pieces])
        return cls(pieces[0].file, pieces[0].first, table.combine_chunks().to_batches()[0])

    def __len__(self) -> int:
        return self.batch.num_rows

    def error(self, row: int, column: str, message: str) -> DataError:
        """What to raise about one of these rows, counted from 0."""
        return self.file.error(self.first + row, column, message)

    def column(self, name: str) -> "pa.Array":
        """A column; text as text."""
        import pyarrow as pa

        values = self.batch.column(name)
        if not pa.types.is_binary(values.type):
            return values
        return self._converted(name, values, _as_text, "the cell holds {}, which is not UTF-8: save the file as UTF-8")

    def values(self, name: str) -> list[Any]:
        """A column as Python has it: words, numbers, lists; None where a value is missing."""
        return self.column(name).to_pylist()

    def written(self, name: str, row: int) -> str:
        """A value as text."""
        import pyarrow as pa

        return self.column(name)[row].cast(pa.string()).as_py()

    def numbers(self, name: str) -> np.ndarray:
        """A column of finite numbers as float64 [N], NaN where a value is missing."""
        hint = "convert the column, or name others" if self.file.is_parquet else "correct it, or leave the row out"
        message = f"{{}} is not a number: {hint}"
        numbers = self._converted(name, self.batch.column(name), _as_float64, message).to_numpy(zero_copy_only=False)
        infinite = np.isinf(numbers)
        if infinite.any():
            raise self.error(int(infinite.argmax()), name, "the value is infinite: correct it, or leave the row out")
        return numbers

    def numbers_of_lists(self, name: str) -> np.ndarray:
        """The numbers of a column of lists, one list after the other: finite float64 [N], NaN where missing."""
        values = self.batch.column(name).flatten()
        with contextlib.suppress(*CONVERSION_ERRORS):
            numbers = _as_float64(values).to_numpy(zero_copy_only=False)
            if not np.isinf(numbers).any():
                return numbers
        for row, one in enumerate(self.values(name)):  # of flattened lists, only the lists say the row
            for step, value in enumerate(one or (), 1):
                if not (value is None or (isinstance(value, int | float) and not np.isinf(value))):
                    raise self.error(row, name, f"step {step}: {value!r:.40} is not a finite number")
        raise DataError(f"{self.file.path}, column {name!r}: the lists hold {values.type}, which are not numbers")

    def lengths_of_lists(self, name: str) -> np.ndarray:
        """How many steps each row of a column of lists has, [N].

        Raises:
            DataError: a row has none.
        """
        from pyarrow import compute

        lengths = compute.list_value_length(self.batch.column(name))  # pyright: ignore[reportAttributeAccessIssue]
        found = lengths.fill_null(-1).to_numpy(zero_copy_only=False)
        empty = np.flatnonzero(found <= 0)
        if len(empty):
            row = int(empty[0])
            raise self.error(row, name, "there is no sequence" if found[row] < 0 else "the sequence is empty")
        return found

    def times(self, name: str) -> np.ndarray:
        """A column of numbers, or of times as ISO 8601 writes them, as numbers [N] that can be compared."""
        import pyarrow as pa

        values = self.column(name)
        missing = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        if missing.any():
            raise self.error(int(missing.argmax()), name, "there is no time, but every row needs one: write it there")
        kind = values.type
        if pa.types.is_dictionary(kind):
            values = values.dictionary_decode()  # pyright: ignore[reportAttributeAccessIssue]
            kind = values.type
        if pa.types.is_temporal(kind):
            values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            values = self._times_of_text(name, values)
        elif pa.types.is_decimal(kind):
            values = values.cast(pa.float64())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise self.error(0, name, NO_TIME.format(shown(values[0].as_py())))
        found = values.to_numpy(zero_copy_only=False)
        if np.isinf(found).any():
            raise self.error(int(np.isinf(found).argmax()), name, "the time is infinite: correct it")
        return found

    def _times_of_text(self, name: str, values: "pa.Array") -> "pa.Array":
        """Times that are all written in one way: one that suits all of these rows, or the first row at least."""
        known, ways = self.file.ways_to_write_times, _ways_to_write_times()
        if name not in known:
            # Only ways that suit the first row are tried on all: each row that fails costs twenty that do not.
            suitable = {way: convert for way, convert in ways.items() if _first_failure(values[:1], convert) is None}
            for way, convert in suitable.items():
                with contextlib.suppress(*CONVERSION_ERRORS):
                    found, known[name] = convert(values), way
                    return found
            known.update((name, way) for way in [*suitable][:1])
        message = NO_TIME + (", all in the way of the first row" if name in known else "")
        return self._converted(name, values, ways[known.get(name, "numbers")], message)

    def _converted(
        self, name: str, values: "pa.Array", convert: "Callable[[pa.Array], pa.Array]", message: str
    ) -> "pa.Array":
        """Values of another type; the message is about the first that cannot be converted."""
        try:
            return convert(values)
        except CONVERSION_ERRORS:
            wrong = _first_failure(values, convert)
            assert wrong is not None
            raise self.error(wrong, name, message.format(shown(values[wrong].as_py()))) from None


def some(names: Sequence[str]) -> str:
    """The first names of many, for a message."""
    first = ", ".join(name if len(name) <= 40 else f"{name[:40]}…" for name in names[:20])
    return first if len(names) <= 20 else f"{first}, … ({len(names):,} in all)"


def shown(value: object) -> str:
    """A value in quotes, cut if it is long; bytes as text, and what is not UTF-8 of them byte by byte."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return repr(value)[1:][:120]
    return f"{value!r:.40}"


def _suffix(path: str | os.PathLike[str]) -> str:
    """How a file's name ends, without what compresses it."""
    name = os.path.basename(os.fspath(path)).lower()
    for compressed in COMPRESSED:
        name = name.removesuffix(compressed)
    return os.path.splitext(name)[1]


def _as_text(values: "pa.Array") -> "pa.Array":
    import pyarrow as pa

    return values.cast(pa.string())


def _as_float64(values: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()  # pyright: ignore[reportAttributeAccessIssue]
    if pa.types.is_binary(values.type) or pa.types.is_string(values.type):
        values = compute.utf8_trim_whitespace(_as_text(values))  # pyright: ignore[reportAttributeAccessIssue]
    return values.cast(pa.float64(), safe=False)


def _ways_to_write_times() -> "dict[str, Callable[[pa.Array], pa.Array]]":
    """From text to numbers that can be compared."""
    import pyarrow as pa
    from pyarrow import compute

    def numbers(values: "pa.Array") -> "pa.Array":
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            return values.cast(pa.float64())

    def as_type(kind: "pa.DataType") -> "Callable[[pa.Array], pa.Array]":
        return lambda values: values.cast(kind).cast(pa.int64())

    def as_format(pattern: str) -> "Callable[[pa.Array], pa.Array]":
        return lambda values: compute.strptime(values, pattern, "us").cast(pa.int64())  # pyright: ignore[reportAttributeAccessIssue]

    # Microseconds reach further, nanoseconds from 1677 to 2262; without a zone, and with one.
    iso = [pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC")]
    types = {str(kind): as_type(kind) for kind in iso}
    return {"numbers": numbers} | types | {pattern: as_format(pattern) for pattern in TIME_FORMATS}


def _first_failure(values: "pa.Array", convert: "Callable[[pa.Array], pa.Array]") -> int | None:
    """Where the first value is that cannot be converted."""

    def fails(first: int, last: int) -> bool:
        try:
            convert(values.slice(first, last - first))
        except CONVERSION_ERRORS:
            return True
        return False

    first, last = 0, len(values)
    if not last or not fails(first, last):
        return None
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if fails(first, middle) else (middle, last)
    return first
