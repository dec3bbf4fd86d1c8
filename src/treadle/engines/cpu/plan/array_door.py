"""The way into a pool for NumPy arrays: a dict of them is read by machine code, which finds each session's row.

Read in Python, array after array, the inputs of 32 sessions take as long as their steps. The answers are made by
machine code, too: each is an array with memory of its own.
"""

import ctypes
import enum
import functools
from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np
from llvmlite import ir

from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.plan.array_layout import (
    NEW_FROM_DESCRIPTION,
    NULL,
    POINTER,
    VOID,
    WORD,
    ArrayField,
    Context,
    arrays_are_known,
    builtin,
    half,
    method,
    of_numpy,
    of_python,
    word,
)
from treadle.engines.cpu.plan.array_row import array_row
from treadle.engines.cpu.plan.pool_call import PoolCall


class Stepping(Protocol):
    """What steps rows that were taken down: `LivePool`."""

    call: PoolCall
    one_row_is_short: bool

    def make_room_for(self, rows: int) -> None:
        """Make the call larger, if so many rows need that."""
        ...

    def take(self, slots: np.ndarray) -> int:
        """Take down which rows are meant, by slots [n]; returns n."""
        ...

    def run(self, rows: int) -> None:
        """A step of so many rows that were taken down, with their inputs."""
        ...

    def answers(self, rows: int) -> np.ndarray:
        """The answers [rows, H] of the step before, as a copy."""
        ...

    def run_block(self, steps: int, rows: int, xs: np.ndarray) -> np.ndarray:
        """A block of steps [T, n, I] of as many rows that were taken down; the answers [T, n, H]."""
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
        if type(xs) is not dict:
            return None
        if self._made_for is not self._pool.call or len(xs) > self._pool.call.room:
            self._make(len(xs))
        answers = xs.copy()  # as large as it has to be, with all keys in place
        rows = self._take(xs)
        if not rows or rows != len(answers):
            return None
        self._pool.run(rows)
        return self._give(answers)

    def by_one_slot(self, slot: int, x: Any) -> np.ndarray | None:
        """A step of one row, on [1, I]; the answer [1, H]."""
        if self._made_for is not self._pool.call:
            self._make(1)
        if self._row is None:
            return None
        self._slot.value = slot
        return self._row(x)

    def by_slot(self, slots: np.ndarray, x: Any) -> np.ndarray | None:
        """A step of the rows ``slots`` [n], all of them others, on [n, I]; the answers [n, H]."""
        call = self._pool.call
        if type(x) is not np.ndarray or x.dtype != call.rows_of_x.dtype or x.shape != (len(slots), *call.x.shape[1:]):
            return None
        rows = self._pool.take(slots)
        self._pool.call.rows_of_x[:rows] = x
        self._pool.run(rows)
        return self._pool.answers(rows)

    def block_by_slot(self, slots: np.ndarray, x: Any) -> np.ndarray | None:
        """A block of steps of the rows ``slots`` [n], all of them others, on [n, T, I]; the answers [n, T, H]."""
        call = self._pool.call
        if type(x) is not np.ndarray or x.dtype != call.rows_of_x.dtype or x.ndim != 3 or not x.size:
            return None
        rows, steps, features = x.shape
        if rows != len(slots) or features != call.x.shape[1]:
            return None
        self._pool.take(slots)
        xs = x if rows == 1 else x.swapaxes(0, 1)
        if not (xs.flags.c_contiguous and xs.flags.aligned):
            xs = xs.copy("C")
        ys = self._pool.run_block(steps, rows, xs.reshape(steps * rows, features))
        return ys.reshape(steps, rows, -1).swapaxes(0, 1)

    def _make(self, rows: int) -> None:
        self._pool.make_room_for(rows)
        call = self._made_for = self._pool.call
        x, y = call.rows_of_x, call.rows_of_y
        dtype, sizes = np.dtype(x.dtype.type), np.array(y.shape[1:], np.int64)
        words = {
            _Word.DICT_TYPE: id(dict),
            _Word.ARRAY_TYPE: id(np.ndarray),
            _Word.DTYPE: id(dtype),
            _Word.FEATURES: x.shape[1],
            _Word.ROOM: call.room,
            _Word.X: x.ctypes.data,
            _Word.X_BYTES: x.strides[0],
            _Word.Y: y.ctypes.data,
            _Word.Y_BYTES: y.strides[0],
            _Word.Y_SIZES: sizes.ctypes.data,
            _Word.INDEX: call.index.ctypes.data,
            _Word.SLOTS: id(self._slots),
            _Word.NONE: id(None),
            _Word.NEW_ARRAY: of_numpy(NEW_FROM_DESCRIPTION),
            **{place: of_python(name) for place, name in _FUNCTIONS.items()},
        }
        context = np.array([words[place] for place in _Word], dtype=np.int64)
        self._needs = context, dtype, sizes
        take, give = _methods()
        self._take, self._give = builtin(take, context), builtin(give, context)
        self._slot = ctypes.c_int64.from_address(call.index.ctypes.data)
        self._row, self._row_needs = array_row(call) if self._pool.one_row_is_short else (None, None)


def array_door(pool: Stepping, slots: dict[Hashable, int]) -> ArrayDoor | None:
    """The way in, if inputs [n, I] and answers [n, H] are rows of one precision.

    None for others, and where the layout of NumPy's arrays is not known.
    """
    call = pool.call
    flat = call.x.ndim == call.y.ndim == 2 and call.x.dtype == call.y.dtype
    return ArrayDoor(pool, slots) if flat and arrays_are_known() else None


class _Word(enum.IntEnum):
    """Which word of its context tells a function what."""

    DICT_TYPE, ARRAY_TYPE, DTYPE, FEATURES, ROOM, X, X_BYTES, Y, Y_BYTES, Y_SIZES, INDEX, SLOTS, NONE = range(13)
    NEW_ARRAY, NEXT, FIND, NUMBER, NEW_NUMBER, HOLD, LET_GO, FORGET_ERROR, SET_ITEM = range(13, 22)


_FUNCTIONS = {
    _Word.NEXT: "PyDict_Next",
    _Word.FIND: "PyDict_GetItemWithError",
    _Word.NUMBER: "PyLong_AsLongLong",
    _Word.NEW_NUMBER: "PyLong_FromLongLong",
    _Word.HOLD: "Py_IncRef",
    _Word.LET_GO: "Py_DecRef",
    _Word.FORGET_ERROR: "PyErr_Clear",
    _Word.SET_ITEM: "PyDict_SetItem",
}
"""Functions of CPython that are called."""
_INT = ir.IntType(32)


@functools.cache
def _methods() -> tuple[Any, Any]:
    take, give = (compilation.compile(text()).address(name) for name, text in (("take", _taking), ("give", _giving)))
    return method("take", take, "Take down the inputs of some sessions."), method("give", give, "The answers, by id.")


def _taking() -> str:
    """``PyObject *take(PyObject *context, PyObject *xs)``: how many there are, or None."""
    c = Context("take")
    b, xs, refuse, unknown = c.b, c.given, c.block("refuse"), c.block("unknown")
    position, key_at, value_at, count_at = (b.alloca(kind) for kind in (WORD, POINTER, POINTER, WORD))
    for place in (position, count_at):
        b.store(word(0), place)
    c.require(b.icmp_signed("==", ArrayField.TYPE.read(b, xs, WORD), c.known(_Word.DICT_TYPE)), refuse)
    look, item, done = (c.block(name) for name in ("look", "item", "done"))
    b.branch(look)
    b.position_at_end(look)
    more = c.call(_Word.NEXT, _INT, xs, position, key_at, value_at)
    b.cbranch(b.icmp_signed("!=", more, half(0)), item, done)

    b.position_at_end(item)
    key, x, count = b.load(key_at, typ=POINTER), b.load(value_at, typ=POINTER), b.load(count_at, typ=WORD)
    c.require(b.icmp_signed("<", count, c.known(_Word.ROOM)), refuse)
    size = b.load(c.require_array(x, _Word.ARRAY_TYPE, _Word.DTYPE, 1, refuse), typ=WORD)
    c.require(b.icmp_signed("==", size, c.known(_Word.FEATURES)), refuse)
    bytes_ = c.known(_Word.X_BYTES)
    c.copy(ArrayField.DATA.read(b, x, POINTER), c.row(c.known(_Word.X, POINTER), count, bytes_), bytes_)
    # Comparing keys may run Python's code, which may change the dict: the key is held, the array is done with.
    c.call(_Word.HOLD, VOID, key)
    slot = c.call(_Word.FIND, POINTER, c.known(_Word.SLOTS, POINTER), key)
    c.call(_Word.LET_GO, VOID, key)
    c.require(b.icmp_unsigned("!=", slot, NULL), unknown)
    index = b.gep(c.known(_Word.INDEX, POINTER), [count], source_etype=WORD)
    b.store(c.call(_Word.NUMBER, WORD, slot), index)
    b.store(b.add(count, word(1)), count_at)
    b.branch(look)

    b.position_at_end(done)
    b.ret(c.call(_Word.NEW_NUMBER, POINTER, b.load(count_at, typ=WORD)))
    b.position_at_end(unknown)
    c.call(_Word.FORGET_ERROR, VOID)
    b.branch(refuse)
    b.position_at_end(refuse)
    c.return_held(_Word.HOLD, c.known(_Word.NONE, POINTER))
    return str(c.module)


def _giving() -> str:
    """``PyObject *give(PyObject *context, PyObject *answers)``: in place of each value of a dict, the next answer."""
    c = Context("give")
    b, answers, fail = c.b, c.given, c.block("fail")
    position, key_at, count_at = (b.alloca(kind) for kind in (WORD, POINTER, WORD))
    for place in (position, count_at):
        b.store(word(0), place)
    look, item, done = (c.block(name) for name in ("look", "item", "done"))
    b.branch(look)
    b.position_at_end(look)
    more = c.call(_Word.NEXT, _INT, answers, position, key_at, NULL)
    b.cbranch(b.icmp_signed("!=", more, half(0)), item, done)

    b.position_at_end(item)
    key, count = b.load(key_at, typ=POINTER), b.load(count_at, typ=WORD)
    dtype, bytes_ = c.known(_Word.DTYPE, POINTER), c.known(_Word.Y_BYTES)
    c.call(_Word.HOLD, VOID, dtype)  # the array takes this reference
    one, none = half(1), half(0)
    kind, sizes = c.known(_Word.ARRAY_TYPE, POINTER), c.known(_Word.Y_SIZES, POINTER)
    array = c.call(_Word.NEW_ARRAY, POINTER, kind, dtype, one, sizes, NULL, NULL, none, NULL)
    c.require(b.icmp_unsigned("!=", array, NULL), fail)
    c.copy(c.row(c.known(_Word.Y, POINTER), count, bytes_), ArrayField.DATA.read(b, array, POINTER), bytes_)
    # A key that is there already: the dict keeps its form, and may be walked on.
    set_ = c.call(_Word.SET_ITEM, _INT, answers, key, array)
    c.call(_Word.LET_GO, VOID, array)
    c.require(b.icmp_signed("==", set_, half(0)), fail)
    b.store(b.add(count, word(1)), count_at)
    b.branch(look)

    b.position_at_end(fail)
    b.ret(NULL)
    b.position_at_end(done)
    c.return_held(_Word.HOLD, answers)
    return str(c.module)
