"""The program: a small graph of primitive operations on tensors, one of whose axes may be the batch.

A `Value` is what one operation gives. Values are immutable and made by the functions of ``build.py``, which also do the
trivial simplifications, so that a program is tidy from the start. Two values that are computed in the same way are the
same object, so common subexpressions never arise.

The batch is a symbol, `BATCH`, not a number: a program says what happens to any number of rows, and rows never meet.
The same program therefore steps ``B`` rows or treats all ``T * B`` rows of a sequence at once.
"""

from treadle.compiler.program.build import (
    cast,
    cat,
    constant_of,
    detach,
    dot,
    elementwise,
    embedding,
    expand,
    full,
    outer,
    pad,
    permute,
    placeholder,
    rebuild,
    rebuild_into,
    reduce,
    reshape,
    slice_,
    straight_through,
)  # fmt: skip
from treadle.compiler.program.program import Program, show
from treadle.compiler.program.shapes import BATCH, Dim, Shape, broadcast, numel, show_shape
from treadle.compiler.program.value import (
    BINARY,
    COMPARISONS,
    CONTRACTIONS,
    ELEMENTWISE,
    EXPENSIVE,
    GRADIENT_PATHS,
    REDUCTIONS,
    UNARY,
    VIEWS,
    Call,
    Operand,
    Value,
    between,
    make,
    noting,
    ordered,
)  # fmt: skip

__all__ = [
    "BATCH", "BINARY", "COMPARISONS", "CONTRACTIONS", "ELEMENTWISE", "EXPENSIVE", "GRADIENT_PATHS", "REDUCTIONS",
    "UNARY", "VIEWS", "Call", "Dim", "Operand", "Program", "Shape", "Value", "between", "broadcast", "cast", "cat",
    "constant_of", "detach", "dot", "elementwise", "embedding", "expand", "full", "make", "noting", "numel",
    "ordered", "outer", "pad", "permute", "placeholder", "rebuild", "rebuild_into", "reduce", "reshape", "show",
    "show_shape", "slice_", "straight_through",
]  # fmt: skip
