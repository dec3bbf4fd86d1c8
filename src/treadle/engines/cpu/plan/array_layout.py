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


POINTER, WORD, VOID = ir.PointerType(), ir.IntType(64), ir.VoidType()
NULL = ir.Constant(POINTER, None)
NEW_FROM_DESCRIPTION = 94
"""The place of PyArray_NewFromDescr, see `of_numpy`."""


def word(number: int) -> ir.Constant:
    """A constant of 64 bits."""
    return ir.Constant(WORD, number)


def half(number: int) -> ir.Constant:
    """A constant of 32 bits."""
    return ir.Constant(ir.IntType(32), number)


class Context:
    """What a built-in function knows from its context, an array of 64-bit integers, while its text is written.

    Args:
        name: of the function, which takes its context and one object and returns an object.
    """

    def __init__(self, name: str):
        self.module = ir.Module()
        self.function = ir.Function(self.module, ir.FunctionType(POINTER, [POINTER, POINTER]), name)
        self.b: Any = ir.IRBuilder(self.function.append_basic_block("entry"))
        context, self.given = self.function.args
        self._words = ArrayField.DATA.read(self.b, context, POINTER)

    def block(self, name: str) -> Any:
        """A block of the function, to be written."""
        return self.function.append_basic_block(name)

    def known(self, index: int, kind: ir.Type = WORD) -> ir.Value:
        """A word of the context."""
        return self.b.load(self.b.gep(self._words, [ir.Constant(WORD, index)], source_etype=WORD), typ=kind)

    def call(self, index: int, kind: ir.Type, *given: Any) -> ir.Value:
        """Call the function whose address that word is."""
        signature = ir.FunctionType(kind, [value.type for value in given])
        return self.b.call(self.b.inttoptr(self.known(index), signature.as_pointer()), list(given))

    def require(self, condition: ir.Value, otherwise: Any) -> None:
        """Go to another block unless that is so."""
        following = self.block("next")
        self.b.cbranch(condition, following, otherwise)
        self.b.position_at_end(following)

    def require_array(self, array: ir.Value, kind: int, dtype: int, axes: int, otherwise: Any) -> ir.Value:
        """Go to another block unless it is a dense array of so many axes, of the type and precision that these words
        of the context are; gives where its sizes are."""
        b = self.b
        self.require(b.icmp_signed("==", ArrayField.TYPE.read(b, array, WORD), self.known(kind)), otherwise)
        self.require(b.icmp_signed("==", ArrayField.DTYPE.read(b, array, WORD), self.known(dtype)), otherwise)
        self.require(is_dense(b, array), otherwise)
        self.require(b.icmp_signed("==", ArrayField.AXES.read(b, array, half(axes).type), half(axes)), otherwise)
        return ArrayField.SIZES.read(b, array, POINTER)

    def return_held(self, hold: int, thing: ir.Value) -> None:
        """Return a new reference to something; ``hold`` is the word that has Py_IncRef."""
        self.call(hold, VOID, thing)
        self.b.ret(thing)

    def copy(self, source: ir.Value, to: ir.Value, bytes_: ir.Value) -> None:
        """Copy so many bytes."""
        signature = ir.FunctionType(VOID, [POINTER, POINTER, WORD, ir.IntType(1)])
        name = "llvm.memcpy.p0.p0.i64"
        function = self.module.globals.get(name) or ir.Function(self.module, signature, name)
        self.b.call(function, [to, source, bytes_, ir.Constant(ir.IntType(1), 0)])

    def row(self, base: ir.Value, number: ir.Value, bytes_: ir.Value) -> ir.Value:
        """Where a row of so many bytes begins."""
        return self.b.gep(base, [self.b.mul(number, bytes_)], source_etype=ir.IntType(8))


def of_python(name: str) -> int:
    """The address of a function of CPython."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


@functools.cache
def of_numpy(place: int) -> int:
    """The address of a function of NumPy, by its place in the table of its binary interface."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get(np._core._multiarray_umath._ARRAY_API, None)  # pyright: ignore[reportAttributeAccessIssue]
    return ctypes.c_void_p.from_address(table + 8 * place).value or 0
