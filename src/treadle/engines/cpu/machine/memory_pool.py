"""Memory for large tensors, used again.

A training step asks for the same large tensors every time. The operating system clears each page of a new one when it
is first written, which takes longer than many a kernel's own work on it. So blocks that were freed are kept for those
who ask next: not for ever, and no more of them than were in use at the same time a short while ago, so that a process
does not take much more than its tensors need.

Sizes of blocks are rounded up to one of few, and a request takes a somewhat larger block where there is none of its
size: sequences whose length changes from batch to batch find what others have left.
"""

import collections
import functools
import gc
import math
import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from treadle.byte_sizes import as_bytes, show_bytes
from treadle.engines.cpu.machine.alignment import PAGE_BYTES, Stagger
from treadle.engines.cpu.machine.memory_limit import memory_limit, room_for_addresses
from treadle.errors import EngineError
from treadle.locks import fork_safe_lock

_SMALL = 1 << 18
"""Bytes below which the C library keeps memory itself."""
_CLASSES = 8
"""Sizes of blocks between a power of two and the next one."""
_LOOSE = 2
"""A block that is at most so many times as large as what is asked for will do."""
_ALWAYS = 64 << 20
"""Bytes of blocks that are kept whatever was in use."""
_SLACK = 1.5
"""How many times as many bytes as were in use at the same time there may be in all, with those that wait."""
_SHARE = 4
"""At most one of so many bytes that the process may have waits."""
_SPELL = 128
"""Blocks that are taken in a spell; what was in use in this one and the one before counts."""
_ASKED_EVERY = 64
"""Times that the limit is needed until the operating system is asked again how many addresses are left."""


@functools.cache
def most_idle() -> int:
    """How many bytes may wait to be used again: what ``TREADLE_MEMORY`` says, or a quarter of what there is.

    The environment variable is read once: ``"256MB"``, ``"1.5GiB"``, ``"0"`` (nothing is kept), a number of bytes.

    Raises:
        EngineError: it is no amount of memory.
    """
    text = os.environ.get("TREADLE_MEMORY", "").strip()
    if not text:
        return memory_limit() // _SHARE or _ALWAYS
    try:
        return as_bytes(text, 0, "the environment variable TREADLE_MEMORY")
    except ValueError as error:
        raise EngineError(str(error)) from None


class Room:
    """The room for addresses. Whoever gives a block back asks, but the operating system is asked now and then alone.

    Blocks that are given and taken in turn change nothing of it.
    """

    def __init__(self) -> None:
        self._found: int | None = None
        self._left = 0

    def now(self) -> int | None:
        """As it was not long ago."""
        self._left -= 1
        if self._left < 0:
            self._found, self._left = room_for_addresses(), _ASKED_EVERY
        return self._found

    def has_changed(self) -> None:
        """The next one who asks is told what it is then."""
        self._left = 0


_room = Room()


def _limit_now() -> int:
    """What may wait to be used again; less where addresses are limited, so that others find room."""
    room = _room.now()
    return most_idle() if room is None else min(most_idle(), (room + pool.idle) // _SHARE)


class Block(NamedTuple):
    """Memory of the operating system's, and where it begins."""

    memory: np.ndarray
    address: int


def _new_block(size: int) -> Block:
    """Memory that goes back to the operating system as soon as nobody holds it."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    _room.has_changed()
    memory = np.frombuffer(mmap.mmap(-1, size, **private), np.uint8)
    return Block(memory, memory.ctypes.data)


class MemoryPool:
    """Blocks that are in use, and idle ones.

    Args:
        limit: tells how many bytes may be idle.
        new_block: makes a block; raises OSError or MemoryError if there is no memory.

    Attributes:
        used: bytes of the blocks that are in use.
        idle: bytes of those that wait.
    """

    def __init__(self, limit: Callable[[], int], new_block: Callable[[int], Any] = _new_block):
        self._limit, self._new_block = limit, new_block
        self.used = self.idle = 0
        self._most, self._most_before, self._taken = 0, 0, 0  # in use at the same time, in this spell and before
        # By size, that first of which a block was given back the longest time ago.
        self._blocks: collections.OrderedDict[int, list[Any]] = collections.OrderedDict()
        # Memory may be freed at any time, also in a thread that holds the lock: it is left here for whoever has that.
        self._returned: collections.deque[tuple[int, Any]] = collections.deque()
        self._spells_over = 0
        self._lock = fork_safe_lock()

    def take(self, size: int) -> tuple[int, Any]:
        """A block of at least so many bytes: how many it has, and the block.

        Raises:
            MemoryError: there is no memory, though nothing waits any more.
        """
        size = rounded(size)
        with self._lock:
            self._settle()
            found = self._find(size)
            if found is None:
                self._count(size)
                self._shrink()
                found = size, self._allocate(size)
            else:
                self._count(found[0])
        self._tidy()
        return found

    def give(self, size: int, block: Any) -> None:
        """Give a block back."""
        self._returned.append((size, block))
        self._tidy()

    def end_spell(self) -> None:
        """What was in use before the present spell counts no more."""
        self._spells_over += 1
        self._tidy()

    def release(self) -> bool:
        """Give everything that waits back to the operating system; whether there was anything."""
        with self._lock:
            self._settle()
            released, self.idle = self.idle > 0, 0
            self._blocks.clear()
        return released

    def _tidy(self) -> None:
        """Settle what has come back; whoever holds the lock does it, for all."""
        while (self._returned or self._spells_over) and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def _settle(self) -> None:
        if not (self._returned or self._spells_over):
            return
        while self._spells_over:
            self._spells_over -= 1
            self._most_before, self._most, self._taken = self._most, self.used, 0
        while self._returned:
            size, block = self._returned.popleft()
            self._blocks.setdefault(size, []).append(block)
            self._blocks.move_to_end(size)
            self.used -= size
            self.idle += size
        self._shrink()

    def _find(self, size: int) -> tuple[int, Any] | None:
        """The smallest idle block that will do."""
        fitting = size
        while fitting <= _LOOSE * size:
            blocks = self._blocks.get(fitting)
            if blocks:
                block = blocks.pop()
                if not blocks:
                    del self._blocks[fitting]
                self.idle -= fitting
                return fitting, block
            fitting = rounded(fitting + 1)
        return None

    def _count(self, size: int) -> None:
        """A block more is in use."""
        self.used += size
        self._taken += 1
        if self._taken >= _SPELL:
            self._most_before, self._most, self._taken = self._most, self.used, 0
            self._shrink()
        self._most = max(self._most, self.used)

    def _shrink(self) -> None:
        """Let go of blocks as long as there are too many."""
        if not self.idle:
            return
        allowed = max(_ALWAYS, int(_SLACK * max(self._most, self._most_before)) - self.used)
        allowed = min(allowed, self._limit())
        while self.idle > allowed:
            oldest = next(iter(self._blocks))
            self._blocks[oldest].pop()
            self.idle -= oldest
            if not self._blocks[oldest]:
                del self._blocks[oldest]

    def _allocate(self, size: int) -> Any:
        try:
            return self._new_block(size)
        except (OSError, MemoryError):
            self._blocks.clear()
            self.idle = 0
        try:
            return self._new_block(size)
        except (OSError, MemoryError):
            self.used -= size
        raise MemoryError(
            f"there is no memory for {show_bytes(size)} more, beside {show_bytes(self.used)} in use by networks: make"
            " batches or sequences shorter, or pass gradient=td.CheckpointedBPTT()"
        )


def rounded(size: int) -> int:
    """The size of block that is made for so many bytes: one of a few between a power of two and the next one."""
    unit = max(PAGE_BYTES, (1 << (size - 1).bit_length()) // (2 * _CLASSES))
    return -(-size // unit) * unit


pool = MemoryPool(lambda: _limit_now())
_stagger = Stagger()


def _after_collection(phase: str, info: dict[str, int]) -> None:
    """Blocks that wait through two whole garbage collections are given back, even if nobody asks for any more."""
    if phase == "stop" and info["generation"] == 2:
        pool.end_spell()


gc.callbacks.append(_after_collection)


class _Lent(np.ndarray):
    """Memory that PyTorch sees as an array, and that goes back when the last tensor in it has let go."""

    lent: tuple[int, Block] | None = None  # a view of it has none

    def __del__(self) -> None:
        if self.lent is not None:
            pool.give(*self.lent)


_KINDS = {torch.uint8: np.dtype("u1"), torch.float32: np.dtype("f4"), torch.float64: np.dtype("f8")}
"""The types that NumPy knows by themselves, of those that are often asked for."""


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty` on the CPU, in memory that may have been used before.

    Raises:
        MemoryError: there is none.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALL or is_to_be_filled():
        return _nothing(dtype).new_empty(shape)  # in less time than torch.empty
    block = pool.take(size + PAGE_BYTES)  # room to begin at any place of a page
    memory, address = block[1]
    kind = _KINDS.get(dtype)
    array = _Lent(shape if kind else (size,), kind or np.uint8, memory, _stagger.after(address) - address)
    array.lent = block
    return torch.from_numpy(array) if kind else torch.from_numpy(array).view(dtype).view(shape)


@functools.cache
@torch.inference_mode(False)
def _nothing(dtype: torch.dtype) -> Tensor:
    """A tensor of a type without numbers."""
    return torch.empty(0, dtype=dtype, device="cpu")


def is_to_be_filled() -> bool:
    """Whether PyTorch fills new memory with NaN, so that whoever reads it too early is seen."""
    deterministic: Any = torch.utils.deterministic  # a module with properties, which pyright does not know
    return torch.are_deterministic_algorithms_enabled() and deterministic.fill_uninitialized_memory
