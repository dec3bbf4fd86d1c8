"""The program: a small graph of primitive operations on tensors, one of whose axes may be the batch.

A `Value` is what one operation gives. Values are immutable and made by the functions of this file, which also do the
trivial simplifications, so that a program is tidy from the start. Two values that are computed in the same way are the
same object, so common subexpressions never arise.

The batch is a symbol, `BATCH`, not a number: a program says what happens to any number of rows, and rows never meet.
The same program therefore steps ``B`` rows or treats all ``T * B`` rows of a sequence at once.
"""

import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from treadle.compiler.walk import postorder

__all__ = ["BATCH", "ELEMENTWISE", "Program", "Value"]


class _Batch:
    """The size of the axis of rows."""

    def __repr__(self) -> str:
        return "B"

    def __reduce__(self) -> str:
        return "BATCH"


BATCH = _Batch()

Dim = Any  # int | _Batch
Shape = tuple[Dim, ...]

UNARY = frozenset(
    "neg abs exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid logsigmoid erf floor ceil round trunc sign reciprocal"
    " not cast".split()
)
BINARY = frozenset("add sub mul div pow maximum minimum eq ne lt le gt ge and or".split())
ELEMENTWISE = UNARY | BINARY | {"where"}
COMPARISONS = frozenset("eq ne lt le gt ge and or not".split())
DEAR = frozenset("exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid logsigmoid erf pow div reciprocal".split())
"""What takes many times as long as a sum or a product, so that it is worth not computing twice."""
VIEWS = frozenset("reshape permute slice expand detach".split())
REDUCTIONS = frozenset("sum amax".split())
# Over the rows: only the derivative has them, for what all rows share.
CONTRACTIONS = frozenset("rowsum outer".split())


@dataclasses.dataclass(eq=False, frozen=True, slots=True, weakref_slot=True)
class Value:
    """What one operation gives.

    ``op`` is a primitive (`ELEMENTWISE`, views, ``cat``, ``sum``, ``amax``, ``dot``, ``full``), ``"input"``, or
    ``"opaque"``: an ATen operation that the compiler knows to treat rows alike, and nothing else about.
    """

    op: str
    inputs: tuple["Value", ...]
    attributes: tuple[Any, ...]
    shape: Shape
    dtype: torch.dtype
    source: str = dataclasses.field(default="", compare=False)
    has_rows: bool = dataclasses.field(init=False)
    """Whether one of the axes is the batch."""
    row_shape: tuple[int, ...] = dataclasses.field(init=False)
    """The shape of one row."""
    row_numel: int = dataclasses.field(init=False)
    """How many numbers one row has."""
    batch_axis: int = dataclasses.field(init=False)
    """Which axis is the batch; -1 if none is."""

    def __post_init__(self) -> None:
        row_shape = tuple(dim for dim in self.shape if dim is not BATCH)
        axis = next((i for i, dim in enumerate(self.shape) if dim is BATCH), -1)
        for name, found in (("row_shape", row_shape), ("batch_axis", axis), ("has_rows", axis >= 0)):
            object.__setattr__(self, name, found)
        object.__setattr__(self, "row_numel", numel(row_shape))

    @property
    def name(self) -> str:
        """The name of an input."""
        return self.attributes[0] if self.op == "input" else ""

    def __repr__(self) -> str:
        return f"<{self.op} {show_shape(self.shape)}>"


_values: "weakref.WeakValueDictionary[Any, Value]" = weakref.WeakValueDictionary()
_guard = threading.Lock()
_where: list[Callable[[], str]] = [lambda: ""]


def made_at(where: Callable[[], str]) -> Any:
    """While the context lasts, new values note ``where()`` as their source."""

    class Noting:
        def __enter__(self) -> None:
            _where.append(where)

        def __exit__(self, *exception: Any) -> None:
            _where.pop()

    return Noting()


def make(op: str, inputs: Sequence[Value], attributes: tuple[Any, ...], shape: Iterable[Dim], dtype: Any) -> Value:
    """The value of an operation; the same object if it was made before."""
    shape = tuple(shape)
    key = (op, tuple(map(id, inputs)), _hashable(attributes), shape, dtype)
    found = _values.get(key)
    if found is None:
        source = _where[-1]()
        with _guard:  # or two threads would make two of one value
            found = _values.get(key)
            if found is None:
                found = _values[key] = Value(op, tuple(inputs), attributes, shape, dtype, source)
    return found


def _hashable(attributes: tuple[Any, ...]) -> Any:
    try:
        hash(attributes)
        # 0.0 == -0.0 == False and 1 == 1.0 == True: equal, and yet not the same constant.
        return tuple((type(a), repr(a)) if isinstance(a, (int, float, bool)) else a for a in attributes)
    except TypeError:
        return repr(attributes)


def numel(shape: Iterable[int]) -> int:
    """The product of sizes."""
    total = 1
    for size in shape:
        total *= size
    return total


def show_shape(shape: Shape) -> str:
    """A shape as programs print it."""
    return f"[{', '.join(map(str, shape))}]"


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise operation."""
    result: list[Dim] = []
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        dims = {shape[-axis] for shape in shapes if len(shape) >= axis} - {1}
        if len(dims) > 1:
            raise ValueError(f"shapes {', '.join(map(show_shape, shapes))} do not broadcast")
        result.insert(0, next(iter(dims), 1))
    return tuple(result)


# Constructors. Each knows the simplifications that concern it alone.


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
    return value.attributes[0] if value.op == "full" else None


def elementwise(op: str, *inputs: Value, dtype: torch.dtype | None = None) -> Value:
    """A pointwise operation on broadcast inputs of one type."""
    shape = broadcast(*(v.shape for v in inputs))
    if dtype is None:
        dtype = torch.bool if op in COMPARISONS else inputs[-1].dtype
    simpler = _simpler(op, inputs, shape, dtype)
    return simpler if simpler is not None else make(op, inputs, (), shape, dtype)


def _simpler(op: str, inputs: Sequence[Value], shape: Shape, dtype: torch.dtype) -> Value | None:
    constants = [constant_of(v) for v in inputs]
    if op == "cast":
        return inputs[0] if inputs[0].dtype == dtype else None
    if op == "add":
        if constants[0] == 0:
            return expand(inputs[1], shape)
        if constants[1] == 0:
            return expand(inputs[0], shape)
        cats = _sum_of_cats(*inputs)
        if cats is not None:
            return cats
    if op == "sub" and constants[1] == 0:
        return expand(inputs[0], shape)
    if op == "mul":
        if constants[0] == 1:
            return expand(inputs[1], shape)
        if constants[1] == 1:
            return expand(inputs[0], shape)
    if op == "div" and constants[1] == 1:
        return expand(inputs[0], shape)
    if op == "where" and constants[0] is not None:
        return expand(inputs[1] if constants[0] else inputs[2], shape)
    if op == "neg" and inputs[0].op == "neg":
        return inputs[0].inputs[0]
    return None


def _sum_of_cats(a: Value, b: Value) -> Value | None:
    """The sum of two concatenations as the concatenation of sums: how gradients of slices come together."""
    if a.op != "cat" or b.op != "cat" or a.shape != b.shape or a.attributes != b.attributes:
        return None
    (dim,) = a.attributes
    borders = sorted({end for value in (a, b) for end in _borders(value)})
    parts, start = [], 0
    for stop in borders:
        parts.append(elementwise("add", slice_(a, dim, start, stop), slice_(b, dim, start, stop)))
        start = stop
    return cat(parts, dim)


def _borders(value: Value) -> list[int]:
    (dim,), ends, end = value.attributes, [], 0
    for part in value.inputs:
        end += part.shape[dim]
        ends.append(end)
    return ends


def cast(value: Value, dtype: torch.dtype) -> Value:
    """The same numbers in another type."""
    if value.op == "full":
        return full(value.attributes[0], value.shape, dtype)
    return elementwise("cast", value, dtype=dtype)


def reshape(value: Value, shape: Iterable[Dim]) -> Value:
    """The same numbers in the same order; the batch stays where it is between them."""
    shape = tuple(shape)
    if shape == value.shape:
        return value
    if value.op == "reshape":
        return reshape(value.inputs[0], shape)
    if value.op == "full":
        return full(value.attributes[0], shape, value.dtype)
    return make("reshape", (value,), (), shape, value.dtype)


def permute(value: Value, axes: Sequence[int]) -> Value:
    """The axes in another order."""
    axes = tuple(axis % len(value.shape) for axis in axes)
    if axes == tuple(range(len(axes))):
        return value
    if value.op == "permute":
        (before,) = value.attributes
        return permute(value.inputs[0], [before[axis] for axis in axes])
    if value.op == "full":
        return full(value.attributes[0], [value.shape[axis] for axis in axes], value.dtype)
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
        return full(value.attributes[0], shape, value.dtype)
    if value.op == "slice" and value.attributes[0] == dim and value.attributes[2] == 1:
        offset = value.attributes[1]
        return slice_(value.inputs[0], dim, offset + start, offset + stop, step)
    if value.op == "cat" and value.attributes[0] == dim and step == 1:
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
        return full(value.attributes[0], shape, value.dtype)
    if value.op == "expand":
        return expand(value.inputs[0], shape)
    return make("expand", (value,), (), shape, value.dtype)


def cat(parts: Sequence[Value], dim: int) -> Value:
    """Side by side along an axis."""
    parts = [part for part in parts if part.shape[dim] != 0] or list(parts[:1])
    flat: list[Value] = []
    for part in parts:
        flat.extend(part.inputs if part.op == "cat" and part.attributes == (dim,) else (part,))
    merged: list[Value] = []
    for part in flat:  # neighbouring zeros are one part
        if merged and part.op == "full" and merged[-1].op == "full" and part.attributes == merged[-1].attributes:
            last = merged.pop()
            shape = (*part.shape[:dim], last.shape[dim] + part.shape[dim], *part.shape[dim + 1 :])
            part = full(part.attributes[0], shape, part.dtype)
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


@dataclasses.dataclass(frozen=True)
class Program:
    """Inputs, and outputs by name.

    Args:
        inputs: placeholders, by name.
        outputs: what is computed, by name.
    """

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]

    def values(self) -> list[Value]:
        """All values that the outputs need, each after what it is made of."""
        return ordered(self.outputs.values())

    def __str__(self) -> str:
        return show(self)


def ordered(roots: Iterable[Value]) -> list[Value]:
    """Everything that ``roots`` are made of, operands first."""
    return postorder(roots, lambda value: value.inputs)


def between(given: Iterable[Value], wanted: Iterable[Value]) -> list[Value]:
    """What is to be computed to get from ``given`` to ``wanted``, the latter included: operands first.

    Of an operation's operands the last is computed first. Random numbers are drawn and gradients added up in this
    order, so another one would be other numbers.
    """
    return postorder(wanted, lambda value: value.inputs[::-1], given)


def rebuild(roots: Iterable[Value], replaced: dict[Value, Value]) -> dict[Value, Value]:
    """The same graph on top of other values: old value -> new value, for all that ``roots`` are made of.

    ``replaced`` maps values to what stands in their place; what is above them is made again, through the constructors,
    so that it is simplified again.
    """
    new = dict(replaced)
    for value in between(replaced, roots):
        operands = [new[operand] for operand in value.inputs]
        if all(a is b for a, b in zip(operands, value.inputs, strict=True)):
            new[value] = value
        else:
            with made_at(lambda value=value: value.source):
                new[value] = remake(value, operands)
    return new


def remake(value: Value, operands: Sequence[Value]) -> Value:
    """The operation of ``value`` on other operands."""
    op, attributes = value.op, value.attributes
    if op in ELEMENTWISE:
        return expand(elementwise(op, *operands, dtype=value.dtype), value.shape)
    match op:
        case "reshape":
            return reshape(operands[0], value.shape)
        case "permute":
            return permute(operands[0], attributes[0])
        case "slice":
            dim, start, step = attributes
            return slice_(operands[0], dim, start, start + step * value.shape[dim], step)
        case "expand":
            return expand(operands[0], value.shape)
        case "cat":
            return cat(operands, attributes[0])
        case "sum" | "amax":
            return reduce(op, operands[0], attributes[0], keepdim=True)
        case "dot":
            return dot(*operands)
    return make(op, operands, attributes, value.shape, value.dtype)


_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">"}
_SIGNS |= {"ge": ">=", "and": "&", "or": "|", "dot": "@"}


def show(program: Program, sources: bool = False) -> str:
    """A program as text, one operation a line, in the order in which an interpreter would run it."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    outputs: dict[Value, list[str]] = {}
    for name, value in program.outputs.items():
        outputs.setdefault(value, []).append(name)
    lines = []
    for value in program.values():
        if value.op == "input":
            names[value] = value.name
            taken.add(value.name)
        elif value.op == "full" and not outputs.get(value):
            names[value] = (
                f"{value.attributes[0]:g}" if isinstance(value.attributes[0], float) else str(value.attributes[0])
            )
    count = 0
    for value in program.values():
        if value in names:
            continue
        count += 1
        names[value] = f"v{count}"
        operands = [names[operand] for operand in value.inputs]
        attributes = ", ".join(map(_show_attribute, value.attributes))
        if value.op in _SIGNS and len(operands) == 2:
            text = f"{operands[0]} {_SIGNS[value.op]} {operands[1]}"
        else:
            text = f"{value.op}({', '.join([*operands, *([attributes] if attributes else [])])})"
        line = f"{names[value]}: {show_shape(value.shape)} = {text}"
        lines.append(f"{line:<58}  # {value.source}" if sources and value.source else line)
    for value, given in outputs.items():
        lines.extend(f"{name} <- {names[value]}" for name in given)
    inputs = ", ".join(f"{name} {show_shape(value.shape)}" for name, value in program.inputs.items())
    return "\n".join([f"reads {inputs}", *lines])


def _show_attribute(attribute: Any) -> str:
    return str(attribute) if not callable(attribute) else str(getattr(attribute, "_name", attribute))
