"""Kernels for rows whose states lie anywhere: an index says where each row's are.

``run(arguments, part, parts, scratch)`` takes one of so many parts of the rows through all steps, as in ``by_rows.py``,
as many rows at a time as the scratch has room for. What is computed for a row, and in which order, is the same,
whatever rows are beside it. The table of arguments has two words more: how many rows there are, and the address of the
index, 64-bit integers.
"""

import dataclasses
import enum

from llvmlite import ir

from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.write.addresses import Table
from treadle.engines.cpu.write.by_rows import ByRows
from treadle.engines.cpu.write.cursor import I64, POINTER, Cursor
from treadle.engines.cpu.write.steps import Phases, Steps, Sums


class Behind(enum.IntEnum):
    """What is behind the arguments that every kernel has."""

    ROWS = 0  # how many there are
    INDEX = 1  # where it is

    @classmethod
    def words(cls, table: Table, lowered: Lowered) -> tuple[ir.Value, ir.Value]:
        """Both."""
        behind = len(lowered.places)
        return table.word(behind + cls.ROWS), table.pointer(behind + cls.INDEX)


@dataclasses.dataclass(eq=False)
class ByIndex(ByRows):
    """Rows of states are found by the index at that address."""

    index: ir.Value

    def state_row(self, r: ir.Value) -> ir.Value:
        return self.cursor.load_word(self.index, self.cursor.b.add(self.first, r))


def text(lowered: Lowered) -> str:
    """The module."""
    c = Cursor(lowered.target, lowered.kernel.precision.dtype.itemsize)
    function = c.function("run", POINTER, I64, I64, POINTER)
    arguments, part, parts, scratch = function.args
    with c.inside(function):
        table, b = Table(c, arguments), c.b
        rows, index = Behind.words(table, lowered)
        first, last = (b.sdiv(b.mul(rows, n), parts) for n in (part, b.add(part, c.const(1))))
        capacity = table.word(lowered.places.capacity)
        with c.loop(first, last, capacity) as row:
            end = c.minimum(last, b.add(row, capacity))
            sharing = ByIndex(c, lowered, row, end, scratch, scratch, index)
            Steps(Phases(table, sharing), Sums(sharing)).write()
    return str(c.module)
