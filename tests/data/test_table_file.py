"""One reader of tables: what it makes of a file is the same for series to fit and for streams."""

import gzip
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from treadle.data import table_file
from treadle.data.table_file import MISSING, SUFFIXES, TableFile, is_table
from treadle.errors import DataError
from treadle.streams import Table
from treadle.training import read_series
from treadle.training.fit_run import kind_of

LINES = ["t,y,who", "1,10,a", "2,11,a", "3,12,a", "4,13,a", "5,14,a", "6,15,a"]


def write(path, text: str):
    data = text.replace(",", "\t").encode() if ".tsv" in path.name else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.2031.tsv.gz", "T.CSV"])
def test_text_files_are_read_alike_by_series_and_streams(tmp_path, name):
    path = write(tmp_path / name, "\n".join(LINES))
    assert (is_table(path), kind_of(path)) == (True, "series")
    series = read_series(path, ["y"], time="t")
    (piece,) = Table(path, inputs="y", time="t").pieces()
    assert series.targets[0].tolist() == piece.x.tolist() == [[y] for y in range(10, 16)]


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_what_is_missing_is_missing_for_series_and_for_streams(tmp_path, missing, ending):
    path = write(tmp_path / f"t.csv{ending}", "\n".join([*LINES, f"7,{missing},a"]))
    with pytest.raises(DataError, match="line 8, column 'y': the value is missing"):
        read_series(path, ["y"])
    with pytest.raises(DataError, match="line 8, column 'y': the value is missing"):
        list(Table(path, inputs="y").pieces())
    assert np.isnan(TableFile(path).read(["y"]).numbers("y")).tolist() == [False] * 6 + [True]
    quoted = write(tmp_path / f"q.csv{ending}", "\n".join([*LINES, f'7,16,"{missing}"']))
    assert TableFile(quoted).read(others=["who"]).values("who")[-1] is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_wrong_value_is_said_alike_for_series_and_for_streams(tmp_path, suffix):
    path, place = tmp_path / f"t{suffix}", "line 4"
    if suffix in (".parquet", ".pq"):
        place = "row 3"
        parquet.write_table(pa.table({"t": [1, 2, 3], "y": [1.0, 2.0, float("inf")]}), path)
    else:
        write(path, "\n".join([*LINES[:3], "3,inf,a"]))
    for read in (lambda: read_series(path, ["y"]), lambda: list(Table(path, inputs="y").pieces())):
        with pytest.raises(DataError, match=rf"t{suffix}, {place}, column 'y': the value is infinite"):
            read()


def test_a_text_column_is_read_as_the_file_has_it(tmp_path):
    path = write(tmp_path / "t.csv", "who,y\n007,1\n 7,2\n")
    assert TableFile(path).read(["y"], ["who"]).values("who") == ["007", " 7"]
    assert TableFile(path).read(["who"]).numbers("who").tolist() == [7, 7]


def test_pieces_and_the_whole_are_the_same(tmp_path):
    path = write(tmp_path / "t.csv", "t,y\n" + "".join(f"{i},{i / 7}\n" for i in range(100_000)))
    whole, pieces = TableFile(path).read(["y"], ["t"]), list(TableFile(path).batches(["y"], ["t"], start=7))
    assert len(pieces) > 1
    assert [rows.first for rows in pieces[:2]] == [7, 7 + len(pieces[0])]
    assert np.array_equal(np.concatenate([rows.numbers("y") for rows in pieces]), whole.numbers("y")[7:])
    assert np.array_equal(whole.times("t"), np.arange(100_000))


@pytest.mark.parametrize(
    "times",
    [
        ["2031-05-17T08:30+02:00", "2031-05-17T08:30Z"],
        ["2031-05-17 08:30:00.123456788", "2031-05-17 08:30:00.123456789"],
        ["2031-05-17T08:30:00.123456788Z", "2031-05-17T08:30:00.123456789Z"],
        ["2031-05-17T08:30:00.5+02:00", "2031-05-17T08:30:00.123456789Z"],
        ["1500-01-01T00:00Z", "9999-12-31T00:00Z"],
        ["08:30", "08:31"],
        ["08:30:00", "08:30:01"],
        ["1", "2.5"],
    ],
)
def test_ways_to_write_a_time(tmp_path, times):
    path = write(tmp_path / "t.csv", "t\n" + "\n".join(times))
    first, second = TableFile(path).read(others=["t"]).times("t")
    assert first < second
    parquet.write_table(pa.table({"t": pa.array(times).dictionary_encode()}), tmp_path / "t.parquet")
    assert TableFile(tmp_path / "t.parquet").read(others=["t"]).times("t").tolist() == [first, second]


def test_all_times_of_a_column_are_written_in_one_way(tmp_path):
    path = write(tmp_path / "t.csv", "t\n2031-05-17\n7\n")
    with pytest.raises(DataError, match=r"line 3, column 't': '7' is no time: write ISO 8601"):
        TableFile(path).read(others=["t"]).times("t")


def test_a_damaged_archive_is_refused(tmp_path):
    path = write(tmp_path / "t.csv.gz", "\n".join(LINES))
    path.write_bytes(path.read_bytes()[:10] + b"nonsense" * 4)
    with pytest.raises(DataError, match=r"t\.csv\.gz is not a table of text"):
        TableFile(path)
    with pytest.raises(
        DataError, match=r"not called like a table: pass a file ending in \.parquet, \.pq, \.csv, \.tsv"
    ):
        TableFile(write(tmp_path / "t.txt", ""))


@pytest.mark.parametrize("times", [["2031-05-17T08:30", "2031-05-17T08:31Z"], ["1", "1_0"], ["1", "inf"]])
def test_what_is_no_time_like_the_others_is_said(tmp_path, times):
    path = write(tmp_path / "t.csv", "t\n" + "\n".join(times))
    with pytest.raises(DataError, match=r"line 3, column 't': .*(all in the way of the first row|infinite)"):
        TableFile(path).read(others=["t"]).times("t")


@pytest.mark.parametrize("word", ["1_0", "0x10", "٣", "1,0", "--1", "1e", "true"])
def test_a_number_is_written_as_all_programs_write_it(tmp_path, word):
    path = write(tmp_path / "t.csv", f'y\n1\n"{word}"\n')
    with pytest.raises(DataError, match=r"line 3, column 'y': .* is not a number"):
        TableFile(path).read(["y"])


def test_cells_may_be_long(tmp_path):
    """Longer than the fields that Python's reader takes, and than the blocks in which the file is read."""
    rows = [f"{'n' * length},{length}" for length in (1, 200_000, 3_000_000, 2)]
    path = write(tmp_path / "t.csv", "note,y\n" + "\n".join(rows) + "\n")
    file = TableFile(path)
    assert file.read(["y"]).numbers("y").tolist() == [1, 200_000, 3_000_000, 2]
    assert [len(rows) for rows in file.batches(["y"], start=2)] == [2]
    assert file.place(3) == "line 5"
    wide = write(tmp_path / "w.csv", "y," + "n" * 200_000 + "\n1,2\n")
    with pytest.raises(DataError, match=r"has no column 'z': it has y, n{40}…$"):
        TableFile(wide).require(["z"])


def test_many_columns_cost_no_more_than_each(tmp_path):
    """A hundred thousand are looked up in a second, where a search for each would take minutes."""
    count = 100_000
    names = [f"c{i}" for i in range(count)]
    path = write(tmp_path / "t.csv", ",".join(names) + "\n" + ",".join(["1"] * count) + "\n")
    file = TableFile(path)
    start = time.perf_counter()
    file.require(names)
    with pytest.raises(DataError, match=rf"it has c0, c1, .*c19, … \({count:,} in all\)"):
        file.require(["absent"])
    assert time.perf_counter() - start < 5
    assert file.read(names[-3:]).numbers(names[-1]).tolist() == [1]
    parquet.write_table(pa.table([[1.0]] * 3000, names=names[:3000]), tmp_path / "t.parquet")
    table = TableFile(tmp_path / "t.parquet")
    start = time.perf_counter()
    assert not any(table.is_list(name) for name in table.names)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.tsv"])
def test_zero_bytes_are_no_table(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0" * 5000)
    with pytest.raises(DataError, match=r"zero bytes|not a Parquet file"):
        TableFile(tmp_path / name)


def test_times_are_converted_once_and_what_fails_is_tried_on_one_row(tmp_path, monkeypatch):
    """Reading times took ten times as long as from Parquet: each row of each way that does not suit is an error."""
    rows = 1000
    path = write(
        tmp_path / "t.csv", "\n".join(["t", *(f"2031-05-17T08:{i // 60:02}:{i % 60:02}" for i in range(rows))])
    )
    converted = dict.fromkeys(table_file._ways_to_write_times(), 0)
    usual = table_file._ways_to_write_times

    def counting():
        def counted(way, convert):
            def convert_(values):
                converted[way] += len(values)
                return convert(values)

            return convert_

        return {way: counted(way, convert) for way, convert in usual().items()}

    monkeypatch.setattr(table_file, "_ways_to_write_times", counting)
    times = TableFile(path).read(others=["t"]).times("t")
    assert (np.diff(times) > 0).all()
    assert sorted(converted.values())[-1] < rows + 10
    assert sorted(converted.values())[-2] < 10


def test_pieces_of_wide_tables_are_long_enough_to_be_worth_their_cost(tmp_path):
    """Each column of each piece costs as much as a hundred numbers."""
    columns, line = 500, ",".join(["0.12345"] * 500)
    path = write(tmp_path / "w.csv", "\n".join([",".join(f"x{i}" for i in range(columns)), *[line] * 900]))
    lengths = [len(rows) for rows in TableFile(path).batches([f"x{i}" for i in range(columns)])]
    assert sum(lengths) == 900
    assert len(lengths) <= 900 / 200
