"""Memory for large tensors, used again.

A training step asks for the same large tensors every time. The operating system clears each page of a new one when it
is first written, which takes longer than many a kernel's own work on it. So what was freed is kept for the next that
asks for as much, up to a limit.
"""

import collections
import ctypes
import threading
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["empty"]

_SMALL = 1 << 20
"""Bytes below which the C library keeps memory itself."""
_LIMIT = 256 << 20
"""How many bytes may wait to be used again."""

_deterministic: Any = torch.utils.deterministic  # a module with properties, which pyright does not know
_free: "collections.OrderedDict[int, list[ctypes.Array[ctypes.c_char]]]" = collections.OrderedDict()
_waiting = 0
_lock = threading.RLock()  # a finaliser may run in the thread that holds it


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty` on the CPU, in memory that may have been used before."""
    count = 1
    for size in shape:
        count *= size
    size = count * dtype.itemsize
    if size < _SMALL or (_deterministic.fill_uninitialized_memory and torch.are_deterministic_algorithms_enabled()):
        return torch.empty(shape, dtype=dtype)
    block: Any = _take(size)  # NumPy takes it, but does not say so in its types
    # Vectors that begin where a cache line does are read in one go.
    view = np.frombuffer(block, dtype=np.uint8, count=size, offset=-ctypes.addressof(block) % 64)
    weakref.finalize(view, _give, size, block).atexit = False
    return torch.from_numpy(view).view(dtype).view(shape)


def _take(size: int) -> "ctypes.Array[ctypes.c_char]":
    global _waiting
    with _lock:
        blocks = _free.get(size)
        if blocks:
            block = blocks.pop()
            _waiting -= size
            if not blocks:
                del _free[size]
            return block
    return (ctypes.c_char * (size + 64))()


def _give(size: int, block: "ctypes.Array[ctypes.c_char]") -> None:
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
