"""The product of a tile: some rows of the left operand against one packed panel, with all sums in registers.

Tiles know no sizes but their own, so that kernels share them: they are modules of their own, made once on a machine.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from treadle.engines.cpu.lower.packing import by_columns, rows_of_tile, together, vectors_at_once
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.cursor import I32, I64, POINTER, VOID, Cursor
from treadle.engines.cpu.write.vector import Same
from treadle.engines.passes.precision import Operands, Precision

_Numbers: TypeAlias = Callable[[int, ir.Value, int, bool], ir.Value]
"""What gives the number of a row, for a row of the panel, which is the n-th of a turn, and which half of that."""

ARGUMENTS = POINTER, I64, POINTER, I64, POINTER, I64
"""Left operand and its stride, panel, depth, result and its stride. Who changes what they mean gives tiles new names:
kernels in the cache call them by these."""


def kind(precision: Precision) -> str:
    """What tells tiles of one precision from those of another; weights that are rounded lie there like others."""
    if precision.left is Operands.PAIRS:
        return "pairs"
    return ("widened" if precision.right is Operands.PAIRS else "") + str(precision.dtype.itemsize)


def name(precision: Precision, rows: int, vectors: int) -> str:
    """The name of the function for so many rows and vectors of a panel."""
    return f"tile{rows}x{vectors}of{kind(precision)}"


def tile(cursor: Cursor, precision: Precision, rows: int, vectors: int) -> ir.Function:
    """The function ``tile(a, a stride, panel, depth, out, out stride)``, which is another module's."""
    return elsewhere(cursor, name(precision, rows, vectors))


def elsewhere(cursor: Cursor, name: str) -> ir.Function:
    """A tile of that name, whose code is in another module."""
    function = cursor.module.globals.get(name)
    if function is None:
        function = ir.Function(cursor.module, ir.FunctionType(VOID, ARGUMENTS), name)
        function.attributes.add("nounwind")
    return function


def names(precision: Precision, vectors: int, target: Target) -> list[str]:
    """What `text` defines: tiles of one row to as many as the registers hold."""
    return [name(precision, rows, vectors) for rows in range(1, rows_of_tile(vectors, precision, target) + 1)]


def text(precision: Precision, vectors: int, target: Target) -> str:
    """The module of the tiles of so many vectors."""
    cursor = Cursor(target, precision.dtype.itemsize)
    return written(
        cursor,
        names(precision, vectors, target),
        lambda rows, arguments: _Tile(cursor, precision, rows, vectors, arguments).write(),
    )


def written(cursor: Cursor, names: Sequence[str], write: Callable[[int, Sequence[ir.Value]], None]) -> str:
    """A module of tiles of one row, two, and so on: ``write(rows, arguments)`` writes the body of each."""
    for i, name in enumerate(names):
        function = cursor.function(name, *ARGUMENTS)
        with cursor.inside(function):
            write(i + 1, function.args)
    return str(cursor.module)


class _Tile:
    """Writes the body of a tile's function."""

    def __init__(self, cursor: Cursor, precision: Precision, rows: int, vectors: int, arguments: Sequence[ir.Value]):
        self.cursor, self.rows, self.vectors = cursor, rows, vectors
        self.a, self.a_stride, self.panel, self.depth, self.out, self.out_stride = arguments
        self.left_pairs, self.right_pairs = (side is Operands.PAIRS for side in (precision.left, precision.right))
        self.widens = precision.widens
        self.of_a_row = 2 if self.widens else 1
        """How many numbers of the left operand a row of the panel is multiplied with."""
        self.by_lane = cursor.target.multiplies_by_lane and not self.left_pairs
        self.together = together(vectors, cursor.target)
        self.width = vectors_at_once(rows, vectors, precision, cursor.target)
        self.by_columns = by_columns(self.width, cursor.target)
        self.sums = [[cursor.slot() for _ in range(self.width)] for _ in range(rows)]

    def write(self) -> None:
        c = self.cursor
        panel, out = self.panel, self.out
        for first in range(0, self.vectors, self.width):
            self.panel, self.out = self._further(panel, first), c.at(out, c.const(first * c.lanes))
            self._part()

    def _further(self, panel: ir.Value, vectors: int) -> ir.Value:
        """Where a vector of the panel's first row is."""
        c, b = self.cursor, self.cursor.b
        parts, rest = divmod(vectors, self.together)
        if parts:
            rows = b.sdiv(b.add(self.depth, c.const(1)), c.const(2)) if self.right_pairs else self.depth
            panel = c.at(panel, b.mul(rows, c.const(parts * self.together * c.lanes)))
        return c.at(panel, c.const(rest * c.lanes))

    def _part(self) -> None:
        """As many vectors of the panel as there are sums for."""
        c, b = self.cursor, self.cursor.b
        for row in self.sums:
            for total in row:
                b.store(c.zeros, total)
        at_once = self._at_once()
        # Two of K at a time where the weights come in pairs; of an odd K, the last pair has one half.
        count = b.sdiv(self.depth, c.const(2)) if self.widens else self.depth
        if self.left_pairs:
            count = b.sdiv(b.add(self.depth, c.const(1)), c.const(2))
        whole = b.sub(count, b.srem(count, c.const(at_once))) if at_once > 1 else count
        with c.loop(0, whole, at_once) as k:
            numbers = self._vectors_of_left(k) if self.by_lane else self._numbers
            for u in range(at_once):
                self._add(b.add(k, c.const(u)), u, numbers)
        if at_once > 1:
            with c.loop(whole, count) as k:
                self._add(k, 0, self._numbers)
        if self.widens:
            with b.if_then(b.icmp_signed("!=", b.srem(self.depth, c.const(2)), c.const(0))):
                self._add(count, 0, self._numbers, (False,))
        for i, row in enumerate(self.sums):
            for v, total in enumerate(row):
                place = b.add(b.mul(self.out_stride, c.const(i)), c.const(v * c.lanes))
                c.store(c.load_slot(total), c.at(self.out, place), c.lanes)

    def _at_once(self) -> int:
        """How many rows of the panel one turn of the loop takes."""
        if self.by_lane:
            return 1 if self.widens else self.cursor.lanes
        return 4 if self.rows * self.width <= 8 else self.cursor.target.at_once

    def _add(self, k: ir.Value, u: int, numbers: _Numbers, halves: tuple[bool, ...] = (False, True)) -> None:
        """The products of row ``k`` of the panel, ``u`` of this turn; of pairs that are widened, lower and upper."""
        c, b = self.cursor, self.cursor.b
        row = b.mul(k, c.const(self.together * c.lanes))
        places = [c.at(self._further(self.panel, v), row) for v in range(self.width)]
        halves = halves if self.widens else (False,)
        if not self.by_columns:
            columns = [c.load(place, c.lanes) for place in places]
            for i in range(self.rows):
                for upper in halves:
                    spread = numbers(i, k, u, upper)
                    for v, column in enumerate(columns):
                        self._add_product(self.sums[i][v], spread, column, upper)
            return
        spread_numbers = [[(upper, numbers(i, k, u, upper)) for upper in halves] for i in range(self.rows)]
        for v, place in enumerate(places):
            column = c.load(place, c.lanes)
            for i, several in enumerate(spread_numbers):
                for upper, spread in several:
                    self._add_product(self.sums[i][v], spread, column, upper)

    def _place(self, i: int, k: ir.Value, upper: bool = False) -> ir.Value:
        """Where in the left operand the number of row ``i`` is that row ``k`` of the panel is multiplied with."""
        c, b = self.cursor, self.cursor.b
        row = b.mul(self.a_stride, c.const(i))
        if self.widens:
            return b.add(b.add(row, b.mul(k, c.const(2))), c.const(int(upper)))
        return b.add(row, k)

    def _numbers(self, i: int, k: ir.Value, u: int, upper: bool) -> ir.Value:
        """One number of the left operand, or one pair, in all lanes."""
        return self.cursor.splat(self.cursor.load_number(self.cursor.at(self.a, self._place(i, k, upper))))

    def _vectors_of_left(self, k: ir.Value) -> _Numbers:
        """The same of all of one turn, of which each row is read as one vector."""
        c, b = self.cursor, self.cursor.b
        kind = ir.VectorType(c.element, self._at_once() * self.of_a_row)
        places = [c.at(self.a, self._place(i, k)) for i in range(self.rows)]
        vectors = [b.load(place, typ=kind, align=c.bytes) for place in places]

        def numbers(i: int, k: ir.Value, u: int, upper: bool) -> ir.Value:
            lane = u * self.of_a_row + int(upper)
            return b.shuffle_vector(vectors[i], Same(kind), Same(ir.VectorType(I32, c.lanes), lane))

        return numbers

    def _add_product(self, total: ir.Value, spread: ir.Value, column: ir.Value, upper: bool) -> None:
        """The product of one number, or one pair, of the left operand and a vector of the panel."""
        c = self.cursor
        old = c.load_slot(total)
        if self.left_pairs:
            new = c.multiply_pairs(spread, column, old)
        else:
            new = c.multiply_add(spread, self._widened(column, upper) if self.widens else column, old)
        c.b.store(new, total)

    def _widened(self, pairs: ir.Value, upper: bool) -> ir.Value:
        """One half of each pair of bfloat16, as float32: its bits are the upper ones of the float."""
        c, words = self.cursor, ir.VectorType(I32, self.cursor.lanes)
        bits = c.b.bitcast(pairs, words)
        bits = c.b.and_(bits, Same(words, 0xFFFF0000)) if upper else c.b.shl(bits, Same(words, 16))
        return c.b.bitcast(bits, c.vector)
