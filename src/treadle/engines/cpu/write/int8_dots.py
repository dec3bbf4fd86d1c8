"""The product of a tile with a panel of int8 as whole numbers: four weights of a column in each word of 32 bits.

The left operand is whole numbers, too, in digits (see ``row_digits.py``). A digit of four numbers is multiplied with
four weights and added to a sum of 32 bits by one instruction, exactly; what the sums of all digits are worth is a float
in the end. So the order of sums is of no account, and a row has the same result in every tile.

Where an instruction wants one side without signs, that is the digits: 128 is added to each, and sums begin with -128
times the column's sum of weights, which is packed behind the factors. A row that has no digits is multiplied as floats,
as NaN and infinity want it.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from treadle.engines.cpu.lower.packing import DIGITS as ROWS_OF_A_WORD
from treadle.engines.cpu.lower.packing import INT8_ROWS
from treadle.engines.cpu.machine.target import Dots, Target
from treadle.engines.cpu.write.cursor import I8, I32, I64, POINTER, Cursor
from treadle.engines.cpu.write.row_digits import DIGITS
from treadle.engines.cpu.write.tile import elsewhere, written

_SUMS = {16: 12, 32: 24}
"""By how many registers there are, how many of them may hold sums."""


def int8_dots(cursor: Cursor, rows: int, vectors: int) -> ir.Function:
    """The function ``tile(a, a stride, panel, depth, out, out stride)``, which is another module's.

    ``a`` are rows of digits.
    """
    return elsewhere(cursor, _name(rows, vectors))


def names(vectors: int, target: Target) -> list[str]:
    """What `text` defines: tiles of one row to as many as the registers hold."""
    return [_name(rows, vectors) for rows in range(1, INT8_ROWS[target.registers] + 1)]


def text(vectors: int, target: Target) -> str:
    """The module of the tiles of so many vectors."""
    cursor = Cursor(target, 4)
    floats = _floats(cursor, vectors)
    return written(
        cursor,
        names(vectors, target),
        lambda rows, arguments: _DotTile(cursor, rows, vectors, arguments).write(floats),
    )


def _name(rows: int, vectors: int) -> str:
    return f"tile{rows}x{vectors}ofdots"


class _DotTile:
    """Writes the body of a tile's function.

    Of many rows, it takes fewer vectors of a panel's row at a time, so that all sums are in registers.
    """

    def __init__(self, cursor: Cursor, rows: int, vectors: int, arguments: Sequence[ir.Value]):
        c, b = cursor, cursor.b
        self.cursor, self.vectors = cursor, vectors
        self.words = ir.VectorType(I32, c.lanes)
        a, a_stride, self.panel, self.depth, out, out_stride = arguments
        self.scales = [c.at(a, b.mul(a_stride, c.const(i))) for i in range(rows)]
        """Of each row, where its scale is; one vector further on, its digits."""
        self.results = [c.at(out, b.mul(out_stride, c.const(i))) for i in range(rows)]
        self.panel_end = _PanelEnd(c, self.panel, self.depth, vectors)
        self.factors = [(i, digit) for i in range(rows) for digit in range(DIGITS)]
        """The digits of all rows, which are multiplied with the same weights."""

    def write(self, floats: ir.Function) -> None:
        c, b = self.cursor, self.cursor.b
        at_once = max(1, _SUMS[c.target.registers] // len(self.factors))
        for first in range(0, self.vectors, at_once):
            self._some(range(first, min(first + at_once, self.vectors)))
        for scale, result in zip(self.scales, self.results, strict=True):
            has_none = b.icmp_unsigned("==", b.load(scale, typ=I32, align=4), ir.Constant(I32, 0))
            with b.if_then(has_none, likely=False):
                b.call(floats, [c.at(scale, c.const(c.lanes)), self.panel, self.depth, result])

    def _some(self, vectors: range) -> None:
        """All of K for some vectors of each row of the panel."""
        c, b = self.cursor, self.cursor.b
        sums = {(key, v): c.slot(self.words) for key in self.factors for v in vectors}
        for (_, v), total in sums.items():
            of_column = self._load_words(self.panel_end.begin, v) if c.target.dots is Dots.UNSIGNED else None
            b.store(of_column or ir.Constant(self.words, [0] * c.lanes), total)
        with c.loop(0, self.panel_end.groups) as g:
            self._group(g, vectors, sums)
        for i, (scale, result) in enumerate(zip(self.scales, self.results, strict=True)):
            every = c.splat(c.load_number(scale))
            for v in vectors:
                place = c.const(v * c.lanes)
                value = self._value([sums[(i, digit), v] for digit in range(DIGITS)])
                value = b.fmul(b.fmul(value, every), c.load(c.at(self.panel_end.factors, place)))
                c.store(value, c.at(result, place))

    def _group(self, g: ir.Value, vectors: range, sums: Any) -> None:
        """Four rows of the panel: what there is less of stays in registers, and the other is read one by one."""
        c = self.cursor
        panel = c.at(self.panel, c.b.mul(g, c.const(self.vectors * c.lanes)))
        if len(vectors) <= len(self.factors):
            weights = {v: self._load_words(panel, v) for v in vectors}
            for key in self.factors:
                numbers = self._numbers(key, g)
                for v in vectors:
                    self._add(sums[key, v], numbers, weights[v])
        else:
            spread = {key: self._numbers(key, g) for key in self.factors}
            for v in vectors:
                column = self._load_words(panel, v)
                for key in self.factors:
                    self._add(sums[key, v], spread[key], column)

    def _value(self, sums: Sequence[ir.Value]) -> ir.Value:
        """What the sums of all digits are worth together, as a float."""
        c, b = self.cursor, self.cursor.b
        *lower, value = [b.sitofp(b.load(total, typ=self.words), c.vector) for total in sums]
        for digit in reversed(lower):
            value = c.multiply_add(value, c.filled(256), digit)
        return value

    def _load_words(self, address: ir.Value, v: int) -> ir.Value:
        c = self.cursor
        return c.b.load(c.at(address, c.const(v * c.lanes)), typ=self.words, align=4)

    def _numbers(self, key: tuple[int, int], g: ir.Value) -> ir.Value:
        """A digit of four numbers of a row, in all lanes."""
        c, b, (i, digit) = self.cursor, self.cursor.b, key
        group = c.at(self.scales[i], b.mul(g, c.const(DIGITS)))
        return c.splat(b.load(c.at(group, c.const(c.lanes + digit)), typ=I32, align=4))

    def _add(self, total: Any, digits: ir.Value, weights: ir.Value) -> None:
        """Add the products of four digits and four weights to each lane."""
        c, b = self.cursor, self.cursor.b
        before = b.load(total, typ=self.words)
        if c.target.dots is Dots.UNSIGNED:
            function = c.declared(f"llvm.x86.avx512.vpdpbusd.{32 * c.lanes}", *[self.words] * 4)
            found = b.call(function, [before, digits, weights])
        else:
            four = ir.VectorType(I8, 4 * c.lanes)
            function = c.declared("llvm.aarch64.neon.sdot.v4i32.v16i8", self.words, self.words, four, four)
            found = b.call(function, [before, b.bitcast(digits, four), b.bitcast(weights, four)])
        b.store(found, total)


class _PanelEnd:
    """How many groups of four rows a panel has, and where the factors are behind these, and what sums begin with."""

    def __init__(self, c: Cursor, panel: ir.Value, depth: ir.Value, vectors: int):
        width = c.const(vectors * c.lanes)
        self.groups = c.b.sdiv(c.b.add(depth, c.const(ROWS_OF_A_WORD - 1)), c.const(ROWS_OF_A_WORD))
        self.factors = c.at(panel, c.b.mul(self.groups, width))
        self.begin = c.at(self.factors, width)


def _floats(c: Cursor, vectors: int) -> ir.Function:
    """The function ``floats(x, panel, depth, out)``: a row as it is, by weights that become floats, factors and all."""
    function = c.function(f"floats{vectors}", POINTER, POINTER, I64, POINTER, internal=True)
    function.attributes.add("noinline")
    x, panel, depth, out = function.args
    words = ir.VectorType(I32, c.lanes)
    with c.inside(function):
        b, end = c.b, _PanelEnd(c, panel, depth, vectors)
        front = ir.Constant(words, [24] * c.lanes)
        for v in range(vectors):
            total, column = c.slot(), c.const(v * c.lanes)
            b.store(c.zeros, total)
            factors = c.load(c.at(end.factors, column))
            with c.loop(0, end.groups) as g:
                place = b.add(b.mul(g, c.const(vectors * c.lanes)), column)
                four = b.load(c.at(panel, place), typ=words, align=4)
                for k in range(ROWS_OF_A_WORD):
                    number = c.load_number(c.at(x, b.add(b.mul(g, c.const(ROWS_OF_A_WORD)), c.const(k))))
                    shifted = b.shl(four, ir.Constant(words, [24 - 8 * k] * c.lanes))
                    weight = b.fmul(b.sitofp(b.ashr(shifted, front), c.vector), factors)
                    b.store(c.multiply_add(c.splat(number), weight, c.load_slot(total)), total)
            c.store(c.load_slot(total), c.at(out, column))
    return function
