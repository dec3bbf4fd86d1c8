"""The way into a pool for NumPy arrays: a dict of them is read by machine code, which finds each session's row.

Read in Python, array after array, the inputs of 32 sessions take as long as their steps.
"""

import ctypes
import enum
import functools
from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np
from llvmlite import ir

from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.plan.array_layout import ArrayField, arrays_are_known, builtin, is_dense, method
from treadle.engines.cpu.plan.pool_call import PoolCall


class Stepping(Protocol):
    """What steps rows that were taken down: `LivePool`."""

    call: PoolCall

    def make_room_for(self, rows: int) -> None:
        """Make the call larger, if so many rows need that."""
        ...

    def take(self, slots: np.ndarray) -> int:
        """Take down which rows are meant; returns how many."""
        ...

    def stepped(self, rows: int) -> np.ndarray:
        """A step of so many rows that were taken down, with their inputs; the answers."""
        ...


class ArrayDoor:
    """Steps on arrays: None, and nothing has happened, where they are not exactly what the kernel reads.

    Args:
        pool: the pool.
        slots: the row of each session, as it is at each call.
    """

    def __init__(self, pool: Stepping, slots: dict[Hashable, int]):
        self._pool, self._slots = pool, slots
        self._made_for: PoolCall | None = None

    def by_id(self, xs: Any) -> dict[Hashable, np.ndarray] | None:
        """A step on a dict of dense arrays [I], by id; the answers [H] by id."""
        if self._made_for is not self._pool.call or len(xs) > self._pool.call.room:
            self._make(len(xs))
        rows = self._take(xs)
        return dict(zip(xs, self._pool.stepped(rows), strict=True)) if rows else None

    def by_slot(self, slots: np.ndarray, x: Any) -> np.ndarray | None:
        """A step of the rows ``slots``, all of them others, on [n, I]."""
        call = self._pool.call
        if type(x) is not np.ndarray or x.dtype != call.rows_of_x.dtype or x.shape != (len(slots), *call.x.shape[1:]):
            return None
        rows = self._pool.take(slots)
        self._pool.call.rows_of_x[:rows] = x
        return self._pool.stepped(rows)

    def _make(self, rows: int) -> None:
        self._pool.make_room_for(rows)
        call = self._made_for = self._pool.call
        array = call.rows_of_x
        dtype = np.dtype(array.dtype.type)
        words = {
            _Word.DICT_TYPE: id(dict),
            _Word.ARRAY_TYPE: id(np.ndarray),
            _Word.DTYPE: id(dtype),
            _Word.FEATURES: array.shape[1],
            _Word.ROOM: call.room,
            _Word.X: array.ctypes.data,
            _Word.ROW_BYTES: array.strides[0],
            _Word.INDEX: call.index.ctypes.data,
            _Word.SLOTS: id(self._slots),
            _Word.NONE: id(None),
            **{word: _address(name) for word, name in _FUNCTIONS.items()},
        }
        context = np.array([words[word] for word in _Word], dtype=np.int64)
        self._needs = context, dtype
        self._take = builtin(_method(), context)


def array_door(pool: Stepping, slots: dict[Hashable, int]) -> ArrayDoor | None:
    """The way in, if inputs and answers are rows of one precision; None for others, and where arrays are not known."""
    call = pool.call
    flat = call.x.ndim == call.y.ndim == 2 and call.x.dtype == call.y.dtype
    return ArrayDoor(pool, slots) if flat and arrays_are_known() else None


class _Word(enum.IntEnum):
    """Which word of its context tells the function what."""

    DICT_TYPE, ARRAY_TYPE, DTYPE, FEATURES, ROOM, X, ROW_BYTES, INDEX, SLOTS, NONE = range(10)
    NEXT, FIND, NUMBER, NEW_NUMBER, HOLD, LET_GO, FORGET_ERROR = range(10, 17)


_FUNCTIONS = {
    _Word.NEXT: "PyDict_Next",
    _Word.FIND: "PyDict_GetItemWithError",
    _Word.NUMBER: "PyLong_AsLongLong",
    _Word.NEW_NUMBER: "PyLong_FromLongLong",
    _Word.HOLD: "Py_IncRef",
    _Word.LET_GO: "Py_DecRef",
    _Word.FORGET_ERROR: "PyErr_Clear",
}
"""Functions of CPython that the entry calls."""


def _address(name: str) -> int:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


@functools.cache
def _method() -> Any:
    return method("take", compilation.compile(_code()).address("take"), "Take down the inputs of some sessions.")


def _code() -> str:
    """``PyObject *take(PyObject *context, PyObject *xs)``: how many there are, or None."""
    pointer, word = ir.PointerType(), ir.IntType(64)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(pointer, [pointer, pointer]), "take")
    copy = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer, word, ir.IntType(1)]), _COPY)
    context, xs = function.args
    b: Any = ir.IRBuilder(function.append_basic_block("entry"))
    refuse, unknown = function.append_basic_block("refuse"), function.append_basic_block("unknown")
    table = ArrayField.DATA.read(b, context, pointer)

    def known(index: _Word, kind: ir.Type = word) -> ir.Value:
        return b.load(b.gep(table, [ir.Constant(word, index)], source_etype=word), typ=kind)

    def require(condition: ir.Value, otherwise: Any = refuse) -> None:
        following = function.append_basic_block("next")
        b.cbranch(condition, following, otherwise)
        b.position_at_end(following)

    def call(index: _Word, kind: ir.Type, *given: Any) -> ir.Value:
        signature = ir.FunctionType(kind, [value.type for value in given])
        return b.call(b.inttoptr(known(index), signature.as_pointer()), list(given))

    position, key_at, value_at, count_at = (b.alloca(kind) for kind in (word, pointer, pointer, word))
    for place in (position, count_at):
        b.store(ir.Constant(word, 0), place)
    require(b.icmp_signed("==", ArrayField.TYPE.read(b, xs, word), known(_Word.DICT_TYPE)))
    look, item, done = (function.append_basic_block(name) for name in ("look", "item", "done"))
    b.branch(look)
    b.position_at_end(look)
    more = call(_Word.NEXT, ir.IntType(32), xs, position, key_at, value_at)
    b.cbranch(b.icmp_signed("!=", more, ir.Constant(ir.IntType(32), 0)), item, done)

    b.position_at_end(item)
    key, x, count = b.load(key_at, typ=pointer), b.load(value_at, typ=pointer), b.load(count_at, typ=word)
    require(b.icmp_signed("<", count, known(_Word.ROOM)))
    require(b.icmp_signed("==", ArrayField.TYPE.read(b, x, word), known(_Word.ARRAY_TYPE)))
    require(b.icmp_signed("==", ArrayField.DTYPE.read(b, x, word), known(_Word.DTYPE)))
    require(is_dense(b, x))
    require(b.icmp_signed("==", ArrayField.AXES.read(b, x, ir.IntType(32)), ir.Constant(ir.IntType(32), 1)))
    size = b.load(ArrayField.SIZES.read(b, x, pointer), typ=word)
    require(b.icmp_signed("==", size, known(_Word.FEATURES)))
    bytes_ = known(_Word.ROW_BYTES)
    to = b.gep(known(_Word.X, pointer), [b.mul(count, bytes_)], source_etype=ir.IntType(8))
    b.call(copy, [to, ArrayField.DATA.read(b, x, pointer), bytes_, ir.Constant(ir.IntType(1), 0)])
    # Comparing keys may run Python's code, which may change the dict: the key is held, the array is done with.
    call(_Word.HOLD, ir.VoidType(), key)
    slot = call(_Word.FIND, pointer, known(_Word.SLOTS, pointer), key)
    call(_Word.LET_GO, ir.VoidType(), key)
    require(b.icmp_unsigned("!=", b.ptrtoint(slot, word), ir.Constant(word, 0)), unknown)
    row = call(_Word.NUMBER, word, slot)
    b.store(row, b.gep(known(_Word.INDEX, pointer), [count], source_etype=word))
    b.store(b.add(count, ir.Constant(word, 1)), count_at)
    b.branch(look)

    b.position_at_end(done)
    b.ret(call(_Word.NEW_NUMBER, pointer, b.load(count_at, typ=word)))
    b.position_at_end(unknown)
    call(_Word.FORGET_ERROR, ir.VoidType())
    b.branch(refuse)
    b.position_at_end(refuse)
    none = known(_Word.NONE, pointer)
    call(_Word.HOLD, ir.VoidType(), none)
    b.ret(none)
    return str(module)


_COPY = "llvm.memcpy.p0.p0.i64"
