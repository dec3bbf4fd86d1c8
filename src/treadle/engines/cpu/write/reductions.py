"""Nests that reduce features, to their sum or their maximum."""

from collections.abc import Sequence

from llvmlite import ir

from treadle.compiler.program import ELEMENTWISE, Value
from treadle.compiler.walk import preorder
from treadle.engines.cpu.write import vector_functions
from treadle.engines.cpu.write.expressions import Expressions, Row, Spot
from treadle.engines.cpu.write.pointwise import Variables, walk
from treadle.engines.passes.indices import ROW, flat, root_index, variables
from treadle.engines.passes.loop_nests import Buffer, Root

SUMS = 4
"""How many totals a long reduction keeps at most, because one addition after another waits for the one before it."""
_BETWEEN = 16
"""How many operations there are to do meanwhile, twice over."""


class Reduction:
    """Writes a nest that reduces, for one row."""

    def __init__(self, expressions: Expressions, row: Row):
        self.cursor, self.expressions = expressions.cursor, expressions
        self.nest, self.row = row.nest, row
        self.last = len(self.nest.domain) - 1
        self.across = self.last in self.nest.reduced
        """Whether lanes are reduced, too."""

    def write(self) -> None:
        kept = [axis for axis in range(len(self.nest.domain)) if axis not in self.nest.reduced]
        walk(self.cursor, self.nest, kept, self.cursor.over, self._write_at)

    def _write_at(self, kept: Variables, valid: int) -> None:
        """The totals at one place along the axes that stay."""
        c, nest = self.cursor, self.nest
        totals = [c.slot() for _ in nest.roots]
        for root, total in zip(nest.roots, totals, strict=True):
            c.b.store(self._neutral(root.value), total)
        several = self._sums()
        if self.across and len(nest.reduced) == 1 and several > 1 and nest.domain[self.last] >= SUMS * c.lanes:
            self._in_several(several, kept, totals)
        elif self.across:
            walk(c, nest, nest.reduced, c.over, lambda found, lanes: self._add({**kept, **found}, totals, lanes))
        else:
            walk(c, nest, nest.reduced, c.over, lambda found, _: self._add({**kept, **found}, totals, valid))
        spot = self._spot(kept, valid)
        for root, total in zip(nest.roots, totals, strict=True):
            self._store(root, c.load_slot(total), spot)

    def _spot(self, found: Variables, valid: int) -> Spot:
        every = [found.get(axis, self.cursor.const(0)) for axis in range(len(self.nest.domain))]
        return Spot(self.row, every, valid)

    def _sums(self) -> int:
        """How many totals it needs: the fewer, the more there is to do for a vector, and so that no vector is over."""
        plan, nest = self.expressions.plan, self.nest
        roots = [root_index(root, nest)[0] for root in nest.roots]
        met = preorder(roots, lambda value: () if plan.is_loaded(value, nest) else value.inputs)
        work = len(roots) + sum(value.op in ELEMENTWISE and not plan.is_loaded(value, nest) for value in met)
        most = max(1, min(SUMS, _BETWEEN // work))
        vectors = nest.domain[self.last] // self.cursor.lanes
        return next((sums for sums in range(most, 1, -1) if vectors % sums == 0), most)

    def _in_several(self, several: int, kept: Variables, totals: list[ir.Value]) -> None:
        """Several totals at once, which are combined in the end."""
        c, count = self.cursor, self.nest.domain[self.last]
        whole = count - count % (several * c.lanes)
        others = [[c.slot() for _ in totals] for _ in range(several - 1)]
        for root, *rest in zip(self.nest.roots, *others, strict=True):
            for other in rest:
                c.b.store(self._neutral(root.value), other)
        with c.loop(0, whole, several * c.lanes) as j:
            for n, some in enumerate([totals, *others]):
                self._add({**kept, self.last: c.plus(j, c.const(n * c.lanes))}, some, c.lanes)
        for start in range(whole, count, c.lanes):
            self._add({**kept, self.last: c.const(start)}, totals, min(c.lanes, count - start))
        for root, total, *rest in zip(self.nest.roots, totals, *others, strict=True):
            for other in rest:
                parts = [c.load_slot(slot) for slot in (total, other)]
                c.b.store(self._combined(root.value, *parts), total)

    def _add(self, found: Variables, totals: Sequence[ir.Value], valid: int) -> None:
        """Add one vector of every root to its total."""
        c, spot = self.cursor, self._spot(found, valid)
        for root, total in zip(self.nest.roots, totals, strict=True):
            new = self.expressions.number_at(*root_index(root, self.nest), spot)
            if self.across and valid < c.lanes:
                new = c.b.select(c.first(valid), new, self._neutral(root.value))
            c.b.store(self._combined(root.value, c.load_slot(total), new), total)

    def _neutral(self, value: Value) -> ir.Constant:
        return self.cursor.filled(0.0 if value.op == "sum" else float("-inf"))

    def _combined(self, value: Value, old: ir.Value, new: ir.Value) -> ir.Value:
        b = self.cursor.b
        return b.fadd(old, new) if value.op == "sum" else vector_functions.emit(b, "maximum", old, new)

    def _store(self, root: Root, total: ir.Value, spot: Spot) -> None:
        c, nest, (inside, _) = self.cursor, self.nest, root_index(root, self.nest)
        zero = (0,) * (len(nest.domain) + 1)
        # The total lies where the axes that are reduced are 0.
        index = tuple(
            axis if axis is ROW else zero if any(axis[n + 1] for n in nest.reduced) else axis
            for axis in variables(inside.shape)
        )
        for sink in root.sinks:
            assert isinstance(sink.to, Buffer), root
            constant, *coefficients = flat(index, inside.shape, len(nest.domain), sink.strides)
            row = self.expressions.written(sink.to, self.row)
            address = self.expressions.place(row, (constant + sink.offset, *coefficients), spot)
            if self.across:
                c.store_number(self._across(root.value, total), address)
            else:
                c.store(total, address, spot.valid)

    def _across(self, value: Value, total: ir.Value) -> ir.Value:
        c = self.cursor
        if value.op == "sum":
            function = c.declared(f"llvm.vector.reduce.fadd.{c.suffix}", c.element, c.element, c.vector)
            return c.b.call(function, [ir.Constant(c.element, -0.0), total], fastmath=("reassoc",))
        function = c.declared(f"llvm.vector.reduce.fmaximum.{c.suffix}", c.element, c.vector)
        return c.b.call(function, [total])
