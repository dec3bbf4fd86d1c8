"""The constructors of values, each with the simplifications that concern it alone: a program is tidy from the start."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from treadle.compiler.program.shapes import Dim, Shape, broadcast
from treadle.compiler.program.value import COMPARISONS, ELEMENTWISE, Lines, Value, make, noting
from treadle.compiler.walk import postorder


def placeholder(name: str, shape: Iterable[Dim], dtype: torch.dtype) -> Value:
    """An input of a program. Inputs of one name, shape and type are one value."""
    return make("input", (), (name,), shape, dtype)


def full(value: float | bool, shape: Iterable[Dim], dtype: torch.dtype) -> Value:
    """A constant everywhere."""
    number = bool(value) if dtype == torch.bool else int(value) if not dtype.is_floating_point else float(value)
    return make("full", (), (number,), shape, dtype)


def constant_of(value: Value) -> Any:
    """The number that a value is everywhere, or None."""
    while value.op in ("expand", "reshape", "slice", "permute", "detach"):
        value = value.inputs[0]
    return value.number if value.op == "full" else None


def elementwise(op: str, *inputs: Value, dtype: torch.dtype | None = None) -> Value:
    """A pointwise operation on broadcast inputs of one type."""
    shape = broadcast(*(v.shape for v in inputs))
    if dtype is None:
        dtype = torch.bool if op in COMPARISONS else inputs[-1].dtype
    simpler = _simpler(op, inputs, shape, dtype)
    return simpler if simpler is not None else make(op, inputs, (), shape, dtype)


_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}
"""The right operand, of sums and products the left one too, that changes nothing."""


def _simpler(op: str, inputs: Sequence[Value], shape: Shape, dtype: torch.dtype) -> Value | None:
    constants = [constant_of(v) for v in inputs]
    if op == "cast":
        return inputs[0] if inputs[0].dtype == dtype else None
    if op in ("add", "mul") and constants[0] == _NEUTRAL[op]:
        return expand(inputs[1], shape)
    if op in _NEUTRAL and constants[1] == _NEUTRAL[op]:
        return expand(inputs[0], shape)
    if op == "add":
        return _sum_of_cats(*inputs)
    if op == "where" and constants[0] is not None:
        return expand(inputs[1] if constants[0] else inputs[2], shape)
    if op == "neg" and inputs[0].op == "neg":
        return inputs[0].inputs[0]
    return None


def _sum_of_cats(a: Value, b: Value) -> Value | None:
    """The sum of two concatenations as the concatenation of sums: how gradients of slices come together."""
    if a.op != "cat" or b.op != "cat" or a.shape != b.shape or a.attributes != b.attributes:
        return None
    dim = a.axis
    borders = sorted({end for value in (a, b) for end in _borders(value)})
    parts, start = [], 0
    for stop in borders:
        parts.append(elementwise("add", slice_(a, dim, start, stop), slice_(b, dim, start, stop)))
        start = stop
    return cat(parts, dim)


def _borders(value: Value) -> list[int]:
    ends, end = [], 0
    for part in value.inputs:
        end += part.shape[value.axis]
        ends.append(end)
    return ends


def cast(value: Value, dtype: torch.dtype) -> Value:
    """The same numbers in another type."""
    if value.op == "full":
        return full(value.number, value.shape, dtype)
    return elementwise("cast", value, dtype=dtype)


def reshape(value: Value, shape: Iterable[Dim]) -> Value:
    """The same numbers in the same order; the batch stays where it is between them."""
    shape = tuple(shape)
    if shape == value.shape:
        return value
    if value.op == "reshape":
        return reshape(value.inputs[0], shape)
    if value.op == "full":
        return full(value.number, shape, value.dtype)
    return make("reshape", (value,), (), shape, value.dtype)


def permute(value: Value, axes: Sequence[int]) -> Value:
    """The axes in another order."""
    axes = tuple(axis % len(value.shape) for axis in axes)
    if axes == tuple(range(len(axes))):
        return value
    if value.op == "permute":
        return permute(value.inputs[0], [value.axes[axis] for axis in axes])
    if value.op == "full":
        return full(value.number, [value.shape[axis] for axis in axes], value.dtype)
    return make("permute", (value,), (axes,), [value.shape[axis] for axis in axes], value.dtype)


def slice_(value: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """Part of an axis."""
    size = value.shape[dim]
    stop = min(stop, size)
    length = max(0, -(-(stop - start) // step))
    if (start, length, step) == (0, size, 1):
        return value
    shape = (*value.shape[:dim], length, *value.shape[dim + 1 :])
    if value.op == "full":
        return full(value.number, shape, value.dtype)
    if value.op == "slice" and value.slice.axis == dim and value.slice.step == 1:
        offset = value.slice.start
        return slice_(value.inputs[0], dim, offset + start, offset + stop, step)
    if value.op == "cat" and value.axis == dim and step == 1:
        end = 0
        for part in value.inputs:
            begin, end = end, end + part.shape[dim]
            if begin <= start and stop <= end:
                return slice_(part, dim, start - begin, stop - begin)
    return make("slice", (value,), (dim, start, step), shape, value.dtype)


def expand(value: Value, shape: Iterable[Dim]) -> Value:
    """Broadcast to a shape."""
    shape = tuple(shape)
    if shape == value.shape:
        return value
    if value.op == "full":
        return full(value.number, shape, value.dtype)
    if value.op == "expand":
        return expand(value.inputs[0], shape)
    return make("expand", (value,), (), shape, value.dtype)


def detach(value: Value) -> Value:
    """The same numbers, through which no gradient flows."""
    return make("detach", (value,), (), value.shape, value.dtype)


def straight_through(value: Value, origin: Value) -> Value:
    """The numbers of ``value``, whose gradient is that of ``origin``: what was overwritten while none was recorded."""
    if not value.dtype.is_floating_point or value is origin:
        return value
    if constant_of(origin) is not None:
        return detach(value)
    return make("straight_through", (value, origin), (), value.shape, value.dtype)


def cat(parts: Sequence[Value], dim: int) -> Value:
    """Side by side along an axis."""
    parts = [part for part in parts if part.shape[dim] != 0] or list(parts[:1])
    flat: list[Value] = []
    for part in parts:
        flat.extend(part.inputs if part.op == "cat" and part.axis == dim else (part,))
    merged: list[Value] = []
    for part in flat:  # neighbouring zeros are one part
        if merged and part.op == "full" and merged[-1].op == "full" and part.attributes == merged[-1].attributes:
            last = merged.pop()
            shape = (*part.shape[:dim], last.shape[dim] + part.shape[dim], *part.shape[dim + 1 :])
            part = full(part.number, shape, part.dtype)
        merged.append(part)
    if len(merged) == 1:
        return merged[0]
    first = merged[0]
    total = sum(part.shape[dim] for part in merged)
    return make("cat", merged, (dim,), (*first.shape[:dim], total, *first.shape[dim + 1 :]), first.dtype)


def pad(value: Value, dim: int, before: int, after: int) -> Value:
    """Zeros before and after along an axis."""

    def zeros(size: int) -> Value:
        return full(0, (*value.shape[:dim], size, *value.shape[dim + 1 :]), value.dtype)

    return cat([*([zeros(before)] if before else []), value, *([zeros(after)] if after else [])], dim)


def reduce(op: str, value: Value, dims: Iterable[int], keepdim: bool = False) -> Value:
    """``sum`` or ``amax`` over axes of the rows (``rowsum`` where the batch is among them)."""
    dims = sorted({dim % len(value.shape) for dim in dims})
    if value.batch_axis in dims:
        if op != "sum":
            raise ValueError("only sums may go over the rows")
        axis = value.batch_axis
        value = make("rowsum", (value,), (), (*value.shape[:axis], 1, *value.shape[axis + 1 :]), value.dtype)
        dims.remove(axis)
        if not keepdim:
            value = reshape(value, (*value.shape[:axis], *value.shape[axis + 1 :]))
            dims = [dim - (dim > axis) for dim in dims]
    real = [dim for dim in dims if value.shape[dim] != 1]
    kept = [1 if i in dims else dim for i, dim in enumerate(value.shape)]
    if real:
        value = make(
            op, (value,), (tuple(real),), [1 if i in real else d for i, d in enumerate(value.shape)], value.dtype
        )
    shape = kept if keepdim else [dim for i, dim in enumerate(kept) if i not in dims]
    return reshape(value, shape)


def dot(a: Value, w: Value) -> Value:
    """``a`` [..., K], with rows, times the matrix ``w`` [K, N] that all rows share."""
    if constant_of(a) == 0:
        return full(0, (*a.shape[:-1], w.shape[1]), a.dtype)
    return make("dot", (a, w), (), (*a.shape[:-1], w.shape[1]), a.dtype)


def embedding(table: Value, index: Value) -> Value:
    """The rows of ``table`` [V, D] at whole numbers, one for each row of the batch: [B, D]."""
    return make("embedding", (table, index), (), (*index.shape, table.shape[1]), table.dtype)


def outer(a: Value, g: Value) -> Value:
    """The sum over all rows of ``a``ᵀ ``g``: [B, K] and [B, N] give [K, N], the gradient of a matrix."""
    return make("outer", (a, g), (), (a.shape[1], g.shape[1]), a.dtype)


def rebuild(roots: Iterable[Value], replaced: dict[Value, Value], lines: Lines | None = None) -> dict[Value, Value]:
    """The same graph on top of other values: old value -> new value, for all that ``roots`` are made of.

    ``replaced`` maps values to what stands in their place; what is above them is made again, through the constructors,
    so that it is simplified again. What is made of a value is noted in ``lines`` with the line of that.
    """
    new = dict(replaced)
    rebuild_into(new, roots, {} if lines is None else lines)
    return new


def rebuild_into(new: dict[Value, Value], roots: Iterable[Value], lines: Lines) -> None:
    """The same, on top of what ``new`` has already, and into it."""
    for value in postorder(roots, lambda value: () if value in new else value.inputs[::-1]):
        if value in new:
            continue
        operands = [new[operand] for operand in value.inputs]
        if all(a is b for a, b in zip(operands, value.inputs, strict=True)):
            new[value] = value
        else:
            with noting(lines, lambda value=value: lines.get(value, "")):
                new[value] = remake(value, operands)


def remake(value: Value, operands: Sequence[Value]) -> Value:
    """The operation of ``value`` on other operands."""
    op = value.op
    if op in ELEMENTWISE:
        return expand(elementwise(op, *operands, dtype=value.dtype), value.shape)
    match op:
        case "reshape":
            return reshape(operands[0], value.shape)
        case "permute":
            return permute(operands[0], value.axes)
        case "slice":
            axis, start, step = value.slice
            return slice_(operands[0], axis, start, start + step * value.shape[axis], step)
        case "expand":
            return expand(operands[0], value.shape)
        case "cat":
            return cat(operands, value.axis)
        case "sum" | "amax":
            return reduce(op, operands[0], value.axes, keepdim=True)
        case "dot":
            return dot(*operands)
    return make(op, operands, value.attributes, value.shape, value.dtype)
