"""Shapes, one of whose axes may be the batch, which is a symbol and not a number."""

import math
from collections.abc import Callable, Iterable
from typing import Any


class _Batch:
    """The size of the axis of rows."""

    def __repr__(self) -> str:
        return "B"

    def __reduce__(self) -> str:
        return "BATCH"


BATCH = _Batch()

Dim = Any  # an int, or BATCH; arithmetic with the latter is a mistake that raises
Shape = tuple[Dim, ...]


numel: Callable[[Iterable[int]], int] = math.prod
"""The product of sizes."""


def show_shape(shape: Shape) -> str:
    """A shape as programs print it."""
    return f"[{', '.join(map(str, shape))}]"


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise operation."""
    result: list[Dim] = []
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        dims = {shape[-axis] for shape in shapes if len(shape) >= axis} - {1}
        if len(dims) > 1:
            # As PyTorch does: a step may catch that.
            raise RuntimeError(f"shapes {', '.join(map(show_shape, shapes))} do not broadcast")
        result.insert(0, next(iter(dims), 1))
    return tuple(result)
