"""A built-in function of Python that takes a NumPy array, looks at it, and runs a kernel on its memory.

A call goes straight from Python's interpreter to machine code. Nothing is allocated and nothing is locked.
"""

import enum
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.plan.array_layout import ArrayField, arrays_are_known, builtin, is_dense, method
from treadle.engines.cpu.plan.step_call import StepCall

Entry = tuple[Callable[[np.ndarray], np.ndarray | None], object]
"""A built-in function, and what has to stay alive while it is used."""


class _Word(enum.IntEnum):
    """Which word of its context tells the function what."""

    ARRAY_TYPE, DTYPE, ROWS, FEATURES, ARGUMENTS, MEMORY, FUNCTION, ANSWER, BARE_ANSWER, NONE, X_AT = range(11)
    # An array overlaps with the answer if it begins less than so many bytes behind that address.
    BEFORE_ANSWER, NEAR_ANSWER = 11, 12


def array_entry(call: StepCall) -> Entry | None:
    """A function from an array to the array of the answer, bare [H] if it was given [I]; None if there is none.

    Other Pythons than CPython have none, nor have steps other than from [B, I] to [B, H]. The function answers with
    None, and does nothing, if the array is not exactly what the kernel reads: dense, of its precision and size, and
    not in the memory of the answer, which is written before all of the array has been read.
    """
    flat = call.x.ndim == call.y.ndim == 2 and call.x.dtype == call.y.dtype
    if not (flat and call.reads_x and arrays_are_known()):
        return None
    answers = call.y.numpy(), call.y[0].numpy()
    dtype = np.dtype(answers[0].dtype.type)
    words = {
        _Word.ARRAY_TYPE: id(np.ndarray),
        _Word.DTYPE: id(dtype),
        _Word.ROWS: call.rows,
        _Word.FEATURES: call.x.shape[1],
        _Word.ARGUMENTS: call.arguments,
        _Word.MEMORY: call.memory,
        _Word.FUNCTION: call.function,
        _Word.ANSWER: id(answers[0]),
        _Word.BARE_ANSWER: id(answers[1]),
        _Word.NONE: id(None),
        _Word.X_AT: call.x_at,
        _Word.BEFORE_ANSWER: address(call.y) - call.x.nbytes,
        _Word.NEAR_ANSWER: call.x.nbytes + call.y.nbytes,
    }
    context = np.array([words[word] for word in _Word], dtype=np.int64)
    return builtin(_method(), context), (context, answers, dtype, call)


@functools.cache
def _method() -> Any:
    return method("step", compilation.compile(_entry_code()).address("entry"), "One step of a session.")


def _entry_code() -> str:
    """``PyObject *entry(PyObject *context, PyObject *x)``."""
    pointer, word, half = ir.PointerType(), ir.IntType(64), ir.IntType(32)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(pointer, [pointer, pointer]), "entry")
    context, x = function.args
    b: Any = ir.IRBuilder(function.append_basic_block("entry"))
    refuse = function.append_basic_block("refuse")

    table = ArrayField.DATA.read(b, context, pointer)

    def known(index: _Word, kind: ir.Type = word) -> ir.Value:
        return b.load(b.gep(table, [ir.Constant(word, index)], source_etype=word), typ=kind)

    def require(condition: ir.Value) -> None:
        following = function.append_basic_block("next")
        b.cbranch(condition, following, refuse)
        b.position_at_end(following)

    require(b.icmp_signed("==", ArrayField.TYPE.read(b, x, word), known(_Word.ARRAY_TYPE)))
    require(b.icmp_signed("==", ArrayField.DTYPE.read(b, x, word), known(_Word.DTYPE)))
    require(is_dense(b, x))
    axes, sizes = ArrayField.AXES.read(b, x, half), ArrayField.SIZES.read(b, x, pointer)
    bare = b.icmp_signed("==", axes, ir.Constant(half, 1))
    require(b.or_(bare, b.icmp_signed("==", axes, ir.Constant(half, 2))))
    # The first size is there in both cases; the last is the first if there is one alone.
    last = b.load(b.gep(sizes, [b.zext(b.sub(axes, ir.Constant(half, 1)), word)], source_etype=word), typ=word)
    require(b.icmp_signed("==", last, known(_Word.FEATURES)))
    rows = b.select(bare, ir.Constant(word, 1), b.load(sizes, typ=word))
    require(b.icmp_signed("==", rows, known(_Word.ROWS)))
    place = ArrayField.DATA.read(b, x, word)
    require(b.icmp_unsigned(">=", b.sub(place, known(_Word.BEFORE_ANSWER)), known(_Word.NEAR_ANSWER)))
    b.store(place, known(_Word.X_AT, pointer))
    kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, pointer])
    step = b.inttoptr(known(_Word.FUNCTION), kind.as_pointer())
    b.call(step, [known(_Word.ARGUMENTS, pointer), ir.Constant(word, 0), rows, known(_Word.MEMORY, pointer)])
    answer = b.select(bare, known(_Word.BARE_ANSWER, pointer), known(_Word.ANSWER, pointer))
    _return(b, answer, word)
    b.position_at_end(refuse)
    _return(b, known(_Word.NONE, pointer), word)
    return str(module)


def _return(b: Any, thing: ir.Value, word: ir.Type) -> None:
    """A new reference."""
    b.store(b.add(b.load(thing, typ=word), ir.Constant(word, 1)), thing)
    b.ret(thing)
