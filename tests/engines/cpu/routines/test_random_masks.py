"""Masks of all steps at once: the numbers that PyTorch draws one after another, its generator left where it was."""

import sys
import threading

import pytest
import torch

from treadle.engines import random_values
from treadle.engines.cpu.routines import random_masks


def test_the_fast_way_is_taken_here():
    assert random_masks.agree_with_pytorch()


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [([5], 7), ([700, 3], 3), ([64, 1, 65], 9), ([1], 1), ([16, 16], 1), ([624], 2), ([4096, 4095], 40)],
    ids=str,
)
@pytest.mark.parametrize("before", [0, 17, 623, 624])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_masks_are_those_of_pytorch(sizes, steps, before, dtype):
    shares = [0.1, 0.7, 1 / 3][: len(sizes)]
    torch.manual_seed(3)
    torch.rand(before)
    start = torch.get_rng_state()
    if dtype == torch.float32:
        found = random_masks.masks(shares, sizes, steps)
    else:
        found = random_values.masks(shares, sizes, steps, dtype)
    after = torch.rand(3)
    torch.set_rng_state(start)
    rows = [torch.full((n,), share, dtype=dtype) for share, n in zip(shares, sizes, strict=True)]
    expected = [[torch.bernoulli(row) for row in rows] for _ in range(steps)]
    assert len(found) == len(sizes)
    for i, one in enumerate(found):
        assert one.dtype == dtype
        assert torch.equal(one, torch.stack([step[i] for step in expected]))
    assert torch.equal(after, torch.rand(3))


def test_threads_draw_different_masks():
    """Together they draw what one would, each mask once."""
    count, callers = 40, 4
    torch.manual_seed(3)
    expected = [random_masks.masks([0.5], [300], 1)[0] for _ in range(count * callers)]
    torch.manual_seed(3)
    found, ready = [], threading.Barrier(callers)

    def draw():
        ready.wait(60)
        found.extend(random_masks.masks([0.5], [300], 1)[0] for _ in range(count))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=draw) for _ in range(callers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    assert len(found) == len(expected)
    assert {tuple(mask[0].tolist()) for mask in found} == {tuple(mask[0].tolist()) for mask in expected}
