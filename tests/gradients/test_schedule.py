"""Which steps are run again, and in what order, against the fewest that any order takes."""

import functools
import math

import pytest

from treadle.gradients.checkpointed import schedule
from treadle.gradients.schedule import backwards, kept_at_first, least_kept


@functools.cache
def fewest(pieces: int, most: int) -> int:
    """Runs without a derivative, by trying every place for the next state: what it means, not how it is computed."""
    if pieces <= 1:
        return 0
    if most == 1:
        return pieces * (pieces - 1) // 2
    return min(m + fewest(m, most) + fewest(pieces - m, most - 1) for m in range(1, pieces))


def walk(kept, pieces, most):
    """What is done on the way back: ("run", piece) and ("back", piece), and the most that was kept at a time."""
    done, largest = [], 0

    def advance(piece, before):
        assert before == piece, "a piece was run from another state than the one before it"
        done.append(("run", piece))
        return piece + 1

    for piece, before in backwards(kept, pieces, most, advance):
        assert before == piece
        largest = max(largest, len(kept))  # the one that was just taken out is in hand
        done.append(("back", piece))
    assert not kept
    return done, largest


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 7, 20, 35, 50])
def test_no_order_takes_fewer_runs(pieces, most):
    done, largest = walk({0: 0} if pieces else {}, pieces, most)
    assert [piece for what, piece in done if what == "back"] == list(reversed(range(pieces)))
    assert sum(what == "run" for what, _ in done) == fewest(pieces, most)
    assert largest <= most

    # The same when the states were kept on the way forwards, which is a run up to the last of them.
    first = kept_at_first(pieces, most)
    assert len(first) <= most
    done, _ = walk({piece: piece for piece in first}, pieces, most)
    assert sum(what == "run" for what, _ in done) + (first[-1] if first else 0) == fewest(pieces, most)


def test_the_order_of_the_runs():
    done, _ = walk({0: 0}, 6, 2)
    # Two states: before piece 0, and before 3, later before 1.
    expected = "r0 r1 r2 r3 r4 b5 r3 b4 b3 r0 r1 b2 b1 b0"
    assert expected.count("r") == fewest(6, 2)
    assert " ".join(f"{what[0]}{piece}" for what, piece in done) == expected


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_as_many_states_as_it_takes(runs):
    for pieces in range(1, 60):
        most = least_kept(pieces, runs)
        assert math.comb(most + runs, runs) >= pieces
        assert most == 1 or math.comb(most - 1 + runs, runs) < pieces


@pytest.mark.parametrize("steps", [2, 63, 1_000, 1_000_000, 10_000_000_000])
@pytest.mark.parametrize("allowed", [10**4, 10**5, 10**6, 10**9])
def test_a_schedule_keeps_to_the_memory_if_any_does(steps, allowed):
    found = schedule(steps, 2_000, 500, allowed)
    count = -(-steps // found.length)
    assert found.size == found.length * 2_000 + found.most * 500
    assert found.size <= allowed
    assert found.most <= count


def test_one_more_forward_pass_where_one_is_enough():
    # Segments of one size, the state before each: enough from the square root on, as Chen and others have it.
    root = math.isqrt(1_000_000 * 500 * 2_000)
    found = schedule(1_000_000, 2_000, 500, 2 * root + 5_000)
    assert found.most >= -(-1_000_000 // found.length)
    tighter = schedule(1_000_000, 2_000, 500, root)
    assert tighter.most < -(-1_000_000 // tighter.length)


def test_the_smallest_schedule_where_none_is_small_enough():
    found = schedule(1_000, 2_000, 500, 100)
    assert found.length == 1
    assert found.size > 100
    assert found.size < schedule(1_000, 2_000, 500, 10**9).size
