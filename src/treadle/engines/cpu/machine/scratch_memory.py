"""Memory for what ends with a call, lent to one call after another.

A call of a small network takes less time than to ask for its memory. So a few blocks stay here: each call takes one for
as long as it runs, and the next one finds it warm.
"""

import collections

import torch

from treadle.engines.cpu.machine.alignment import LINE_BYTES, begin
from treadle.engines.cpu.machine.memory_pool import empty, is_to_be_filled, most_idle, pool

_MOST_BYTES = 4 << 20
"""Of a block that stays: to ask for a larger one takes less time than to write into it."""
_MOST_BLOCKS = 4


class Scratch:
    """A block, in the hands of one call.

    Attributes:
        start: its first address at which a cache line begins.
        size: how many bytes there are from there on.
    """

    __slots__ = ("block", "size", "start")

    def __init__(self, size: int):
        self.size, self.block = size, empty(size + LINE_BYTES, dtype=torch.uint8)
        self.start = begin(self.block)


_idle: "collections.deque[Scratch]" = collections.deque()


def take(size: int) -> Scratch:
    """A block of at least so many bytes; what is in it is anything.

    Raises:
        MemoryError: there is no memory.
    """
    if not is_to_be_filled():
        try:
            found = _idle.pop()
        except IndexError:
            return Scratch(size)
        if found.size >= size:
            return found
    return Scratch(size)


def give(scratch: Scratch) -> None:
    """Give a block back, once nobody reads it any more."""
    if scratch.size <= min(_MOST_BYTES, most_idle()) and len(_idle) < _MOST_BLOCKS and not is_to_be_filled():
        _idle.append(scratch)


def release() -> bool:
    """Let go of all memory of calls that waits, here and in the pool; whether there was any."""
    had = bool(_idle)
    _idle.clear()
    return pool.release() or had
