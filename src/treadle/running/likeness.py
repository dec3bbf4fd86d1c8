"""How much a network is what it was when it was copied, whatever it is made of."""

import collections
import ctypes
import enum
import functools
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from treadle.running.repeats import Repeats

_OWN = frozenset({"training", "handle"})
"""Attributes in which a copy may differ: copies are in evaluation mode, and another number stands for them."""
_BY_VALUE = (int, bool, str, bytes, complex, type(None), range, slice, torch.dtype, torch.device, torch.Size)
_TABLES = frozenset({"_parameters", "_buffers"})
_OFTEN_EMPTY = (dict, collections.OrderedDict, set)
_SEQUENCES = (list, tuple, collections.deque)
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_BITS = {
    **dict.fromkeys((torch.bool, torch.uint8, torch.int8), torch.uint8),
    **dict.fromkeys((torch.int16, torch.float16, torch.bfloat16), torch.int16),
    **dict.fromkeys((torch.int32, torch.float32), torch.int32),
    **dict.fromkeys((torch.int64, torch.float64), torch.int64),
}
"""Of types of numbers, one of whole numbers of as many bytes."""


class Likeness(enum.Enum):
    """How far a network is what it was when it was copied."""

    SAME = "the same, number by number, in all that it holds"
    OTHER_NUMBERS = "the same, but for numbers in parameters and other tensors of its modules"
    OTHER = "another, or nobody can tell: there are objects that keep their contents to themselves"


def likeness(network: nn.Module, copied: nn.Module) -> Likeness:
    """How much a copy made now would be like the one that was made."""
    comparison = _Comparison()
    if not comparison.of_modules(network, copied):
        return Likeness.OTHER
    return Likeness.OTHER_NUMBERS if comparison.numbers_differ else Likeness.SAME


class _Comparison:
    """Two things beside each other; what was met before has to be beside the same, seen from either side."""

    def __init__(self) -> None:
        self._beside: dict[int, tuple[Any, Any]] = {}
        self.numbers_differ = False

    def of_modules(self, a: nn.Module, b: nn.Module) -> bool:
        mine, other = vars(a), vars(b)
        if mine.keys() != other.keys():
            return False
        self._met(a, b)
        for name, part in mine.items():
            beside = other[name]
            if part is beside or name in _OWN or isinstance(part, Repeats):  # a copy has repeats of its own
                continue
            if name in _TABLES:
                same = part.keys() == beside.keys() and all(map(self._of_own, part.values(), beside.values()))
            else:
                same = self._of_own(part, beside)
            if not same:
                return False
        return True

    def _of_own(self, a: Any, b: Any) -> bool:
        """What a module holds by name: tensors may have other numbers, unless a step may have read these as numbers."""
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return self._of(a, b)
        known = self._met(a, b)
        if known is not None:
            return known
        if are_one(a, b):
            return True
        self.numbers_differ = True
        return bool(a.ndim) and _have_one_form(a, b)

    def _of(self, a: Any, b: Any) -> bool:
        if a is b:
            return True
        kind = type(a)
        if kind is not type(b):
            return False
        if kind in _OFTEN_EMPTY and not a:  # as most that modules hold
            return not b
        if isinstance(a, _BY_VALUE):
            return a == b
        if kind is float:
            return repr(a) == repr(b)
        known = self._met(a, b)
        return self._of_parts(a, b) if known is None else known

    def _met(self, a: Any, b: Any) -> bool | None:
        """Whether two things were beside each other before, and so are again; None if neither was met."""
        pair = a, b
        found, other = self._beside.setdefault(id(a), pair), self._beside.setdefault(id(b), pair)
        if found is pair and other is pair:
            return None
        return all(one[0] is a and one[1] is b for one in (found, other))

    def _of_parts(self, a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return are_one(a, b)
        if isinstance(a, nn.Module):
            return self.of_modules(a, b)
        if isinstance(a, (dict, types.MappingProxyType)):
            return self._of_mappings(a, b) and self._of_attributes(a, b)
        if isinstance(a, _SEQUENCES):
            return len(a) == len(b) and all(map(self._of, a, b)) and self._of_attributes(a, b)
        if isinstance(a, (set, frozenset)):
            return a == b and all(isinstance(part, (*_BY_VALUE, float)) for part in a)
        if isinstance(a, np.ndarray):
            same = a.shape == b.shape and a.dtype == b.dtype and not a.dtype.hasobject
            return same and a.tobytes() == b.tobytes()
        if isinstance(a, functools.partial):
            return self._of(a.func, b.func) and self._of(a.args, b.args) and self._of(a.keywords, b.keywords)
        if isinstance(a, types.MethodType):
            return a.__func__ is b.__func__ and self._of(a.__self__, b.__self__)
        return hasattr(a, "__dict__") and _keeps_nothing_else(type(a)) and self._of_attributes(a, b)

    def _of_mappings(self, a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
        if not a:
            return not b
        return len(a) == len(b) and all(map(self._of, a, b)) and all(map(self._of, a.values(), b.values()))

    def _of_attributes(self, a: Any, b: Any) -> bool:
        mine, other = getattr(a, "__dict__", None), getattr(b, "__dict__", None)
        return mine is other or (mine is not None and other is not None and self._of_mappings(mine, other))


def _keeps_nothing_else(kind: type) -> bool:
    """Whether all that an object of a class holds is in its attributes."""
    return all(one is object or (one.__flags__ & _HEAP_TYPE and not vars(one).get("__slots__")) for one in kind.__mro__)


_HEAP_TYPE = 1 << 9  # a class that was written in Python


def are_one(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same numbers, NaN and the signs of zeros included."""
    if not _have_one_form(a, b):
        return False
    # Byte for byte: PyTorch's own comparison takes zeros of either sign for one, and NaN for nothing.
    mine, other = a.detach().contiguous(), b.detach().contiguous()
    if mine.device.type == "cpu":
        return _memcmp()(mine.data_ptr(), other.data_ptr(), mine.nbytes) == 0
    return torch.equal(mine.view(_BITS[a.dtype]), other.view(_BITS[a.dtype]))


@functools.cache
def _memcmp() -> Any:
    """The C library's, eight times as fast as PyTorch's: every new session waits until all weights are compared."""
    found = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None).memcmp
    found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
    return found


def _have_one_form(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are dense, of one shape and type."""
    same = type(a) is type(b) and type(a) in _PLAIN and a.shape == b.shape and a.dtype == b.dtype
    same = same and a.device == b.device and a.layout == b.layout == torch.strided and a.dtype in _BITS
    return same and a.is_neg() == b.is_neg()
