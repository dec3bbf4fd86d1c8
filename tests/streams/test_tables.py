"""Tables give their columns, in pieces; what is wrong in them is refused by file, line or row, and column."""

import gzip
import itertools
import pickle
from multiprocessing.reduction import ForkingPickler

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from pyarrow import csv, parquet
from torch.utils.data import DataLoader

from treadle.data import table_file
from treadle.errors import DataError, ShapeError
from treadle.streams import Table, Windows, count, series_of_table, table_series

# What PyTorch says on a machine with one core, and Python from 3.12 on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

RANDOM = np.random.default_rng(0)


def whole(stream, start=0):
    pieces = list(stream.pieces(start))
    x = np.concatenate([piece.x for piece in pieces]) if pieces else np.empty((0, 1))
    return x, (np.concatenate([piece.target for piece in pieces]) if stream.has_targets and pieces else None)


def write(path, columns, **options):
    """The same table as CSV, or as Parquet."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, **options)
    else:
        csv.write_csv(table, path)
    return path


def place(path, row: int) -> str:
    """How messages call a row, counted from 1, of a table whose values have no line ends."""
    return f"row {row}" if path.suffix == ".parquet" else f"line {row + 1}"


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path):
    return tmp_path / f"data.{request.param}"


N = 60_000
COLUMNS = {
    "day": np.arange(N) * 10,
    "a": RANDOM.standard_normal(N),
    "note": np.array(["words, and\nmore"] * N),
    "b": RANDOM.integers(-5, 5, N),
}


def test_columns_from_any_row_on(path):
    write(path, COLUMNS, **({"row_group_size": 7_001} if path.suffix == ".parquet" else {}))
    table = Table(path, inputs=["b", "a"], targets="a", time="day")
    wanted = np.stack([COLUMNS["b"], COLUMNS["a"]], 1)
    assert table.length == (N if path.suffix == ".parquet" else None)
    assert table.has_targets
    assert max(len(piece.x) for piece in table.pieces()) < N / 2
    for start in (0, 1, 7_001, 40_000, N - 1):
        x, targets = whole(table, start)
        assert np.array_equal(x, wanted[start:])
        assert targets is None or np.array_equal(targets, wanted[start:, 1:])
    assert not list(table.pieces(N))
    assert count(table) == N


def test_other_files_of_text(tmp_path):
    text = "a\tb\n1\t2\n3\t4\n"
    (tmp_path / "table.tsv").write_text(text)
    with gzip.open(tmp_path / "table.2031.tsv.gz", "wt") as file:
        file.write(text)
    for name in ("table.tsv", "table.2031.tsv.gz"):
        assert whole(Table(tmp_path / name))[0].tolist() == [[1, 2], [3, 4]]


def test_all_columns_but_those_with_another_part(path):
    write(path, {"t": [1, 2], "a": [1.5, 2.5], "y": [7, 8], "b": [3, 4]})
    x, targets = whole(Table(path, targets=["y"], time="t"))
    assert x.tolist() == [[1.5, 3], [2.5, 4]]
    assert targets.tolist() == [[7], [8]]


def test_kinds_of_numbers_of_parquet(tmp_path):
    columns = {
        "whole": pa.array([1, 2**62], pa.int64()),
        "yes": pa.array([True, False]),
        "money": pa.array(["1.25", "2.50"]).cast(pa.decimal128(9, 2)),
        "half": pa.array(np.array([1, 2], np.float16)),
    }
    x, _ = whole(Table(write(tmp_path / "t.parquet", columns)))
    assert x.tolist() == [[1, 1, 1.25, 1], [2.0**62, 0, 2.5, 2]]


@pytest.mark.parametrize(
    "times",
    [
        ["2031-05-17", "2031-05-18", "2031-06-01"],
        ["2031-05-17 08:00", "2031-05-17 08:00:01", "2031-06-01T00:00"],
        ["2031-05", "2031-06", "2032-01"],
        ["2031/05/17", "2031/05/18", "2031/06/01"],
        ["1.5", "1.75", "2"],
        ["1700000000000000001", "1700000000000000002", "1700000000000000003"],
    ],
)
def test_ways_to_write_a_time(tmp_path, times):
    def table(order):
        lines = [f"{times[n]},{n}" for n in order]
        (tmp_path / "t.csv").write_text("when,x\n" + "\n".join(lines) + "\n")
        return Table(tmp_path / "t.csv", time="when")

    assert len(whole(table([0, 1, 2]))[0]) == 3
    with pytest.raises(DataError, match=r"t.csv, line 4, column 'when': .* goes back in time: sort the file by 'when'"):
        whole(table([0, 2, 1]))
    with pytest.raises(DataError, match=r"t.csv, line 3, column 'when': .* is a time that was there before"):
        whole(table([0, 0, 1]))


def test_times_of_parquet_have_their_own_types(tmp_path):
    for values in [
        np.array(["2031-05-17", "2031-05-19", "2031-05-18"], "datetime64[D]"),
        np.array(["2031-05-17", "2031-05-19", "2031-05-18"], "datetime64[ns]"),
    ]:
        path = write(tmp_path / "t.parquet", {"when": values, "x": [1, 2, 3]})
        with pytest.raises(DataError, match=r"t.parquet, row 3, column 'when': 2031-05-18.* goes back"):
            whole(Table(path, time="when"))


@pytest.fixture(params=["many rows at once", "a row at a time"])
def portions(request, monkeypatch):
    """Tables are read in other portions, so that what has to fit lies within one or on both sides of a border."""
    if request.param == "a row at a time":
        monkeypatch.setattr(table_file, "PARQUET_ROWS_AT_ONCE", 1)
        monkeypatch.setattr(table_file, "TEXT_BLOCK_BYTES", 64)
        monkeypatch.setattr(table_series, "BYTES_AT_ONCE", 1)


def test_order_is_watched_across_pieces(path, portions):
    day = np.arange(60)
    day[-1] = day[-2]
    write(path, {"day": day, "x": np.zeros(60)})
    with pytest.raises(DataError, match=rf"{place(path, 60)}, column 'day': 58 is a time that was there before"):
        whole(Table(path, time="day"))
    for row in range(20, 40):
        day[row] = 3
        write(path, {"day": day, "x": np.zeros(60)})
        with pytest.raises(DataError, match=rf"{place(path, row + 1)}, column 'day': 3 goes back in time"):
            whole(Table(path, time="day"))
        day[row] = row


FAR = 50_000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("n. a.", "'n. a.' is not a number: correct it"),
        ("12,5", "'12,5' is not a number: correct it"),
        ("", "the value is missing: fill it in"),
        ("NaN", "the value is missing: fill it in"),
        ("NA", "the value is missing: fill it in"),
        ("inf", "the value is infinite: correct it"),
    ],
)
@pytest.mark.parametrize("row", [0, FAR])
def test_text_in_a_column_of_numbers(tmp_path, value, message, row):
    cells = [str(number) for number in range(N)]
    cells[row] = f'"{value}"'
    (tmp_path / "t.csv").write_text("a,x\n" + "".join(f"1,{cell}\n" for cell in cells))
    with pytest.raises(DataError, match=rf"t.csv, line {row + 2}, column 'x': {message}, or leave the row out"):
        whole(Table(tmp_path / "t.csv"))


@pytest.mark.parametrize(("value", "message"), [(None, "missing"), (np.nan, "missing"), (-np.inf, "infinite")])
def test_no_number_in_parquet(tmp_path, value, message):
    path = write(tmp_path / "t.parquet", {"a": [1] * N, "x": [1.0] * FAR + [value] + [1.0] * (N - FAR - 1)})
    for start in (0, FAR - 1):
        with pytest.raises(DataError, match=rf"t.parquet, row {FAR + 1}, column 'x': the value is {message}"):
            whole(Table(path), start)


def test_tables_that_are_none(tmp_path):
    def refused(name, content, message, **options):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            whole(Table(tmp_path / name, **options))

    refused("t.csv", b"", "t.csv is not a table of text")
    refused("t.csv", b"a,b\n1,2\n3\n", "t.csv, line 3: 1 field, but the first line has 2 columns")
    refused("t.csv", b"a,a\n1,2\n", "has 2 columns called 'a'")
    refused("t.csv", b"value,b\n1,2\n", "has no column 'valeu': it has value, b; did you mean 'value'", inputs="valeu")
    refused("t.csv", b"t\n1\n", "has no column left to read", time="t")
    refused("t.csv", b"t,a\n01.02.2031,2\n", "line 2, column 't': '01.02.2031' is no time: write ISO 8601", time="t")
    refused("t.csv", b"t,a\n1,2\n,3\n", "line 3, column 't': there is no time, but every row needs one", time="t")
    refused("t.csv", b"t,a\n1,2\nx,3\n", "line 3, column 't': 'x' is no time", time="t")
    refused("t.parquet", b"no", "t.parquet is not a Parquet file, or is damaged")
    refused("t.txt", b"a\n1\n", "t.txt is not called like a table: pass a file ending in .parquet, .pq, .csv, .tsv")
    with pytest.raises(FileNotFoundError):
        Table(tmp_path / "nowhere.csv")
    path = write(tmp_path / "words.parquet", {"a": [1.0], "w": ["one"]})
    with pytest.raises(DataError, match=r"words.parquet, row 1, column 'w': 'one' is not a number: convert"):
        Table(path)
    # What cannot be read of a file that has a good beginning.
    path = write(tmp_path / "cut.parquet", {"a": RANDOM.standard_normal(N)})
    content = bytearray(path.read_bytes())
    content[1000:200_000] = bytes(199_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cut.parquet is damaged"):
        whole(Table(path))


def test_names_of_columns_are_text_as_the_file_has_them(tmp_path):
    (tmp_path / "t.csv").write_bytes('\ufeff007,1e3,2031-01-01,"a\nb",größe\n1,2,3,4,5\n'.encode())
    names = ["007", "1e3", "2031-01-01", "a\nb", "größe"]
    assert whole(Table(tmp_path / "t.csv", inputs=names))[0].tolist() == [[1, 2, 3, 4, 5]]


def test_text_that_is_not_utf_8(tmp_path):
    path = tmp_path / "t.csv"

    def refused(content, message, read=lambda: whole(Table(path, "x"))):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read()

    refused("größe,x\n1,2\n".encode("latin-1"), r"t.csv, header, column 1: the name 'gr\\xf6\\xdfe' is not UTF-8: save")
    refused("x\n1\n".encode("utf-16"), r"t.csv, header, column 1: .* is not UTF-8")
    refused("x\n1\n2°\n".encode("latin-1"), r"t.csv, line 3, column 'x': '2\\xb0' is not a number")
    refused(
        "town,x\nGhent,1\nMünster,2\n".encode("latin-1"),
        r"t.csv, line 3, column 'town': the cell holds 'M\\xfcnster', which is not UTF-8",
        lambda: series_of_table(path, "town"),
    )
    path.write_bytes("x,note\n1,°C\n2,\n".encode("latin-1"))  # nobody reads that column
    assert whole(Table(path, "x"))[0].tolist() == [[1], [2]]
    # The first cell in the file, whatever the order of the columns.
    refused(b"x,y\n1,2\n3,b\na,4\n", "line 3, column 'y': 'b' is not a number", lambda: whole(Table(path)))


def test_a_table_or_a_series_that_is_too_short_is_named_with_its_file(path):
    write(path, {"who": ["a", "a", "b"], "x": [1.0, 2, 3]})
    with pytest.raises(ShapeError, match=rf"stream 'b' of .*{path.name} has 1 element, but needs 2 for a single"):
        Windows(series_of_table(path, "who"), 1, 8)
    write(path, {"x": np.array([], float)})
    with pytest.raises(ShapeError, match=rf"stream '.*{path.name}' has 0 elements, but needs 2 for a single step"):
        list(Windows([Table(path)], 1, 8))


def test_the_memory_that_reading_takes_does_not_depend_on_the_file(path):
    rows = 4_000_000
    write(path, {"a": np.arange(rows), "b": np.arange(rows)})  # 64 MB as numbers, as text somewhat less
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in Table(path).pieces())
    assert most < 25e6


@given(st.data())
def test_series_are_put_together(tmp_path_factory, data):
    """Rows of some series in any order among each other, taken in any portions."""
    names = data.draw(st.lists(st.sampled_from(["b", "a", "10", "c c"]), min_size=1, max_size=60))
    values = RANDOM.standard_normal(len(names)).round(6)
    folder = tmp_path_factory.mktemp("series")
    path = folder / data.draw(st.sampled_from(["t.csv", "t.parquet"]))
    options = {"row_group_size": 7} if path.suffix == ".parquet" else {}
    write(path, {"v": values, "t": np.arange(len(names)), "who": names, "y": values * 2}, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_series, "BYTES_AT_ONCE", data.draw(st.sampled_from([1, 200, 1 << 25])))
        patch.setattr(table_series, "PIECE_BYTES", data.draw(st.sampled_from([1, 50, 1 << 16])))
        found = series_of_table(path, id="who", time="t", inputs="v", targets="y")
        assert [series.id for series in found] == list(dict.fromkeys(names))
        for series in found:
            expected = values[[name == series.id for name in names]]
            assert series.length == len(expected)
            for start in range(len(expected) + 1):
                x, targets = whole(series, start)
                assert x.ravel().tolist() == expected[start:].tolist()
                assert targets is None or targets.ravel().tolist() == (2 * expected[start:]).tolist()


def test_names_of_series_are_text_as_the_file_has_it(tmp_path):
    (tmp_path / "t.csv").write_text("who,x\n007,1\n7,2\n007,3\n")
    assert [(series.id, series.length) for series in series_of_table(tmp_path / "t.csv", "who")] == [
        ("007", 2),
        ("7", 1),
    ]
    path = write(tmp_path / "t.parquet", {"who": [7, 8, 7], "x": [1.0, 2, 3]})
    assert [series.id for series in series_of_table(path, "who")] == ["7", "8"]
    coded = pa.table({"who": pa.array(["q", "p", "r", "p"]).dictionary_encode(), "x": [1.0, 2, 3, 4]})
    found = series_of_table(write(path, coded, row_group_size=2), "who")  # each group has a dictionary of its own
    assert [(series.id, whole(series)[0].ravel().tolist()) for series in found] == [
        ("q", [1]),
        ("p", [2, 4]),
        ("r", [3]),
    ]


def test_what_is_wrong_in_a_series(path, portions):
    good = {"who": ["a", "b"] * 50, "t": np.arange(100) // 2, "x": RANDOM.standard_normal(100)}

    def refused(message, **changes):
        columns = {name: list(values) for name, values in good.items()}
        for name, (row, value) in changes.items():
            columns[name][row] = value
        write(path, columns)
        with pytest.raises(DataError, match=message):
            series_of_table(path, id="who", time="t")

    before = "is a time that was there before: sort the file by 'who' and 't'"
    refused(f"{place(path, 92)}, column 't': 44 of 'b' {before}", t=(91, 44))
    refused(f"{place(path, 3)}, column 't': 0 of 'a' {before}", t=(2, 0))
    for row in range(20, 40):
        refused(rf"{place(path, row + 1)}, column 't': 7 of '{'ab'[row % 2]}' goes back in time", t=(row, 7))
    refused(
        f"{place(path, 46)}, column 'x': the value is missing",
        x=(45, None if path.suffix == ".parquet" else float("nan")),
    )
    for nobody in (None, ""):
        refused(
            f"{place(path, 7)}, column 'who': the id is missing, but every row needs that of its series",
            who=(6, nobody),
        )


def test_a_table_without_series(path):
    write(path, {"who": np.array([], str), "x": np.array([], float)})
    with pytest.raises(DataError, match=r"has no rows below its header"):
        series_of_table(path, "who")
    with pytest.raises(DataError, match=r"has no column 'whom'.*did you mean 'who'"):
        series_of_table(path, "whom")


def test_series_go_to_other_processes(tmp_path):
    path = write(tmp_path / "t.parquet", {"who": ["a", "b", "c"] * 50, "x": np.arange(150.0)})
    found = series_of_table(path, "who")
    again = pickle.loads(ForkingPickler.dumps(found))
    del found
    assert [whole(series)[0].ravel().tolist() for series in again] == [
        list(np.arange(first, 150.0, 3)) for first in range(3)
    ]
    batches = [batch.x for batch in Windows(again, 2, 8)]
    for batch, x in itertools.zip_longest(DataLoader(Windows(again, 2, 8), batch_size=None, num_workers=2), batches):
        assert batch.x.equal(x)


def test_tables_can_be_read_by_workers(path):
    write(path, {"x": np.arange(30_000.0)})
    batches = [batch.x for batch in Windows([Table(path)], 1, 4_000)]
    loader = DataLoader(Windows([Table(path)], 1, 4_000), batch_size=None, num_workers=2)
    for batch, x in itertools.zip_longest(loader, batches):
        assert batch.x.equal(x)
