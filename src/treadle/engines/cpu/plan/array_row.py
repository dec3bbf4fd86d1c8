"""A step of one row of a pool as a built-in function of Python: from a NumPy array to one with memory of its own.

A server steps one client's session at a time, most of the time. Between Python and the kernel of a small network lies
more work than in the kernel, unless machine code does it.
"""

import ctypes
import enum
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.follower import again_address
from treadle.engines.cpu.plan.array_layout import (
    NEW_FROM_DESCRIPTION,
    NULL,
    POINTER,
    VOID,
    WORD,
    ArrayField,
    Context,
    builtin,
    half,
    method,
    of_numpy,
    of_python,
    word,
)
from treadle.engines.cpu.plan.pool_call import PoolCall

Row = tuple[Callable[[np.ndarray], np.ndarray | None], object]
"""A built-in function, and what has to stay alive while it is used."""


class _Word(enum.IntEnum):
    """Which word of its context tells the function what."""

    ARRAY_TYPE, DTYPE, FEATURES, X, X_BYTES, Y, Y_BYTES, Y_SIZES, ROWS, AGAIN, TABLE, TEAM, NONE = range(13)
    NEW_ARRAY, HOLD = 13, 14


def array_row(call: PoolCall) -> Row:
    """A function from an array [1, I] to the answer [1, H] of the row that stands first in the index of a call.

    It answers with None, and does nothing, if the array is not exactly what the kernel reads. One thread takes the
    step, and Python's lock is kept.
    """
    x, y = call.rows_of_x, call.rows_of_y
    dtype, sizes, recipe = np.dtype(x.dtype.type), np.array([1, *y.shape[1:]], np.int64), call.laid_out(1)
    words = {
        _Word.ARRAY_TYPE: id(np.ndarray),
        _Word.DTYPE: id(dtype),
        _Word.FEATURES: x.shape[1],
        _Word.X: x.ctypes.data,
        _Word.X_BYTES: x.strides[0],
        _Word.Y: y.ctypes.data,
        _Word.Y_BYTES: y.strides[0],
        _Word.Y_SIZES: sizes.ctypes.data,
        _Word.ROWS: call.rows_at,
        _Word.AGAIN: again_address(),
        _Word.TABLE: recipe.address,
        _Word.TEAM: ctypes.addressof(threads.team()),
        _Word.NONE: id(None),
        _Word.NEW_ARRAY: of_numpy(NEW_FROM_DESCRIPTION),
        _Word.HOLD: of_python("Py_IncRef"),
    }
    context = np.array([words[one] for one in _Word], dtype=np.int64)
    return builtin(_method(), context), (context, dtype, sizes, recipe, call)


@functools.cache
def _method() -> Any:
    return method("step", compilation.compile(_text()).address("row"), "One step of a session.")


def _text() -> str:
    """``PyObject *row(PyObject *context, PyObject *x)``."""
    c = Context("row")
    b, x, refuse, fail = c.b, c.given, c.block("refuse"), c.block("fail")
    sizes = c.require_array(x, _Word.ARRAY_TYPE, _Word.DTYPE, 2, refuse)
    features = b.load(b.gep(sizes, [word(1)], source_etype=WORD), typ=WORD)
    c.require(b.icmp_signed("==", b.load(sizes, typ=WORD), word(1)), refuse)
    c.require(b.icmp_signed("==", features, c.known(_Word.FEATURES)), refuse)

    dtype, axes, flags = c.known(_Word.DTYPE, POINTER), half(2), half(0)
    c.call(_Word.HOLD, VOID, dtype)  # the array takes this reference, also where it cannot be made
    kind, shape = c.known(_Word.ARRAY_TYPE, POINTER), c.known(_Word.Y_SIZES, POINTER)
    answer = c.call(_Word.NEW_ARRAY, POINTER, kind, dtype, axes, shape, NULL, NULL, flags, NULL)
    c.require(b.icmp_unsigned("!=", answer, NULL), fail)
    c.copy(ArrayField.DATA.read(b, x, POINTER), c.known(_Word.X, POINTER), c.known(_Word.X_BYTES))
    b.store(word(1), c.known(_Word.ROWS, POINTER))
    c.call(_Word.AGAIN, VOID, c.known(_Word.TABLE, POINTER), word(0), word(0), c.known(_Word.TEAM, POINTER))
    c.copy(c.known(_Word.Y, POINTER), ArrayField.DATA.read(b, answer, POINTER), c.known(_Word.Y_BYTES))
    b.ret(answer)

    b.position_at_end(fail)
    b.ret(NULL)
    b.position_at_end(refuse)
    c.return_held(_Word.HOLD, c.known(_Word.NONE, POINTER))
    return str(c.module)
