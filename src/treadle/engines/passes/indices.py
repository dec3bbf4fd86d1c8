"""Where a value is read when another one is computed: indices as sums of loop variables.

A view is nothing but arithmetic on indices. Where that does not do, what is read has to lie in memory.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from treadle.compiler import program as p
from treadle.compiler.program import BATCH, Value
from treadle.engines.passes.loop_nests import Nest, Root

ROW = "row"
"""Stands in an index where the axis of rows is."""

Affine = tuple[int, ...]  # a constant, and a coefficient for each loop variable


@dataclasses.dataclass(frozen=True)
class Flat:
    """A place in a dense row in memory, which can be read in any shape."""

    place: Affine


Index = tuple[Any, ...] | Flat  # an Affine, or ROW, for each axis


class MustBeStored(Exception):
    """Values have to be in memory, because what reads them cannot compute them on the fly, or not at the price."""

    def __init__(self, *values: Value):
        self.values = values


def contiguous(shape: Iterable[int]) -> tuple[int, ...]:
    """The strides of a dense row."""
    strides, total = [], 1
    for size in reversed(list(shape)):
        strides.insert(0, total)
        total *= size
    return tuple(strides)


def squeezed(shape: tuple[int, ...], reduced: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The loop variables of a shape: the axes that are longer than 1, and which of them are reduced."""
    axes = [i for i, size in enumerate(shape) if size != 1]
    return tuple(shape[i] for i in axes), tuple(n for n, i in enumerate(axes) if i in reduced)


def variables(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """The index of each axis of a value, when every loop variable runs over one axis of it."""
    count = sum(1 for size in shape if size is not BATCH and size != 1)
    index, used = [], 0
    for size in shape:
        if size is BATCH:
            index.append(ROW)
        elif size == 1:
            index.append((0,) * (count + 1))
        else:
            index.append(tuple(1 if i == used + 1 else 0 for i in range(count + 1)))
            used += 1
    return tuple(index)


def root_index(root: Root, nest: Nest) -> tuple[Value, Index]:
    """What a nest evaluates for a root, and where: of a reduction, what it reduces."""
    value = root.value
    if nest.reduced:
        value = value.inputs[0]
    return value, variables(value.shape)


def direct(operand: Value, memory: set[Value]) -> bool:
    """Whether the left operand of a product can be read where it is: a stored row, or a part of one."""
    while (operand.op == "slice" or operand.op in p.GRADIENT_PATHS) and operand not in memory:
        if operand.op == "slice" and operand.slice.step != 1:
            return False
        operand = operand.inputs[0]
    return operand in memory and operand.shape[0] is BATCH and len(operand.shape) == 2 and operand.has_rows


def bounds(affine: Affine, domain: tuple[int, ...]) -> tuple[int, int]:
    """The least and the greatest value of an index in a nest."""
    low = high = affine[0]
    for coefficient, size in zip(affine[1:], domain, strict=True):
        reach = coefficient * (size - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def flat(index: Index, shape: tuple[Any, ...], count: int, strides: tuple[int, ...] | None = None) -> Affine:
    """The place of an index in its row, as a sum of ``count`` loop variables."""
    if isinstance(index, Flat):
        return index.place
    row_shape = tuple(size for size in shape if size is not BATCH)
    axes = [axis for axis in index if axis is not ROW]
    strides = contiguous(row_shape) if strides is None else strides
    return tuple(sum(axis[i] * stride for axis, stride in zip(axes, strides, strict=True)) for i in range(count + 1))


def operands_at(value: Value, index: Index, domain: tuple[int, ...], stored: set[Value]) -> list[tuple[Value, Index]]:
    """What a value is made of at an index, and where each operand is read.

    Raises:
        MustBeStored: the operand must be in memory for that.
    """
    zero = (0,) * (len(domain) + 1)
    op = value.op
    if op in ("full", "embedding"):
        return []
    assert not isinstance(index, Flat), value
    if op in p.ELEMENTWISE or op == "expand":
        found = []
        for operand in value.inputs:
            lead = len(value.shape) - len(operand.shape)
            axes = [zero if size == 1 else index[lead + i] for i, size in enumerate(operand.shape)]
            found.append((operand, tuple(axes)))
        return found
    (inside,) = value.inputs[:1]
    if op in p.GRADIENT_PATHS:
        return [(inside, index)]
    if op == "permute":
        axes = [None] * len(index)
        for i, axis in enumerate(value.axes):
            axes[axis] = index[i]
        return [(inside, tuple(axes))]
    if op == "slice":
        dim, start, step = value.slice
        moved = tuple(step * c for c in index[dim])
        return [(inside, (*index[:dim], (moved[0] + start, *moved[1:]), *index[dim + 1 :]))]
    if op == "cat":
        dim = value.axis
        low, high = bounds(index[dim], domain)
        start = 0
        for part in value.inputs:
            stop = start + part.shape[dim]
            if start <= low and high < stop:
                moved = (index[dim][0] - start, *index[dim][1:])
                return [(part, (*index[:dim], moved, *index[dim + 1 :]))]
            start = stop
        raise MustBeStored(value)
    if op == "reshape":
        place = flat(index, value.shape, len(domain))
        row_shape = inside.row_shape
        axes = _split(place, row_shape, domain)
        if axes is None:
            if inside in stored:
                return [(inside, Flat(place))]
            raise MustBeStored(inside)
        rest = iter(axes)
        return [(inside, tuple(ROW if size is BATCH else next(rest) for size in inside.shape))]
    if op in ("sum", "amax"):
        raise MustBeStored(value)
    raise AssertionError(f"{op} in a kernel")


def _split(place: Affine, shape: tuple[int, ...], domain: tuple[int, ...]) -> list[Affine] | None:
    """A place in a row as an index into axes, if each axis is a sum of its own loop variables."""
    axes: list[Affine] = []
    for size in reversed(shape):
        inner = [c if c % size else 0 for c in place[1:]]
        outer = [0 if c % size else c for c in place[1:]]
        part = (place[0] % size, *inner)
        low, high = bounds(part, domain)
        if low < 0 or high >= size:
            return None
        axes.insert(0, part)
        place = (place[0] // size, *(c // size for c in outer))
    return axes if not any(place) or not shape else None
