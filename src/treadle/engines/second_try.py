"""Work that found no memory, once more when what was kept has been given back."""

from collections.abc import Callable
from typing import TypeVar

from treadle.torch_internals import ran_out_of_memory

T = TypeVar("T")


def with_second_try(work: Callable[[], T], release: Callable[[], bool]) -> T:
    """What some work gives; it is done twice if there was no memory the first time, and ``release`` has given some."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not (ran_out_of_memory(error) and release()):
            raise
    return work()  # outside of the exception, which keeps alive what was there when it was raised
