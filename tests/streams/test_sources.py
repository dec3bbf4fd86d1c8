"""Sources give what lies in them, from any place on, whatever their size; what is no number is refused by its place."""

import itertools
import os
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from treadle.errors import DataError, ShapeError
from treadle.streams import Array, ArrayFile, Iterated, Span, Stream, TextFile, Windows, count, split


def whole(stream, start=0):
    """All elements from ``start`` on, and their targets."""
    pieces = list(stream.pieces(start))
    x = np.concatenate([piece.x for piece in pieces]) if pieces else np.empty(0)
    return x, (np.concatenate([piece.target for piece in pieces]) if stream.has_targets and pieces else None)


RANDOM = np.random.default_rng(0)
LONG = RANDOM.integers(0, 256, 150_000).astype(np.uint8)  # some pieces, and a part of one
ROWS = RANDOM.standard_normal((20_000, 3))
TARGETS = RANDOM.integers(0, 9, 20_000)


@pytest.fixture
def sources(tmp_path):
    """A source of every kind: what lies in it, and its targets."""
    (tmp_path / "text").write_bytes(LONG.tobytes())
    np.save(tmp_path / "rows.npy", ROWS)
    np.save(tmp_path / "swapped.npy", ROWS.astype(">f4"))
    np.save(tmp_path / "targets.npy", TARGETS)
    pairs = list(zip(ROWS[:500], TARGETS[:500], strict=True))
    chunks = np.array_split(ROWS[:500], 7)
    return [
        (TextFile(tmp_path / "text"), LONG, None),
        (ArrayFile(tmp_path / "rows.npy"), ROWS, None),
        (ArrayFile(tmp_path / "swapped.npy"), ROWS.astype("f4"), None),
        (ArrayFile(tmp_path / "rows.npy", tmp_path / "targets.npy"), ROWS, TARGETS),
        (Array(ROWS, TARGETS, id="a"), ROWS, TARGETS),
        (Array(torch.from_numpy(ROWS), id="a"), ROWS, None),
        (Iterated(lambda: iter(ROWS[:500]), id="i"), ROWS[:500], None),
        (Iterated(pairs, id="i", targets=True), ROWS[:500], TARGETS[:500]),
        (Iterated(chunks, id="i", pieces=True), ROWS[:500], None),
        (Iterated([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], id="i"), np.array([[1.0, 2], [3, 4]]), None),
        (Span(Array(ROWS, TARGETS, id="a"), 17, 9000), ROWS[17:9000], TARGETS[17:9000]),
        (Span(Iterated(ROWS[:500], id="i"), 100), ROWS[100:500], None),
        (Span(Span(TextFile(tmp_path / "text"), 10, 140_000), 5, 139_000), LONG[15:139_010], None),
    ]


def test_from_any_place_on(sources):
    for stream, x, targets in sources:
        assert isinstance(stream, Stream)
        assert stream.length in (len(x), None)
        assert count(stream) == len(x)
        for start in (0, 1, 63, 64, 65, len(x) // 2, len(x) - 1, len(x)):
            if start > len(x):
                continue
            got, got_targets = whole(stream, start)
            assert len(got) == len(x) - start
            assert not len(got) or np.array_equal(got, x[start:])
            assert stream.has_targets == (targets is not None)
            if got_targets is not None and targets is not None:
                assert np.array_equal(got_targets, targets[start:])


def test_names(tmp_path, sources):
    assert sources[0][0].id == str(tmp_path / "text")
    assert TextFile(tmp_path / "text", id="book").id == "book"
    assert sources[-3][0].id == "a[17:9000]"
    assert sources[-2][0].id == "i[100:]"


def test_windows_read_far_beyond_four_gigabytes(tmp_path):
    size = 6 * 2**30
    with open(tmp_path / "text", "wb") as file:  # a hole: it takes no room
        file.truncate(size)
        file.seek(size - 40)
        file.write(bytes(range(40)))
    text = TextFile(tmp_path / "text")
    windows = Windows([text], 1, 8)
    windows.load_state_dict(windows.state_dict() | {"next": 1, "rows": [[0, size - 40]]})
    batches = list(windows)
    assert torch.cat([batch.y[batch.mask] for batch in batches]).tolist() == list(range(1, 40))
    assert batches[0].positions[0, 0] == size - 40
    part = split(text, 3)[2]
    assert next(part.pieces(part.length - 2)).x.tolist() == [38, 39]

    rows = 2**30
    with open(tmp_path / "rows.npy", "wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, 2)})
        start = file.tell()
        file.truncate(start + rows * 8)
        file.seek(start + (rows - 1) * 8)
        file.write(np.array([3, 4], "<f4").tobytes())
    assert next(ArrayFile(tmp_path / "rows.npy").pieces(rows - 2)).x.tolist() == [[0, 0], [3, 4]]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux how much memory is in use")
def test_memory_does_not_grow_with_what_was_read(tmp_path):
    def megabytes() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    with open(tmp_path / "text", "wb") as file:
        file.truncate(150 * 2**20)
    windows = Windows(split(TextFile(tmp_path / "text"), 8), 8, 65536, prefetch=0)
    most = before = None
    for number, batch in enumerate(windows):
        if number == 5:
            before = most = megabytes()
        if before is not None:
            most = max(most, megabytes())
        del batch
    assert most - before < 50


@given(st.integers(1, 60), st.data())
def test_equal_parts(total, data):
    parts = data.draw(st.integers(1, total))
    stream = Array(range(total), id="x")
    spans = split(stream, parts)
    assert list(itertools.chain(*(whole(span)[0].tolist() for span in spans))) == list(range(total))
    sizes = [span.length for span in spans]
    assert max(sizes) - min(sizes) <= 1
    assert len({span.id for span in spans}) == parts


def test_shares_follow_each_other_and_leave_nothing_out():
    stream = Iterated(range(1000), id="x")  # which does not know its length
    assert [whole(part)[0].tolist() for part in split(stream, [0.1] * 10)] == [
        list(range(start, start + 100)) for start in range(0, 1000, 100)
    ]
    first, second = split(stream, [0.5, 0.25])
    assert (first.id, second.id) == ("x[0:500]", "x[500:750]")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (11, r"part 0 of 11 of stream 'x' would be empty, as it has 10 elements"),
        ([0.97, 0.03], "part 1 of 2 of stream 'x' would be empty"),
        (0, "one part or more, but parts=0"),
        ([], "add up to 1 or less"),
        ([0.5, 0.6], "add up to 1 or less"),
        ([1.2, -0.2], "positive"),
    ],
)
def test_empty_parts_are_refused(parts, message):
    with pytest.raises(ShapeError, match=message):
        split(Array(range(10), id="x"), parts)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 11), (11, None)])
def test_parts_that_are_not_there_are_refused(start, stop):
    with pytest.raises(ShapeError, match=rf"elements {start} to .* of stream 'x', which has 10 of them"):
        Span(Array(range(10), id="x"), start, stop)


def test_a_span_asks_for_no_piece_more_than_it_needs():
    def source():
        yield np.arange(10)
        raise AssertionError("nobody needs this")

    assert whole(Span(Iterated(source, id="x", pieces=True), 2, 10))[0].tolist() == list(range(2, 10))


def test_a_generator_can_be_read_once():
    stream = Iterated((n for n in range(9)), id="x")
    assert len(list(Windows([stream], 1, 4))) == 2
    with pytest.raises(DataError, match=r"stream 'x' is an iterator that was read before.*pass a function"):
        list(Windows([stream], 1, 4))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_refused_by_its_place(tmp_path, wrong):
    rows = ROWS.copy()
    rows[15_003, 2] = wrong
    np.save(tmp_path / "rows.npy", rows)
    place = rf"\[15003, 2\] is {wrong} \(row 15003, column 2, counting from 0\)"
    for stream, name in [
        (ArrayFile(tmp_path / "rows.npy"), "rows.npy"),
        (Array(rows, id="a"), "stream 'a': x"),
        (Iterated(rows, id="i"), "stream 'i'"),
    ]:
        with pytest.raises(DataError, match=name + place):
            whole(stream)
        with pytest.raises(DataError, match=name + place):
            whole(stream, 15_000)
        read = itertools.islice(stream.pieces(), 100) if stream.length is None else [next(stream.pieces())]
        assert all(len(piece.x) for piece in read)  # what lies before can be read


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        TextFile(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        TextFile(tmp_path)
    for name, save, message in [
        ("text.npy", lambda path: path.write_text("no array at all"), "text.npy is not a NumPy file"),
        ("objects.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True), "objects.npy holds object"),
        ("words.npy", lambda path: np.save(path, np.array(["a"])), "words.npy holds <U1"),
        ("one.npy", lambda path: np.save(path, np.array(1.0)), "one.npy holds a single number"),
        ("columns.npy", lambda path: np.save(path, np.asfortranarray(ROWS)), "columns.npy is stored column by column"),
    ]:
        save(tmp_path / name)
        with pytest.raises(DataError, match=message):
            ArrayFile(tmp_path / name)
    np.save(tmp_path / "cut.npy", ROWS)
    os.truncate(tmp_path / "cut.npy", 1000)
    with pytest.raises(
        DataError, match=r"cut.npy is cut short: its header promises 20000 rows of 24 bytes, but .* 872"
    ):
        ArrayFile(tmp_path / "cut.npy")
    np.save(tmp_path / "rows.npy", ROWS)
    np.save(tmp_path / "few.npy", TARGETS[:-1])
    with pytest.raises(ShapeError, match=r"20000 elements, but .*few.npy has 19999"):
        ArrayFile(tmp_path / "rows.npy", tmp_path / "few.npy")


def test_files_without_elements_are_named(tmp_path):
    (tmp_path / "text").touch()
    np.save(tmp_path / "rows.npy", ROWS[:0])
    for stream in (TextFile(tmp_path / "text"), ArrayFile(tmp_path / "rows.npy")):
        assert list(stream.pieces()) == []
        with pytest.raises(ShapeError, match=rf"stream '{stream.id}' has 0 elements, but needs 2 for a single step"):
            Windows([stream], 1, 8)
        with pytest.raises(ShapeError, match=rf"part 0 of 2 of stream '{stream.id}' would be empty"):
            split(stream, 2)


def test_a_file_that_becomes_shorter_is_noticed(tmp_path):
    (tmp_path / "text").write_bytes(bytes(1000))
    text = TextFile(tmp_path / "text")
    os.truncate(tmp_path / "text", 900)
    with pytest.raises(DataError, match=r"text ends at byte 900, but had 1000 or more when it was opened"):
        whole(text)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Array(3.0, id="x"), ShapeError, "a single number"),
        (lambda: Array(["a"], id="x"), TypeError, "x holds <U1"),
        (lambda: Array([1, 2], [1], id="x"), ShapeError, "2 elements, but 1 targets"),
        (lambda: whole(Iterated([[1, 2], [3]], id="x")), DataError, "elements from 0 on differ in shape"),
        (lambda: whole(Iterated(["a"], id="x")), DataError, "element 0 holds <U1"),
        (lambda: whole(Iterated([1, 2], id="x", pieces=True)), DataError, "a single number, where a piece"),
        (lambda: whole(Iterated([[1], [2]], id="x", pieces=True, targets=True)), DataError, r"give pairs"),
        (lambda: whole(Iterated([1, 2], id="x", targets=True)), DataError, r"give pairs"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_sources_can_be_sent_to_another_process(sources):
    for stream, x, _ in sources:
        if not isinstance(getattr(stream, "_source", None), type(lambda: 0)):
            assert whole(pickle.loads(pickle.dumps(stream)))[0].tolist() == x.tolist()
