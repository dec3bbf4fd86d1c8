"""Every step of every stream comes once an epoch, in order, wherever it was stopped and whoever reads it."""

import itertools
import json
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch.utils.data import DataLoader

import treadle as td
from treadle.errors import DataError, ShapeError, StateError
from treadle.streams import Array, Iterated, Piece, Windows, split

# What PyTorch says on a machine with one core, and Python from 3.12 on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

FAR = 1000
"""Element p of stream n is n * FAR + p, so that each says where it comes from."""


def streams_of(lengths, targets=False, unknown=()):
    """A stream for each length; those whose number is in ``unknown`` do not know theirs."""
    made = []
    for number, length in enumerate(lengths):
        x = np.arange(number * FAR, number * FAR + length)
        y = -x if targets else None
        if number in unknown:
            items = list(zip(x, y, strict=True)) if targets else list(x)
            made.append(Iterated(items, id=f"s{number}", targets=targets))
        else:
            made.append(Array(x, y, id=f"s{number}"))
    return made


@st.composite
def layouts(draw):
    """Streams and how to lay them out."""
    horizon = draw(st.integers(0, 3))
    lengths = draw(st.lists(st.integers(horizon + 1, 25), min_size=1, max_size=10))
    targets = draw(st.booleans())
    unknown = draw(st.sets(st.integers(0, len(lengths) - 1)))
    epochs = draw(st.integers(1, 3))
    rows = draw(st.integers(1, 6 if epochs == 1 else min(6, len(lengths))))
    options = {
        "rows": rows,
        "steps": draw(st.integers(1, 12)),
        "horizon": horizon,
        "seed": draw(st.none() | st.integers(0, 5)),
        "epochs": epochs,
        "prefetch": draw(st.sampled_from([0, 2])),
    }
    return lengths, targets, unknown, options


def same(batches, others):
    batches, others = list(batches), list(others)
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for name in ("x", "y", "resets", "lengths", "ends", "positions"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
        assert batch.stream_ids == other.stream_ids
        assert batch.after == other.after


@given(layouts())
def test_every_step_once_an_epoch_in_order(layout):
    lengths, targets, unknown, options = layout
    T, horizon = options["steps"], options["horizon"]
    batches = list(Windows(streams_of(lengths, targets, unknown), **options))
    read = [[] for _ in range(options["rows"])]  # of each row: (stream, position)
    for batch in batches:
        for row in range(options["rows"]):
            n = int(batch.lengths[row])
            assert not batch.x[row, n:].any()
            assert not batch.y[row, n:].any()
            assert (batch.positions[row, n:] == -1).all()
            assert not batch.resets[row, n:].any()
            assert not batch.ends[row, n:].any()
            assert batch.mask[row].sum() == n
            assert batch.mask[row, :n].all()
            names, segment = iter(batch.stream_ids[row]), None
            for t in range(n):
                if t == 0 or batch.resets[row, t]:
                    segment = int(next(names)[1:])
                position = int(batch.positions[row, t])
                assert batch.x[row, t] == segment * FAR + position
                assert batch.y[row, t] == (-1 if targets else 1) * (segment * FAR + position + horizon)
                assert batch.resets[row, t] == (position == 0)
                assert batch.ends[row, t] == (position == lengths[segment] - horizon - 1)
                read[row].append((segment, position))
            assert next(names, None) is None
    for steps in read:
        for before, after in itertools.pairwise(steps):
            same_stream = before[1] < lengths[before[0]] - horizon - 1
            assert after == (before[0], before[1] + 1) if same_stream else after[1] == 0
    begun = [int(batch.resets.sum()) for batch in batches]
    counts = {(n, p): options["epochs"] for n, length in enumerate(lengths) for p in range(length - horizon)}
    seen = {}
    for step in itertools.chain(*read):
        seen[step] = seen.get(step, 0) + 1
    assert seen == counts
    # A row is short only when no stream is left that has not begun.
    for number, batch in enumerate(batches):
        assert (batch.lengths > 0).any()
        if (batch.lengths < T).any():
            assert not any(begun[number + 1 :])


@given(layouts())
def test_going_on_from_any_batch_is_going_on(layout):
    lengths, targets, unknown, options = layout

    def windows():
        return Windows(streams_of(lengths, targets, unknown), **options)

    whole = windows()
    batches = list(whole)
    for number, batch in enumerate(batches):
        again = windows()
        again.load_state_dict(json.loads(json.dumps(batch.after)))
        assert again.state_dict() == batch.after
        if number + 1 < len(batches):
            same(again, batches[number + 1 :])
            assert again.state_dict() == whole.state_dict()
    # Left in the middle and taken up again, it goes on as well.
    broken = windows()
    first = list(itertools.islice(broken, len(batches) // 2))
    same([*first, *broken] if len(first) < len(batches) and first else broken, batches)


@given(layouts(), st.integers(1, 4))
def test_workers_together_make_the_same_batches(layout, workers):
    lengths, targets, unknown, options = layout
    batches = list(Windows(streams_of(lengths, targets, unknown), **options))
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        for number in range(workers):
            info = SimpleNamespace(id=number, num_workers=workers)
            patch.setattr("treadle.streams.windows.get_worker_info", lambda info=info: info)
            shares.append(list(Windows(streams_of(lengths, targets, unknown), **options)))
    for number, share in enumerate(shares):
        same(share, batches[number::workers])


@given(layouts(), st.integers(2, 3))
def test_ranks_share_the_rows_and_no_stream(layout, ranks):
    lengths, targets, unknown, options = layout
    options["rows"] *= ranks
    options["epochs"] = 1
    batches = list(Windows(streams_of(lengths, targets, unknown), **options))
    parts = [
        list(Windows(streams_of(lengths, targets, unknown), **options, rank=rank, ranks=ranks)) for rank in range(ranks)
    ]
    assert {len(part) for part in parts} == {len(batches)}  # no rank waits for another at the end
    for batch, *shares in zip(batches, *parts, strict=True):
        for name in ("x", "y", "resets", "lengths", "ends", "positions"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(share, name) for share in shares])), name
        assert batch.stream_ids == tuple(itertools.chain(*(share.stream_ids for share in shares)))
        assert all(share.after == batch.after for share in shares)
    readers = [{name for batch in part for row in batch.stream_ids for name in row} for part in parts]
    assert sum(map(len, readers)) == len(lengths) == len(set.union(*readers))


class Watched(Array):
    """Tells whether it was read."""

    was_read = False

    def pieces(self, start=0):
        self.was_read = True
        return super().pieces(start)


def test_a_rank_does_not_read_what_others_read():
    streams = [Watched(range(50), id=str(n)) for n in range(8)]
    names = {name for batch in Windows(streams, 4, 7, rank=1, ranks=2) for row in batch.stream_ids for name in row}
    assert {stream.id for stream in streams if stream.was_read} == names
    assert 0 < len(names) < 8


def test_state_moves_between_numbers_of_ranks():
    streams = streams_of([30, 22, 41, 17, 25])
    one = Windows(streams, 4, 5, prefetch=0)
    batches = list(one)
    two = Windows(streams, 4, 5, prefetch=0, rank=1, ranks=2)
    two.load_state_dict(batches[2].after)
    for batch, rest in zip(batches[3:], two, strict=True):
        assert torch.equal(batch.x[2:], rest.x)


def test_a_row_that_is_free_first_reads_first():
    # If row 0 filled its window before others began, it would take all of these.
    (batch,) = Windows(streams_of([3, 3, 3, 3], targets=True), rows=2, steps=6, seed=None)
    assert batch.stream_ids == (("s0", "s2"), ("s1", "s3"))


def test_the_order_of_streams_is_drawn_for_each_epoch_by_seed():
    def orders(seed, epochs=3):
        batches = Windows(streams_of([1] * 20, targets=True), rows=1, steps=20, seed=seed, epochs=epochs)
        return [batch.stream_ids[0] for batch in batches]

    first, second, third = orders(7)
    assert sorted(first) == sorted(second) == sorted(third) == sorted(f"s{n}" for n in range(20))
    assert len({first, second, third, *orders(8)}) == 6
    assert orders(7) == [first, second, third]
    assert orders(None) == [tuple(f"s{n}" for n in range(20))] * 3


def test_passes_one_after_another_are_the_epochs_of_one_long_pass():
    streams = streams_of([1] * 8, targets=True)
    together = [batch.stream_ids for batch in Windows(streams, rows=2, steps=4, epochs=3)]
    windows = Windows(streams, rows=2, steps=4)
    apart = []
    for epoch in range(3):
        assert windows.epoch == epoch
        apart += [batch.stream_ids for batch in windows]
    assert apart == together
    windows.set_epoch(1)
    assert [batch.stream_ids for batch in windows] == together[1:2]


def test_for_ever():
    streams = streams_of([7, 9, 4])
    windows = Windows(streams, rows=2, steps=5, epochs=None, prefetch=1)
    read = {}
    for batch in itertools.islice(windows, 200):
        assert (batch.lengths == 5).all()
        for row, ids in enumerate(batch.stream_ids):
            for name in ids[int(not batch.resets[row, 0]) :]:
                read[name] = read.get(name, 0) + 1
    assert max(read.values()) - min(read.values()) <= 2
    assert windows.epoch > 100


def test_more_epochs_can_follow_a_state():
    streams = streams_of([7, 9, 4])
    short, long = Windows(streams, 2, 5, epochs=1), Windows(streams, 2, 5, epochs=3)
    *_, last = short
    long.load_state_dict(last.after)
    assert long.epoch == 1
    assert sum(int(batch.resets.sum()) for batch in long) == 6


def test_data_loader_with_any_number_of_workers():
    streams = streams_of([30, 22, 41, 17, 25], unknown=(2,))
    batches = list(Windows(streams, 3, 8))
    for workers in (0, 1, 2):
        same(DataLoader(Windows(streams, 3, 8), batch_size=None, num_workers=workers), batches)


def test_data_loader_that_keeps_its_workers_goes_on_to_the_next_epoch():
    streams = streams_of([30, 22, 41, 17, 25])
    loader = DataLoader(Windows(streams, 3, 8), batch_size=None, num_workers=2, persistent_workers=True)
    expected = Windows(streams, 3, 8)
    next(iter(loader))  # what workers have read ahead and nobody used does not count
    for _ in range(2):
        same(loader, list(expected))


def test_floats_come_in_pytorchs_precision_and_others_on_request():
    x = np.random.default_rng(0).standard_normal((20, 3))
    for given_dtype, dtype in [(None, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.bfloat16)]:
        (batch,) = Windows([Array(x, id="x")], rows=1, steps=19, dtype=given_dtype)
        assert batch.x.dtype == batch.y.dtype == dtype
        assert torch.equal(
            batch.x[0], torch.from_numpy(x[:-1]).to(torch.float32 if dtype != torch.float64 else dtype).to(dtype)
        )
        assert torch.equal(batch.y[0, :-1], batch.x[0, 1:])


def test_bytes_come_as_embeddings_take_them():
    (batch,) = Windows([Array(np.array([250, 3, 255], np.uint8), id="x")], rows=1, steps=2)
    assert batch.x.dtype == torch.int64
    assert batch.y.tolist() == [[3, 255]]


def test_a_batch_moves_as_a_whole():
    (batch,) = Windows([Array(range(5), id="x")], rows=1, steps=4)
    moved = batch.to("meta")
    assert all(getattr(moved, name).is_meta for name in ("x", "y", "resets", "lengths", "ends", "positions"))
    assert moved.stream_ids == batch.stream_ids
    assert moved.after == batch.after


def test_an_error_comes_after_the_batches_before_it():
    def broken():
        yield np.arange(20)
        raise OSError("the line is dead")

    batches = iter(Windows([Iterated(broken, id="x", pieces=True)], rows=1, steps=3, prefetch=3))
    assert torch.cat([next(batches).x[0] for _ in range(6)]).tolist() == list(range(18))
    with pytest.raises(OSError, match=r"the line is dead"):
        next(batches)


def test_a_stream_that_ends_before_its_length_is_noticed():
    class Liar(Array):
        length = 100

    with pytest.raises(DataError, match=r"stream 'x' ended after 10 elements, but said that it has 100"):
        list(Windows([Liar(range(10), id="x")], rows=1, steps=6))


def test_pieces_of_any_sizes_even_none_are_one_stream():
    class Crumbs:
        id, length, has_targets = "crumbs", None, False

        def pieces(self, start=0):
            at = start
            for size in itertools.cycle([1, 0, 3, 7, 0, 2]):
                if at >= 50:
                    return
                yield Piece(np.arange(at, min(at + size, 50)))
                at = min(at + size, 50)

    for steps in (1, 4, 49, 60):
        read = torch.cat([batch.x[batch.mask] for batch in Windows([Crumbs()], 1, steps)])
        assert read.tolist() == list(range(49))


def one(**options):
    return {"streams": [Array(range(9), id="x")], "rows": 1, "steps": 2} | options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (one(streams=[]), ShapeError, "no streams to read"),
        (one(streams=[torch.zeros(3)]), TypeError, r"streams\[0\] is a Tensor, which is no stream: wrap it"),
        (one(streams=[Array(range(9), id="x")] * 2), DataError, "two streams are called 'x'"),
        (one(rows=0), ShapeError, "rows is a whole number from 1 on, but rows=0"),
        (one(steps=1.5), ShapeError, "steps=1.5"),
        (one(horizon=-1), ShapeError, "horizon=-1"),
        (one(seed=-1), ShapeError, "seed=-1"),
        (one(epochs=0), ShapeError, "epochs=0"),
        (one(horizon=9), ShapeError, "stream 'x' has 9 elements, but needs 10 for a single step with horizon=9"),
        (one(rows=2, epochs=None), ShapeError, "2 rows for endless epochs need 2 streams.*there is 1: cut"),
        (one(rows=3, rank=0, ranks=2), ShapeError, "3 rows cannot be shared equally by 2 ranks"),
        (one(rank=2, ranks=2), ValueError, "rank=2 of ranks=2"),
        (one(rank=0), ValueError, "pass both, or neither"),
        (
            one(streams=[Array(range(9), id="x"), Array(range(9), range(9), id="y")]),
            DataError,
            "stream 'y' has targets, but 'x' has none",
        ),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        Windows(**options)


def test_streams_that_are_not_alike_are_refused_by_name():
    floats, wide, whole = np.zeros((9, 2)), np.zeros((9, 3)), np.zeros((9, 2), int)
    with pytest.raises(
        ShapeError, match=r"x of stream 'b' has the shape \[3\] at each step, but that of 'a' has \[2\]"
    ):
        list(Windows([Array(floats, id="a"), Array(wide, id="b")], 1, 5, seed=None))
    with pytest.raises(ShapeError, match=r"x of stream 'b' is made of whole numbers .*'a' of floats"):
        list(Windows([Array(floats, id="a"), Array(whole, id="b")], 1, 5, seed=None))


def test_a_stream_of_unknown_length_that_is_too_short_is_refused_when_it_is_met():
    with pytest.raises(ShapeError, match=r"stream 's1' has 2 elements, but needs 3"):
        list(Windows(streams_of([9, 2], unknown=(1,)), 1, 4, horizon=2))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"streams": [Array(range(9), id="y")]}, "other streams than these 1"),
        ({"rows": 2}, "windows with 1 rows, but these have 2"),
        ({"seed": 3}, "windows with seed=0, but these have seed=3"),
        ({"horizon": 2}, "windows with horizon=1, but these have horizon=2"),
    ],
)
def test_the_state_of_other_windows_is_refused(other, message):
    with pytest.raises(StateError, match=message):
        Windows(**one(**other)).load_state_dict(Windows(**one()).state_dict())


def test_what_is_no_state_is_refused():
    for nothing in (None, {}, {"rows": []}):
        with pytest.raises(StateError, match=r"not a state of windows"):
            Windows(**one()).load_state_dict(nothing)


def test_ranks_are_those_of_torchrun(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    windows = Windows(split(Array(range(40), id="x"), 2), 2, 4)
    assert (windows.rank, windows.ranks) == (1, 2)


def test_the_public_name():
    assert td.streams.Windows is Windows
