"""Properties without locks, and results that live for as long as they are used."""

import gc
import threading
import weakref

from treadle.caches import kept_property, kept_while_used


def test_a_property_is_computed_once_and_needs_no_lock():
    computed = []
    meet = threading.Barrier(2)

    class Thing:
        @kept_property
        def number(self):
            """A number."""
            meet.wait(60)  # two threads are in here at once: nobody holds a lock
            computed.append(object())
            return computed[-1]

    thing, found = Thing(), []
    threads = [threading.Thread(target=lambda: found.append(thing.number)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 2
    assert found[0] is found[1] is thing.number
    assert Thing.number.__doc__ == "A number."


def test_a_result_lives_as_long_as_it_is_used():
    class Thing:
        pass

    @kept_while_used
    def make(a, b):
        """A thing."""
        return Thing()

    one = make(1, (2, 3))
    assert make(1, (2, 3)) is one
    assert make(1, 3) is not one
    assert make.__doc__ == "A thing."
    make.cache_clear()
    other = make(1, (2, 3))
    assert other is not one
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None
