"""Memory that a step could write into, such as a ``bytearray``: what lies in it, and how that is put back."""

import array
import ctypes
import mmap
from typing import Any

from treadle.compiler.kinds import BUFFERS


def copy_of(memory: Any, most: int) -> Any:
    """A copy of a buffer or of an array of NumPy's; None if it is larger than ``most`` bytes, or cannot change."""
    if isinstance(memory, BUFFERS):
        try:
            with memoryview(memory) as view:
                return None if view.nbytes >= most or view.readonly else view.tobytes()
        except ValueError:  # closed, or released
            return None
    return memory.copy() if getattr(memory, "nbytes", most) < most and hasattr(memory, "fill") else None


def is_as(memory: Any, before: Any) -> bool:
    """Whether what lies in it is what `copy_of` gave."""
    if not isinstance(memory, BUFFERS):
        same_form = memory.shape == before.shape and memory.dtype == before.dtype
        return same_form and memory.tobytes() == before.tobytes()
    try:
        with memoryview(memory) as view:
            return view.tobytes() == before
    except ValueError:
        return False


def put_back(memory: Any, before: Any) -> bool:
    """Put back what `copy_of` gave, at its former size; whether that was possible.

    Python resizes no memory that something else looks into, and opens none again.
    """
    try:
        if isinstance(memory, bytearray):
            bytearray.__setitem__(memory, slice(None), before)
        elif isinstance(memory, array.array):
            whole = array.array(memory.typecode)
            whole.frombytes(before)
            array.array.__setitem__(memory, slice(None), whole)
        elif isinstance(memory, mmap.mmap):
            if len(memory) != len(before):
                memory.resize(len(before))
            memory[:] = before
        elif isinstance(memory, BUFFERS):
            ctypes.memmove(memory, before, len(before))
        else:
            if memory.dtype != before.dtype:
                memory.dtype = before.dtype
            if memory.shape != before.shape:  # of as many numbers only, so that nothing moves: views may look at them
                memory.resize(before.shape, refcheck=memory.size != before.size)
            memory[...] = before
    except (BufferError, ValueError, TypeError, OSError, SystemError):
        return False
    return True
