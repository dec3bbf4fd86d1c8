"""The product of a tile: some rows of the left operand against one packed panel, with all sums in registers.

Tiles know no sizes but their own, so that kernels share them: they are modules of their own, made once on a machine.
"""

from collections.abc import Callable, Sequence

from llvmlite import ir

from treadle.engines.cpu.lower.packing import rows_of_tile
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.cursor import I32, I64, POINTER, VOID, Cursor
from treadle.engines.passes.precision import Operands, Precision

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
    return [name(precision, rows, vectors) for rows in range(1, rows_of_tile(vectors, target) + 1)]


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
        self.left_pairs = precision.left is Operands.PAIRS
        self.widens = precision.right is Operands.PAIRS and not self.left_pairs
        """Whether pairs of weights are widened, because the left operand is float32."""
        self.sums = [[cursor.slot() for _ in range(vectors)] for _ in range(rows)]

    def write(self) -> None:
        c, b = self.cursor, self.cursor.b
        for row in self.sums:
            for total in row:
                b.store(c.zeros, total)
        unroll = 4 if self.rows * self.vectors <= 8 else 1
        # Two of K at a time where the weights come in pairs; of an odd K, the last pair has one half.
        count = b.sdiv(self.depth, c.const(2)) if self.widens else self.depth
        if self.left_pairs:
            count = b.sdiv(b.add(self.depth, c.const(1)), c.const(2))
        whole = b.sub(count, b.srem(count, c.const(unroll))) if unroll > 1 else count
        with c.loop(0, whole, unroll) as k:
            for u in range(unroll):
                self._add(b.add(k, c.const(u)))
        if unroll > 1:
            with c.loop(whole, count) as k:
                self._add(k)
        if self.widens:
            with b.if_then(b.icmp_signed("!=", b.srem(self.depth, c.const(2)), c.const(0))):
                self._add(count, (False,))
        for i, row in enumerate(self.sums):
            for v, total in enumerate(row):
                place = b.add(b.mul(self.out_stride, c.const(i)), c.const(v * c.lanes))
                c.store(c.load_slot(total), c.at(self.out, place), c.lanes)

    def _add(self, k: ir.Value, halves: tuple[bool, ...] = (False, True)) -> None:
        """The products of row ``k`` of the panel: of pairs that are widened, their lower and their upper ones."""
        c, b = self.cursor, self.cursor.b
        start = c.at(self.panel, b.mul(k, c.const(self.vectors * c.lanes)))
        columns = [c.load(c.at(start, c.const(v * c.lanes)), c.lanes) for v in range(self.vectors)]
        for i in range(self.rows):
            row = b.mul(self.a_stride, c.const(i))
            if not self.widens:
                self._add_row(i, b.add(row, k), columns)
                continue
            for upper in halves:
                place = b.add(b.add(row, b.mul(k, c.const(2))), c.const(int(upper)))
                self._add_row(i, place, columns, upper)

    def _add_row(self, i: int, place: ir.Value, columns: list[ir.Value], upper: bool = False) -> None:
        """The products of one number, or one pair, of the left operand."""
        c = self.cursor
        spread = c.splat(c.load_number(c.at(self.a, place)))
        for column, total in zip(columns, self.sums[i], strict=True):
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
        if upper:
            bits = c.b.and_(bits, ir.Constant(words, [0xFFFF0000] * c.lanes))
        else:
            bits = c.b.shl(bits, ir.Constant(words, [16] * c.lanes))
        return c.b.bitcast(bits, c.vector)
