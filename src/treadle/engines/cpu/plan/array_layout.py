"""NumPy's arrays and CPython's built-in functions, as machine code sees them: fixed by their binary interfaces."""

import ctypes
import enum
import functools
import sys
import sysconfig
from typing import Any

import numpy as np
from llvmlite import ir


class ArrayField(enum.IntEnum):
    """Where an array keeps what machine code reads, in bytes; `arrays_are_known` tells whether that is so."""

    TYPE, DATA, AXES, SIZES, DTYPE, FLAGS = 8, 16, 24, 32, 56, 64

    def read(self, b: Any, array: ir.Value, kind: ir.Type) -> ir.Value:
        """Read it, as a value of that kind."""
        return b.load(b.gep(array, [ir.Constant(ir.IntType(64), self)], source_etype=ir.IntType(8)), typ=kind)


_DENSE = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED


def is_dense(b: Any, array: ir.Value) -> ir.Value:
    """Whether an array's numbers follow each other, aligned."""
    half = ir.IntType(32)
    flags = b.and_(ArrayField.FLAGS.read(b, array, half), ir.Constant(half, _DENSE))
    return b.icmp_signed("==", flags, ir.Constant(half, _DENSE))


@functools.cache
def arrays_are_known() -> bool:
    """Whether arrays lie in memory as machine code thinks."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED") or sys.byteorder != "little":
        return False
    if hasattr(sys, "gettotalrefcount") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    for array in (np.zeros((2, 3), np.float32), np.zeros((4,), np.float64), np.zeros((2, 3))[:, 1:]):
        address = id(array)

        def read(offset: int, kind: Any = ctypes.c_int64, address: int = address) -> int:
            return kind.from_address(address + offset).value

        sizes = [ctypes.c_int64.from_address(read(ArrayField.SIZES) + 8 * axis).value for axis in range(array.ndim)]
        dense = array.flags.c_contiguous and array.flags.aligned
        same = (
            read(ArrayField.TYPE) == id(np.ndarray)
            and read(ArrayField.DATA) == array.ctypes.data
            and read(ArrayField.AXES, ctypes.c_int32) == array.ndim
            and tuple(sizes) == array.shape
            and read(ArrayField.DTYPE) == id(array.dtype)
            and ((read(ArrayField.FLAGS, ctypes.c_int32) & _DENSE) == _DENSE) == dense
        )
        if not same:
            return False
    return True


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_TAKES_ONE = 8  # METH_O


def method(name: str, address: int, doc: str) -> Any:
    """What a built-in function of one argument is made of; to be kept as long as such functions live."""
    return _Method(name.encode(), address, _TAKES_ONE, doc.encode())


def builtin(of: Any, context: np.ndarray) -> Any:
    """A built-in function of that `method`, whose ``self`` is the context."""
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return make(ctypes.addressof(of), context, None)
