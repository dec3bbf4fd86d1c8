"""Memory begins where it should."""

import torch

from treadle.engines.cpu.machine.alignment import Stagger, begin, whole_lines


def test_blocks_begin_where_a_vector_may():
    block = torch.empty(256, dtype=torch.uint8)
    for i in range(65):
        assert begin(block[i:]) % 64 == 0
        assert 0 <= begin(block[i:]) - block[i:].data_ptr() < 64


def test_whole_lines_hold_what_is_asked_for():
    assert [whole_lines(size) for size in (0, 1, 64, 65, 1000)] == [64, 64, 64, 128, 1024]


def test_places_are_spread_over_a_page():
    stagger = Stagger()
    places = [stagger.after(1000) for _ in range(64)]
    assert all(1000 <= place < 1000 + 4096 and place % 64 == 0 for place in places)
    assert len({place % 4096 for place in places}) == 64
