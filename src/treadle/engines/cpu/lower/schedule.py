"""From a row program to loop nests: what is kept in memory, what is computed together, and in which order.

A kernel computes some values for every row. Most of them are never stored: an elementwise operation is computed where
it is read, in the registers of the loop that reads it, and a view is nothing but arithmetic on indices. Stored are what
the outside wants, operands and results of products, reductions, and what would be dear to compute twice.

Everything stored is a *root*. Roots over the same features that are known equally early share one *nest*, a loop over
features. A product whose result is read by one such nest alone is *fused* into it: the nest runs on the accumulators
of the product, a tile of rows and units at a time.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from treadle.compiler import program as p
from treadle.compiler.program import BATCH, Value
from treadle.compiler.walk import postorder, preorder
from treadle.engines.cpu.lower.precision import Precision

__all__ = ["ROW", "Fused", "Kernel", "Nest", "Root", "Schedule", "Sink", "schedule"]

ROW = "row"
"""Stands in an index where the axis of rows is."""

Affine = tuple[int, ...]  # a constant, and a coefficient for each loop variable
Index = tuple[Any, ...]  # an Affine, or ROW, for each axis

_MOST_SLOTS = 8


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a kernel computes.

    Args:
        streams: values with rows that are read from memory; whole numbers only as indices of embeddings.
        invariants: values without rows that are read from memory.
        carries: (before, after): what goes from step to step; none in a kernel that takes all rows at once.
        outputs: values written to memory, row by row.
        sums: values summed over all rows and steps.
        precision: what products multiply, and the type of everything else.
        reverse: whether time runs backwards.
    """

    streams: tuple[Value, ...]
    invariants: tuple[Value, ...]
    carries: tuple[tuple[Value, Value], ...]
    outputs: tuple[Value, ...]
    sums: tuple[Value, ...]
    precision: Precision
    reverse: bool = False

    @property
    def memory(self) -> set[Value]:
        """What can be loaded at any time."""
        return {*self.streams, *self.invariants, *(old for old, _ in self.carries)}


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where a root goes: into which memory, and where in its row.

    ``kind`` is ``"output"``, ``"carry"``, ``"sum"`` or ``"buffer"``; ``key`` says which.
    """

    kind: str
    key: Any
    offset: int
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Root:
    """A value that is stored."""

    value: Value
    sinks: tuple[Sink, ...]


@dataclasses.dataclass(frozen=True)
class Fused:
    """A product inside a nest: column ``slots[g] + j`` of the product is slot g of unit j."""

    product: Value
    slots: tuple[int, ...]


@dataclasses.dataclass
class Nest:
    """A loop over features: all roots of one shape and one level.

    ``domain`` are the extents of the loop variables, the last one the vectorised. Of a reduction, ``reduced`` says
    which of them it sums over.
    """

    level: int
    domain: tuple[int, ...]
    reduced: tuple[int, ...]
    roots: list[Root]
    fused: list[Fused] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Schedule:
    """The steps of a kernel, in order: products (``Value``), and nests."""

    kernel: Kernel
    phases: list[Any]
    buffers: dict[Value, int]
    """Values with a row of memory of their own, and how many numbers it has."""
    products: dict[Value, Fused]
    """Every product; those that are not fused have one slot."""
    stored: set[Value]
    """What nests read from buffers, once it is there."""
    ready: dict[Value, int]
    """The first level of nests in which that is so; of other values, in which they can be computed."""

    def is_loaded(self, value: Value, nest: Nest) -> bool:
        """Whether a nest reads a value from memory, rather than computing it."""
        return is_loaded(value, nest, self.kernel.memory, self.stored, self.ready)


def is_loaded(value: Value, nest: Nest, memory: set[Value], stored: set[Value], ready: dict[Value, int]) -> bool:
    """Whether a nest reads a value from memory: once the level has come at which it is there."""
    return value in memory or (value in stored and ready[value] <= nest.level)


class _Force(Exception):
    """A value has to be in memory, because what reads it cannot compute it on the fly."""

    def __init__(self, value: Value):
        self.value = value


def schedule(kernel: Kernel) -> Schedule:
    """Find the loop nests of a kernel."""
    forced: set[Value] = set()
    while True:
        try:
            return _Scheduler(kernel, forced).run()
        except _Force as force:
            value = force.value
            assert value not in forced, value
            forced.add(value)


class _Scheduler:
    def __init__(self, kernel: Kernel, forced: set[Value]):
        self.kernel, self.forced, self.memory = kernel, forced, kernel.memory
        self.wanted = [*kernel.outputs, *(new for _, new in kernel.carries), *kernel.sums]
        self.order = self._reachable()
        self.ready: dict[Value, int] = {}
        self.stored = {
            v for v in self.order if v not in self.memory and (v.op in ("dot", "sum", "amax") or v in forced)
        }
        for value in self.order:
            self.ready[value] = self._ready(value)

    def _reachable(self) -> list[Value]:
        def operands(value: Value) -> tuple[Value, ...]:
            if value in self.memory:
                return ()
            return value.inputs[:1] if value.op == "dot" else value.inputs[::-1]

        return postorder(reversed(self.wanted), operands)

    def _ready(self, value: Value) -> int:
        """The level of nests in which a value can be computed or loaded."""
        if value in self.memory or not value.inputs:
            return 0
        if value.op == "dot":
            operand = value.inputs[0]
            return 0 if direct(operand, self.memory) else self.ready[operand] + 1
        base = max(self.ready[operand] for operand in value.inputs)
        return base + 1 if value in self.stored else base

    def computed_at(self, value: Value) -> int:
        """The level of the nest that stores a root."""
        return self.ready[value] - 1 if value in self.stored and value.op != "dot" else self.ready[value]

    def run(self) -> Schedule:
        sinks: dict[Value, list[Sink]] = {}

        def want(value: Value, kind: str, key: Any) -> None:
            sinks.setdefault(value, []).append(Sink(kind, key, 0, contiguous(value.row_shape)))

        for i, value in enumerate(self.kernel.outputs):
            want(value, "output", i)
        for i, (_, value) in enumerate(self.kernel.carries):
            want(value, "carry", i)
        for i, value in enumerate(self.kernel.sums):
            want(value, "sum", i)
        buffers: dict[Value, int] = {}
        for value in self.order:
            if value in self.stored:
                buffers[value] = value.row_numel
                if value.op != "dot":
                    want(value, "buffer", value)
            if value.op == "dot" and value not in self.memory:
                operand = value.inputs[0]
                if not direct(operand, self.memory) and operand not in buffers:
                    buffers[operand] = operand.row_numel
                    want(operand, "buffer", operand)
        nests: dict[Any, Nest] = {}
        for value, where in sinks.items():
            for root in self._parts(value, tuple(where)):
                self._place(root, nests)
        self._share_dear(nests, buffers)
        products = {value: Fused(value, (0,)) for value in self.order if value.op == "dot" and value not in self.memory}
        self._fuse(nests, buffers, products)
        phases = self._phases(nests, products, buffers)
        return Schedule(self.kernel, phases, buffers, products, self.stored, self.ready)

    def _parts(self, value: Value, sinks: tuple[Sink, ...]) -> list[Root]:
        """A concatenation is stored part by part, each where it belongs."""
        own = [s for s in sinks if s.kind == "buffer" and s.key is value]
        if value in self.memory or (value in self.stored and not own) or value.op in ("sum", "amax"):
            return [Root(value, sinks)]
        if value.op == "reshape" and all(s.strides == contiguous(value.row_shape) for s in sinks):
            (inside,) = value.inputs
            if inside.has_rows == value.has_rows:
                moved = tuple(dataclasses.replace(s, strides=contiguous(inside.row_shape)) for s in sinks)
                return self._parts(inside, moved)
        if value.op == "cat":
            axis = value.axis
            row_axis = axis - (0 <= value.batch_axis < axis)
            roots, start = [], 0
            for part in value.inputs:
                moved = tuple(dataclasses.replace(s, offset=s.offset + start * s.strides[row_axis]) for s in sinks)
                roots.extend(self._parts(part, moved))
                start += part.shape[axis]
            return roots
        return [Root(value, sinks)]

    def _place(self, root: Root, nests: dict[Any, Nest]) -> None:
        value = root.value
        # What is stored is computed a level before it can be read; where it goes besides, it is read from its memory.
        own = any(s.kind == "buffer" and s.key is value for s in root.sinks)
        level, reduced = self.computed_at(value) if own else self.ready[value], ()
        shape = value.row_shape
        if value.op in ("sum", "amax") and value in self.stored and any(s.kind == "buffer" for s in root.sinks):
            shape = value.inputs[0].row_shape
            axis = value.inputs[0].batch_axis
            reduced = tuple(d - (0 <= axis < d) for d in value.axes)
        domain, kept = squeezed(shape, reduced)
        if reduced and any(s.kind != "buffer" for s in root.sinks):
            # The total also goes elsewhere: read it back from its buffer, one level on.
            buffered = tuple(s for s in root.sinks if s.kind == "buffer")
            others = tuple(s for s in root.sinks if s.kind != "buffer")
            self._place(Root(value, buffered), nests)
            self._add(nests, Nest(self.ready[value], squeezed(value.row_shape, ())[0], (), [Root(value, others)]))
            return
        self._add(nests, Nest(level, domain, kept, [root]))

    @staticmethod
    def _add(nests: dict[Any, Nest], nest: Nest) -> None:
        key = (nest.level, nest.domain, nest.reduced)
        if key in nests:
            nests[key].roots.extend(nest.roots)
        else:
            nests[key] = nest

    def _touches(self, nest: Nest) -> list[tuple[Value, Index]]:
        """Everything that a nest evaluates, with the index at which it does."""
        stored = self.memory | self.stored

        def operands(place: tuple[Value, Index]) -> list[tuple[Value, Index]]:
            if is_loaded(place[0], nest, self.memory, self.stored, self.ready):
                return []
            return operands_at(*place, nest.domain, stored)[::-1]

        return list(preorder([root_index(root, nest) for root in nest.roots], operands))

    def _share_dear(self, nests: dict[Any, Nest], buffers: dict[Value, int]) -> None:
        """Force into memory what several nests, or every feature of one, would compute again at a price."""
        levels: dict[Value, set[int]] = {}
        for nest in nests.values():
            count = p.numel(nest.domain)
            for value, _ in self._touches(nest):
                if value.op in p.EXPENSIVE and value.has_rows and value not in self.stored and value not in self.memory:
                    levels.setdefault(value, set()).add(nest.level)
                    if value.row_numel < count:
                        raise _Force(value)
        for value, where in levels.items():
            if len(where) > 1 and value not in self.forced:
                raise _Force(value)

    def _fuse(self, nests: dict[Any, Nest], buffers: dict[Value, int], products: dict[Value, Fused]) -> None:
        readers: dict[Value, list[tuple[Nest, Index]]] = {}
        for nest in nests.values():
            for value, index in self._touches(nest):
                if value.op == "dot" and value not in self.memory:
                    readers.setdefault(value, []).append((nest, index))
        operands = {value.inputs[0] for value in self.order if value.op == "dot" and value not in self.memory}
        for product, reads in readers.items():
            nest = reads[0][0]
            same = all(other is nest for other, _ in reads)
            fits = len(nest.domain) == 1 and not nest.reduced and nest.level == self.ready[product]
            if not same or not fits or product in operands:
                continue
            features = {index[-1] for _, index in reads}
            if all(f[1] == 1 for f in features) and len(features) <= _MOST_SLOTS:
                products[product] = Fused(product, tuple(sorted(f[0] for f in features)))
                nest.fused.append(products[product])
                del buffers[product]

    def _phases(self, nests: dict[Any, Nest], products: dict[Value, Fused], buffers: dict[Value, int]) -> list[Any]:
        phases: list[Any] = []
        levels = sorted({nest.level for nest in nests.values()} | {self.ready[v] for v in products})
        for level in levels:
            phases.extend(v for v in products if self.ready[v] == level and v in buffers)
            here = [nest for nest in nests.values() if nest.level == level]
            phases.extend(nest for nest in here if nest.fused)
            phases.extend(nest for nest in here if not nest.fused)
        return phases


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


def variables(shape: tuple[Any, ...]) -> Index:
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
    while operand.op in ("slice", "detach") and operand not in memory:
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
    row_shape = tuple(size for size in shape if size is not BATCH)
    axes = [axis for axis in index if axis is not ROW]
    strides = contiguous(row_shape) if strides is None else strides
    return tuple(sum(axis[i] * stride for axis, stride in zip(axes, strides, strict=True)) for i in range(count + 1))


def operands_at(value: Value, index: Index, domain: tuple[int, ...], stored: set[Value]) -> list[tuple[Value, Index]]:
    """What a value is made of at an index, and where each operand is read.

    Raises:
        _Force: the operand must be in memory for that.
    """
    zero = (0,) * (len(domain) + 1)
    op = value.op
    if op in ("full", "embedding"):
        return []
    if op in p.ELEMENTWISE or op == "expand":
        found = []
        for operand in value.inputs:
            lead = len(value.shape) - len(operand.shape)
            axes = [zero if size == 1 else index[lead + i] for i, size in enumerate(operand.shape)]
            found.append((operand, tuple(axes)))
        return found
    (inside,) = value.inputs[:1]
    if op == "detach":
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
        raise _Force(value)
    if op == "reshape":
        place = flat(index, value.shape, len(domain))
        row_shape = inside.row_shape
        axes = _split(place, row_shape, domain)
        if axes is None:
            if inside in stored:
                # A dense row in memory can be read in any shape.
                return [(inside, ("flat", place))]
            raise _Force(inside)
        rest = iter(axes)
        return [(inside, tuple(ROW if size is BATCH else next(rest) for size in inside.shape))]
    if op in ("sum", "amax"):
        raise _Force(value)
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
