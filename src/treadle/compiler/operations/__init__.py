"""PyTorch's operations in terms of the program's: one table, walked by the tracer, a file for each kind of operation.

What is here is what a loop may contain. `ROWWISE` names operations that treat rows alike but that the compiler knows
nothing else about; they run as PyTorch's, outside loops.
"""

from treadle.compiler.operations import (
    activations,
    constants,
    pointwise,
    products,
    reductions,
    shapes,
)
from treadle.compiler.operations.rowwise import RANDOM, ROWWISE, check_rowwise, has_rows
from treadle.compiler.operations.table import HANDLERS, NotRowwise, Unknown

__all__ = [
    "HANDLERS", "RANDOM", "ROWWISE", "NotRowwise", "Unknown", "activations", "check_rowwise", "constants", "has_rows",
    "pointwise", "products", "reductions", "shapes",
]  # fmt: skip
