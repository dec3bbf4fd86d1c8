"""Places in an arena never overlap, and large ones are spread over pages."""

import hypothesis
import hypothesis.strategies as st

from treadle.engines.cpu.machine.arena import Arena, Word

SIZES = st.sampled_from([0, 1, 63, 64, 65, 1000, 4095, 4096, 5000, 8192, 100_000])


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60)
def test_places_never_overlap(data):
    arena = Arena(Word(3))
    used: dict[int, int] = {}  # what may not be written by others: from where to where
    asked: dict[int, int] = {}  # of those that nobody has left: how many bytes were asked for
    leaving: list[int] = []
    for _ in range(data.draw(st.integers(0, 40))):
        do = data.draw(st.sampled_from(["room", "room", "leave", "next_phase"]))
        if do == "room":
            size = data.draw(SIZES)
            place = arena.room(size)
            start, end = place.plus, place.plus + max(size, 1)
            assert place.given == 3
            assert start >= 0
            assert start % 64 == 0
            assert end <= arena.size
            assert all(end <= other or other_end <= start for other, other_end in used.items())
            used[start], asked[start] = end, size
        elif do == "leave" and asked:
            start = data.draw(st.sampled_from(sorted(asked)))
            arena.leave(Word(3, start), asked.pop(start))
            leaving.append(start)
        elif do == "next_phase":
            arena.next_phase()
            for start in leaving:
                del used[start]
            leaving.clear()


def test_large_rooms_do_not_begin_at_the_same_place_of_a_page():
    arena = Arena(Word(2))
    assert len({arena.room(8192).plus % 4096 for _ in range(8)}) == 8
