"""The orders in which rows lie, against plain indexing."""

import pytest
import torch

from treadle.engines.layout import Layout, Split


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("shares", [[(0, 1), (1, 2)], [(0, 3), (3, 4), (4, 5)]])
@pytest.mark.parametrize("some_reset", [False, True])
def test_a_split_keeps_each_thread_s_rows_together(steps, shares, some_reset):
    batch = shares[-1][1]
    resets = torch.rand(steps, batch) < 0.3 if some_reset else None
    if resets is not None:
        resets[0, 0] = True
    layout = Layout(steps, batch, None, resets)
    split = Split(layout, shares)
    here = torch.arange(steps * batch)[split.outside]  # of each row, which row of [T, B] it is
    assert sorted(here.tolist()) == list(range(steps * batch))
    for run, (first, last) in enumerate(shares):
        for t in range(steps):
            begin = int(split.offsets[run][t]) + first  # as kernels find it
            assert here[begin : begin + last - first].tolist() == [t * batch + r for r in range(first, last)]
    # What each step begins with: the fresh state at a reset, else the first one or the row of the step before.
    fresh, start = [("fresh", r) for r in range(batch)], [("start", r) for r in range(batch)]
    everything = [*fresh, *start, *(("row", int(place)) for place in here)]
    for place, origin in zip(here.tolist(), split.origins.tolist(), strict=True):
        t, r = divmod(place, batch)
        expected = ("row", place - batch) if t else ("start", r)
        expected = ("fresh", r) if resets is not None and resets[t, r] else expected
        assert everything[origin] == expected
    if resets is None:
        assert split.packed_resets is None
    else:
        assert split.packed_resets.tolist() == resets.reshape(-1)[here].int().tolist()
