"""One reader of tables: what it makes of a file is the same for series to fit and for streams."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

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
    [["2031-05-17T08:30Z", "2031-05-17T08:30+02:00"], ["08:30", "08:31"], ["08:30:00", "08:30:01"], ["1", "2.5"]],
)
def test_ways_to_write_a_time(tmp_path, times):
    path = write(tmp_path / "t.csv", "t\n" + "\n".join(times))
    first, second = TableFile(path).read(others=["t"]).times("t")
    assert first != second


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
