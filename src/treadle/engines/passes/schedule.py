"""From a row program to loop nests: what is kept in memory, what is computed together, and in which order.

A kernel computes some values for every row. Most of them are never stored: an elementwise operation is computed where
it is read, in the registers of the loop that reads it, and a view is nothing but arithmetic on indices. Stored are what
the outside wants, operands and results of products, reductions, and what would be expensive to compute twice.

Everything stored is a *root*. Roots over the same features that are known equally early share one *nest*, a loop over
features. A product whose result is read by one such nest alone is *fused* into it: the nest runs on the accumulators
of the product, a tile of rows and units at a time.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.compiler.walk import postorder, preorder
from treadle.engines.passes.indices import (
    Index,
    MustBeStored,
    contiguous,
    direct,
    flat,
    operands_at,
    root_index,
    squeezed,
)
from treadle.engines.passes.loop_nests import Buffer, Carry, Fused, Kernel, Nest, Output, Root, Schedule, Sink, Sum

_MOST_SLOTS = 8
_FEW, _LONG = 4, 16
"""In so many levels, or with so many operations, a nest rather computes again what another one could store."""


def schedule(kernel: Kernel) -> Schedule:
    """Find the loop nests of a kernel."""
    forced: set[Value] = set()
    while True:
        try:
            return _Scheduler(kernel, forced).run()
        except MustBeStored as force:
            values = force.values
        assert forced.isdisjoint(values), values
        forced.update(values)


_Place: TypeAlias = tuple[int, int]
"""Where a value is computed: the level of a nest, and over how many features it goes."""


class _Scheduler:
    """One attempt, in which the ``forced`` values are stored besides those that always are."""

    def __init__(self, kernel: Kernel, forced: set[Value]):
        self.kernel, self.forced, self.memory = kernel, forced, kernel.memory
        self.order = self._reachable([*kernel.outputs, *(new for _, new in kernel.carries), *kernel.sums])
        computed = [v for v in self.order if v not in self.memory]
        self.stored = {v for v in computed if v.op in ("dot", "sum", "amax") or v in forced}
        self.readable = self.memory | self.stored
        self.products = {v: Fused(v, (0,)) for v in computed if v.op == "dot"}
        self.ready: dict[Value, int] = {}
        for value in self.order:
            self.ready[value] = self._ready(value)
        self.buffers: dict[Value, int] = {}
        self.nests: dict[Any, Nest] = {}
        self.unreadable: dict[Value, None] = {}

    def run(self) -> Schedule:
        self._share_long()
        for value, sinks in self._sinks().items():
            for root in self._parts(value, tuple(sinks)):
                self._place(root)
        touched = [(nest, self._touches(nest)) for nest in self.nests.values()]
        if self.unreadable:
            raise MustBeStored(*self.unreadable)
        self._share_expensive(touched)
        self._fuse(touched)
        return Schedule(self.kernel, self._phases(), self.buffers, self.products, self.stored, self.ready)

    def _reachable(self, wanted: Sequence[Value]) -> list[Value]:
        """What is computed or loaded, operands before what they are operands of."""

        def operands(value: Value) -> tuple[Value, ...]:
            if value in self.memory:
                return ()
            return value.inputs[:1] if value.op == "dot" else value.inputs[::-1]

        return postorder(reversed(wanted), operands)

    def _ready(self, value: Value) -> int:
        """The level of nests in which a value can be computed or loaded."""
        if value in self.memory or not value.inputs:
            return 0
        if value.op == "dot":
            operand = value.inputs[0]
            return 0 if direct(operand, self.memory) else self.ready[operand] + 1
        base = max(self.ready[operand] for operand in value.inputs)
        return base + 1 if value in self.stored else base

    def _sinks(self) -> dict[Value, list[Sink]]:
        """What has to be stored, and where; notes which of it has a buffer."""
        sinks: dict[Value, list[Sink]] = {}

        def want(value: Value, to: Output | Carry | Sum | Buffer) -> None:
            sinks.setdefault(value, []).append(Sink(to, 0, contiguous(value.row_shape)))

        for i, value in enumerate(self.kernel.outputs):
            want(value, Output(i))
        for i, (_, value) in enumerate(self.kernel.carries):
            want(value, Carry(i))
        for i, value in enumerate(self.kernel.sums):
            want(value, Sum(i))
        for value in self.order:
            if value in self.stored:
                self.buffers[value] = value.row_numel
                if value.op != "dot":
                    want(value, Buffer(value))
            if value in self.products:
                operand = value.inputs[0]
                if not direct(operand, self.memory) and operand not in self.buffers:
                    self.buffers[operand] = operand.row_numel
                    want(operand, Buffer(operand))
        return sinks

    def _parts(self, value: Value, sinks: tuple[Sink, ...]) -> list[Root]:
        """A concatenation is stored part by part, each where it belongs."""
        own = any(sink.to == Buffer(value) for sink in sinks)
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

    def _place(self, root: Root) -> None:
        """Put a root into a nest of its level and features."""
        value = root.value
        buffers = tuple(sink for sink in root.sinks if isinstance(sink.to, Buffer))
        others = tuple(sink for sink in root.sinks if not isinstance(sink.to, Buffer))
        # What is stored is computed a level before it can be read; where it goes besides, it is read from its memory.
        own = any(sink.to == Buffer(value) for sink in buffers)
        level = self.ready[value] - (own and value in self.stored and value.op != "dot")
        if value.op in ("sum", "amax") and value in self.stored and buffers:
            (inside,) = value.inputs
            reduced = tuple(d - (0 <= inside.batch_axis < d) for d in value.axes)
            self._add(Nest(level, *squeezed(inside.row_shape, reduced), [Root(value, buffers)]))
            if others:  # read back from the buffer, one level on
                self._add(Nest(self.ready[value], *squeezed(value.row_shape, ()), [Root(value, others)]))
        else:
            self._add(Nest(level, *squeezed(value.row_shape, ()), [root]))

    def _add(self, nest: Nest) -> None:
        same = self.nests.setdefault((nest.level, nest.domain, nest.reduced), nest)
        if same is not nest:
            same.roots.extend(nest.roots)

    def _touches(self, nest: Nest) -> list[tuple[Value, Index]]:
        """Everything that a nest evaluates, with the index at which it does."""

        def operands(place: tuple[Value, Index]) -> list[tuple[Value, Index]]:
            value, index = place
            if value in self.memory or (value in self.stored and self.ready[value] <= nest.level):
                return []
            try:
                return operands_at(value, index, nest.domain, self.readable)[::-1]
            except MustBeStored as force:
                self.unreadable.update(dict.fromkeys(force.values))
                return []

        return list(preorder([root_index(root, nest) for root in nest.roots], operands))

    def _share_long(self) -> None:
        """Force into memory what nests of many levels would compute again, each from far back.

        A step of many small steps is a long sum, and each of its products would begin it at the beginning.
        """

        def is_long(value: Value, where: set[_Place]) -> bool:
            if len({level for level, _ in where}) <= _FEW:
                return False
            way = preorder([value], lambda v: () if v in self.readable else v.inputs)
            return sum(1 for _ in itertools.islice(way, _LONG + 1)) > _LONG

        self._store(is_long)

    def _share_expensive(self, touched: list[tuple[Nest, list[tuple[Value, Index]]]]) -> None:
        """Force into memory what several nests, or every feature of one, would compute again at a price."""
        levels: dict[Value, set[int]] = {}
        narrow: set[Value] = set()
        for nest, touches in touched:
            count = p.numel(nest.domain)
            for value, _ in touches:
                if value.op in p.EXPENSIVE and value.has_rows and value not in self.readable:
                    levels.setdefault(value, set()).add(nest.level)
                    if value.row_numel < count:
                        narrow.add(value)
        several = {value for value, where in levels.items() if len(where) > 1}
        self._store(lambda v, where: v in narrow and any(count > v.row_numel for _, count in where))
        self._store(lambda v, where: v in several and len({level for level, _ in where}) > 1)
        if narrow or several:
            raise MustBeStored(*(narrow or several))

    def _store(self, is_worth: Callable[[Value, set[_Place]], bool]) -> None:
        """Force into memory what is worth that, where nests compute it; what it is made of is then computed once.

        Raises:
            MustBeStored: there is something.
        """
        where: dict[Value, set[_Place]] = {value: set() for value in self.order}
        for value in (*self.kernel.outputs, *(new for _, new in self.kernel.carries), *self.kernel.sums):
            where[value].add((self.ready[value], value.row_numel))
        found = []
        for value in reversed(self.order):
            places = where[value]
            if value in self.readable or not value.has_rows:
                places = {(self.ready[value] - 1, value.inputs[0].row_numel)} if value in self.stored else set()
            elif is_worth(value, places):
                found.append(value)
                places = {(self.ready[value], value.row_numel)}
            if value in self.products:
                (operand, _) = value.inputs
                places = {(self.ready[operand], operand.row_numel)}
            for operand in value.inputs[: 1 if value.op == "dot" else None]:
                if operand in where and len(where[operand]) <= 2 * _FEW:
                    where[operand] |= places
        if found:
            raise MustBeStored(*found)

    def _fuse(self, touched: list[tuple[Nest, list[tuple[Value, Index]]]]) -> None:
        """Fuse products into the nests that alone read them."""
        readers: dict[Value, list[tuple[Nest, Index]]] = {}
        for nest, touches in touched:
            for value, index in touches:
                if value in self.products:
                    readers.setdefault(value, []).append((nest, index))
        operands = {product.inputs[0] for product in self.products}
        for product, reads in readers.items():
            nest = reads[0][0]
            same = all(other is nest for other, _ in reads)
            fits = len(nest.domain) == 1 and not nest.reduced and nest.level == self.ready[product]
            if not same or not fits or product in operands:
                continue
            features = {flat(index, product.shape, 1) for _, index in reads}
            if all(f[1] == 1 for f in features) and len(features) <= _MOST_SLOTS:
                self.products[product] = Fused(product, tuple(sorted(f[0] for f in features)))
                nest.fused.append(self.products[product])
                del self.buffers[product]

    def _phases(self) -> list[Value | Nest]:
        """Products and nests in order; of a level first the products, and nests with products before those without."""
        phases: list[Value | Nest] = []
        for level in sorted({nest.level for nest in self.nests.values()} | {self.ready[v] for v in self.products}):
            phases.extend(v for v in self.products if self.ready[v] == level and v in self.buffers)
            here = [nest for nest in self.nests.values() if nest.level == level]
            here.sort(key=lambda nest: not nest.fused)
            phases.extend(here)
        return phases
