"""Layouts of about the same size share a frame, and so a recipe."""

import random

import pytest
import torch

from treadle.engines.cpu.plan.frame import Axis, Frame
from treadle.engines.layout import Layout


def random_layout(numbers, B, T, ragged):
    rows, steps = numbers.randint(-(-B // 2), B), numbers.randint(-(-T // 2), T)
    return Layout(steps, rows, torch.tensor([numbers.randint(1, steps) for _ in range(rows)]) if ragged else None)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("B", "T"), [(1, 1), (1, 400), (16, 30), (64, 300)])
def test_random_layouts_share_few_frames(B, T, ragged):
    numbers = random.Random(0)
    frames = set()
    for _ in range(200):
        layout = random_layout(numbers, B, T, ragged)
        frame = Frame.of(layout)
        assert frame.is_whole == (layout.order is None)
        assert not frame.has_resets
        assert layout.rows <= frame.most_rows <= max(layout.rows, 1.125 * layout.rows + 1)
        assert layout.batch <= frame.most_batch <= 1.5 * layout.batch
        for count in (1, 2, 3, 7):
            shares = layout.shares(count)
            assert len(shares) == count
            assert [first for first, _ in shares] == [0, *(last for _, last in shares[:-1])]
            assert shares[-1][1] == layout.batch
            assert max(last - first for first, last in shares) <= frame.most_of_a_share(count)
        frames.add(frame)
    assert len(frames) <= 48


def test_sizes_of_axes():
    layout = Layout(5, 3, torch.tensor([5, 0, 2]))
    assert Axis.ROWS.size(layout) == 7
    assert Axis.BATCH.size(layout) == 3
    with_resets = Layout(5, 3, None, torch.ones(5, 3, dtype=torch.bool))
    assert Frame.of(with_resets) == Frame(15, 3, True, True)
