"""Memory for large tensors, used again.

A training step asks for the same large tensors every time. The operating system clears each page of a new one when it
is first written, which takes longer than many a kernel's own work on it. So what was freed is kept for the next that
asks for as much, up to a limit.
"""

import collections
import ctypes
import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.engines.cpu.machine.alignment import PAGE_BYTES, Stagger
from treadle.locks import fork_safe_lock


def _physical() -> int:
    """Bytes of memory that the machine has; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


_SMALL = 1 << 18
"""Bytes below which the C library keeps memory itself."""
_LIMIT = max(256 << 20, _physical() // 16)
"""How many bytes may wait to be used again, a sixteenth of what the machine has. What a training step of a wide network
takes has to fit, or else every step waits for clean pages; where two networks are trained in turns, of both."""

_free: "collections.OrderedDict[int, list[Any]]" = collections.OrderedDict()
_waiting = 0
_stagger = Stagger()
_lock = fork_safe_lock()


class _Lent:
    """Memory that NumPy and PyTorch see as an array, and that goes back when the last of them has let go."""

    def __init__(self, size: int, block: Any):
        self.size, self.block = size, block
        data = _stagger.after(ctypes.addressof(block)), False  # not for reading alone
        self.__array_interface__ = {"data": data, "shape": (size,), "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        _give(self.size, self.block)


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty` on the CPU, in memory that may have been used before."""
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALL or _is_to_be_filled():
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.from_numpy(np.asarray(_Lent(size, _take(size)))).view(dtype).view(shape)


def _is_to_be_filled() -> bool:
    """Whether PyTorch fills new memory with NaN, so that whoever reads it too early is seen."""
    deterministic: Any = torch.utils.deterministic  # a module with properties, which pyright does not know
    return torch.are_deterministic_algorithms_enabled() and deterministic.fill_uninitialized_memory


def _take(size: int) -> Any:
    """A block with room for ``size`` bytes at any place of a page, one that was used before if there is one."""
    global _waiting
    with _lock:
        blocks = _free.get(size)
        if blocks:
            block = blocks.pop()
            _waiting -= size
            if not blocks:
                del _free[size]
            return block
    return (ctypes.c_char * (size + PAGE_BYTES))()


def _give(size: int, block: Any) -> None:
    """Keep a block for the next that asks for as much; what was given back first goes if these are too many."""
    global _waiting
    with _lock:
        _free.setdefault(size, []).append(block)
        _free.move_to_end(size)
        _waiting += size
        while _waiting > _LIMIT:
            oldest = next(iter(_free))
            _free[oldest].pop()
            _waiting -= oldest
            if not _free[oldest]:
                del _free[oldest]
