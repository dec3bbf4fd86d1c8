"""The product of a tile with a panel of int8: four weights come in one word of 32 bits, and leave as four floats.

To widen a byte and to convert it takes more time than to multiply it. So the numbers of four vectors are the digits of
one word, in base 256 and with signs: ``d0 256³ + d1 256² + d2 256 + d3``. Shifted left by i digits, a word is di 256³
and what comes after, which is a float after one conversion. Its sums are those of di, and 1/256 of what comes after:
of that they are freed once, at the end, by the sums of the digit after it. A digit that is not first is thus in two or
more sums, but nowhere twice in a result, and all is as exact as a float.
"""

from collections.abc import Sequence

from llvmlite import ir

from treadle.engines.cpu.lower.packing import DIGITS, INT8_ROWS
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.cursor import I32, Cursor
from treadle.engines.cpu.write.tile import elsewhere, written
from treadle.engines.cpu.write.vector import Same

_FIRST_DIGIT = 256.0**3
_SUMS = {16: 12, 32: 24}
"""By how many registers there are, how many of them may hold sums."""
_READ_AHEAD = 4
"""How many fewer on Arm, where LLVM reads weights long before they are multiplied."""


def int8_tile(cursor: Cursor, rows: int, vectors: int) -> ir.Function:
    """The function ``tile(a, a stride, panel, depth, out, out stride)``, which is another module's."""
    return elsewhere(cursor, _name(rows, vectors))


def names(vectors: int, target: Target) -> list[str]:
    """What `text` defines: tiles of one row to as many as the registers hold."""
    return [_name(rows, vectors) for rows in range(1, INT8_ROWS[target.registers] + 1)]


def text(vectors: int, target: Target) -> str:
    """The module of the tiles of so many vectors."""
    cursor = Cursor(target, 4)
    return written(
        cursor,
        names(vectors, target),
        lambda rows, arguments: _Int8Tile(cursor, rows, vectors, arguments).write(),
    )


def _name(rows: int, vectors: int) -> str:
    return f"tile{rows}x{vectors}ofint8"


class _Int8Tile:
    """Writes the body of a tile's function.

    Of many rows, it takes fewer words of a panel's row at a time, so that all sums are in registers. For each column
    the order of the sum is the same.
    """

    def __init__(self, cursor: Cursor, rows: int, vectors: int, arguments: Sequence[ir.Value]):
        self.cursor, self.rows, self.vectors = cursor, rows, vectors
        self.a, self.a_stride, self.panel, self.depth, self.out, self.out_stride = arguments
        self.words = -(-vectors // DIGITS)
        self.integers = ir.VectorType(I32, cursor.lanes)

    def write(self) -> None:
        sums = _SUMS[self.cursor.target.registers] - (_READ_AHEAD if self.cursor.target.multiplies_by_lane else 0)
        at_once = max(1, sums // (self.rows * DIGITS))
        for first in range(0, self.words, at_once):
            self._some(range(first, min(first + at_once, self.words)))

    def _digits(self, word: int) -> int:
        """How many digits of a word are vectors."""
        return min(DIGITS, self.vectors - word * DIGITS)

    def _some(self, words: range) -> None:
        """All of K for some words of each row of the panel."""
        c, b = self.cursor, self.cursor.b
        sums = {
            (i, word, digit): c.slot()
            for i in range(self.rows)
            for word in words
            for digit in range(self._digits(word))
        }
        for total in sums.values():
            b.store(c.zeros, total)
        with c.loop(0, self.depth) as k:
            spread = [
                c.splat(c.load_number(c.at(self.a, b.add(b.mul(self.a_stride, c.const(i)), k))))
                for i in range(self.rows)
            ]
            for word in words:
                place = b.add(b.mul(k, c.const(self.words)), c.const(word))
                four = b.load(self._word(place), typ=self.integers, align=4)
                for digit in range(self._digits(word)):
                    shifted = b.shl(four, Same(self.integers, 8 * digit)) if digit else four
                    weight = b.sitofp(shifted, c.vector)
                    for i in range(self.rows):
                        total = sums[i, word, digit]
                        b.store(c.multiply_add(spread[i], weight, c.load_slot(total)), total)
        factors = self._word(b.mul(self.depth, c.const(self.words)))
        for (i, word, digit), total in sums.items():
            v = word * DIGITS + digit
            found = c.load_slot(total)
            if (i, word, digit + 1) in sums:
                after = c.load_slot(sums[i, word, digit + 1])
                found = b.fsub(found, b.fmul(after, c.filled(1 / 256)))
            found = b.fmul(b.fmul(found, c.filled(1 / _FIRST_DIGIT)), c.load(c.at(factors, c.const(v * c.lanes))))
            c.store(found, c.at(self.out, b.add(b.mul(self.out_stride, c.const(i)), c.const(v * c.lanes))))

    def _word(self, place: ir.Value) -> ir.Value:
        """Where a vector of words of the panel begins."""
        c = self.cursor
        return c.at(self.panel, c.b.mul(place, c.const(c.lanes)))
