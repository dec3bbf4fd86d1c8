"""Rows of float32 as whole numbers of 24 bits, in digits: what tiles of whole numbers multiply.

A row has one scale, a power of two, by which its largest number has 23 bits and a sign. What is smaller has as many
digits behind it, like the numbers of a fixed point: so much of it is kept as float32 keeps of a sum with the largest.
Its three digits in base 256 have signs and are balanced, as small as they can be.

A row of digits is one vector whose first number is the scale, and then groups of four numbers: the last digit of each
of the four, the one before that, and the first. A row with NaN or infinity, or whose numbers are far too large or too
small, has the scale 0 and stands there as it is.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from treadle.engines.cpu.lower.packing import DIGITS as ROWS_OF_A_WORD
from treadle.engines.cpu.machine.target import Dots
from treadle.engines.cpu.write.cursor import I8, I32, Cursor

_BITS = 22
"""Where the point is: numbers from 1 up to 2 are whole ones of so many bits, and the one before these."""
_CARRIES = 0x18000
"""What is added to a largest number as bits: one just below a power of two counts as that, or digits would overflow."""
_SIGN, _MANTISSA, _BIAS = 31, 23, 127
_USUAL = range(64, 191)
"""Exponents, with their bias, of rows that are made digits."""
DIGITS = 3
"""How many there are of a number, a byte each."""


def write_digits(cursor: Cursor, source: ir.Value, to: ir.Value, count: int) -> None:
    """Writes how a row of so many numbers becomes digits."""
    _RowDigits(cursor, source, to, count).write()


class _RowDigits:
    def __init__(self, cursor: Cursor, source: ir.Value, to: ir.Value, count: int):
        dots = cursor.target.dots
        assert dots is not None
        self.cursor, self.source, self.to, self.count, self.dots = cursor, source, to, count, dots
        self.words = ir.VectorType(I32, cursor.lanes)
        self.numbers = cursor.at(to, cursor.const(cursor.lanes))

    def write(self) -> None:
        c, b = self.cursor, self.cursor.b
        largest = self._largest()
        exponent = b.lshr(b.add(largest, _word(_CARRIES)), _word(_MANTISSA))
        exponent = b.select(b.icmp_unsigned("==", largest, _word(0)), _word(_BIAS), exponent)
        is_usual = b.icmp_unsigned("<", b.sub(exponent, _word(_USUAL.start)), _word(len(_USUAL)))
        with b.if_else(is_usual, likely=True) as (usual, otherwise):
            with usual:
                scale = b.shl(b.sub(exponent, _word(_BITS)), _word(_MANTISSA))
                b.store(scale, self.to, align=4)
                inverse = b.shl(b.sub(_word(2 * _BIAS + _BITS), exponent), _word(_MANTISSA))
                self._digits(c.splat(b.bitcast(inverse, c.element)))
            with otherwise:
                b.store(_word(0), self.to, align=4)
                c.over(self.count, lambda j, valid: c.store(self._load(j, valid), c.at(self.numbers, j)))

    def _load(self, j: ir.Value, valid: int) -> ir.Value:
        return self.cursor.load(self.cursor.at(self.source, j), valid)

    def _largest(self) -> ir.Value:
        """The largest number of the row, without its sign, as bits: those of infinity and NaN are larger still."""
        c, b = self.cursor, self.cursor.b
        slot = c.slot(self.words)
        b.store(self._filled(0), slot)

        def look(j: ir.Value, valid: int) -> None:
            bits = b.and_(b.bitcast(self._load(j, valid), self.words), self._filled((1 << _SIGN) - 1))
            before = b.load(slot, typ=self.words)
            b.store(b.select(b.icmp_unsigned(">", bits, before), bits, before), slot)

        c.over(self.count, look)
        function = c.declared(f"llvm.vector.reduce.umax.v{c.lanes}i32", I32, self.words)
        return b.call(function, [b.load(slot, typ=self.words)])

    def _digits(self, inverse: ir.Value) -> None:
        c, b = self.cursor, self.cursor.b
        rounded = c.declared(f"llvm.roundeven.{c.suffix}", c.vector, c.vector)

        def split(j: ir.Value, valid: int) -> None:
            whole = b.fptosi(b.call(rounded, [b.fmul(self._load(j, valid), inverse)]), self.words)
            to = b.gep(self.numbers, [b.mul(j, c.const(DIGITS))], source_etype=I8)
            b.store(self._in_groups(self._split(whole)), to, align=4)

        c.over(self.count, split)

    def _split(self, whole: Any) -> Sequence[Any]:
        """The digits of numbers, the last ones first: without signs, 128 more than they are, if that is wanted."""
        b, bytes_of = self.cursor.b, ir.VectorType(I8, self.cursor.lanes)
        above = b.add(whole, self._filled(0x808080))
        digits = [b.trunc(b.lshr(above, self._filled(8 * place)), bytes_of) for place in range(DIGITS)]
        if self.dots is Dots.UNSIGNED:
            return digits
        return [b.xor(digit, ir.Constant(bytes_of, [-128] * self.cursor.lanes)) for digit in digits]

    def _in_groups(self, digits: Sequence[Any]) -> ir.Value:
        """Words of four numbers' digits: of each four the last ones, those before, and the first."""
        b, groups = self.cursor.b, self.cursor.lanes // ROWS_OF_A_WORD
        last, middle, first = (b.bitcast(digit, ir.VectorType(I32, groups)) for digit in digits)
        both = b.shuffle_vector(last, middle, _places(range(2 * groups)))
        as_wide = b.shuffle_vector(first, ir.Constant(first.type, ir.Undefined), _places([*range(groups)] * 2))
        order = [digit * groups + group for group in range(groups) for digit in range(DIGITS)]
        return b.shuffle_vector(both, as_wide, _places(order))

    def _filled(self, number: int) -> ir.Constant:
        return ir.Constant(self.words, [number] * self.cursor.lanes)


def _places(order: Sequence[int]) -> ir.Constant:
    """Which numbers of its operands a shuffle takes."""
    return ir.Constant(ir.VectorType(I32, len(order)), list(order))


def _word(number: int) -> ir.Constant:
    return ir.Constant(I32, number)
