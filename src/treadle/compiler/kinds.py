"""Kinds of values that a step may read or change, named once for `module_contents` and `guards`."""

import array
import ctypes
import functools
import mmap
import sys

NUMBERS_AND_TEXT = (bool, int, float, complex, str, bytes, type(None))
"""What never changes and holds nothing else."""
BUFFERS = (bytearray, memoryview, array.array, mmap.mmap, ctypes.Array.__mro__[1])
"""What is told by its bytes. All arrays of ctypes share the base class that is looked up here."""
CACHE = type(functools.lru_cache(int))

_KNOWN = frozenset({"treadle", "torch", "numpy", "builtins", *sys.stdlib_module_names}) - {"__main__"}


def is_known(module: object) -> bool:
    """Whether a module, by its name, is ours, PyTorch's or of the standard library; a class that has none is of C."""
    return not isinstance(module, str) or module.partition(".")[0] in _KNOWN
