import itertools
import threading

import pytest

from treadle.streams.ahead import ahead


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_same_items_in_the_same_order(depth):
    assert list(ahead(iter(range(20)), depth)) == list(range(20))
    assert list(ahead(iter(()), depth)) == []


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_an_error_comes_after_all_items_before_it(depth):
    def items():
        yield from range(5)
        raise KeyError("five")

    reader = ahead(items(), depth)
    assert [next(reader) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="five"):
        next(reader)


def test_no_more_is_made_than_asked_for():
    made, third = [], threading.Event()

    def items():
        for n in itertools.count():
            made.append(n)
            if n == 3:
                third.set()
            yield n

    reader = ahead(items(), 2)
    assert next(reader) == 0
    assert third.wait(10)  # one handed out, two that wait, one in the thread's hands
    assert next(reader) == 1
    reader.close()
    assert len(made) <= 6


def test_the_thread_ends_with_its_reader():
    reader = ahead(itertools.count(), 2)
    next(reader)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "treadle streams"]
    reader.close()
    thread.join(10)
    assert not thread.is_alive()
