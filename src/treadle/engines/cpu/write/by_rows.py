"""Kernels for threads that share out rows: each has rows of its own, and nobody waits for anybody.

``run(arguments, first, last, scratch)`` takes rows ``first`` to ``last`` of the batch through all steps. ``arguments``
is a table of addresses and sizes (`Places`), ``scratch`` is memory for one thread.
"""

from llvmlite import ir

from treadle.engines.cpu.lower.lowered import BLOCK, Lowered
from treadle.engines.cpu.write.addresses import Step, Table
from treadle.engines.cpu.write.cursor import I64, POINTER, Cursor
from treadle.engines.cpu.write.sharing import Sharing
from treadle.engines.cpu.write.steps import Phases, Steps, Sums

FLUSH_ROWS = 32 * BLOCK
"""How many rows are added up, in a kernel without steps, before their sum is added to that of those before."""


class ByRows(Sharing):
    """What is a thread's own comes first in its memory, then blocks of rows."""

    def behind_own(self, offset: ir.Value, capacity: ir.Value) -> ir.Value:
        c, scratch = self.cursor, self.lowered.scratch
        if scratch.digits_per_row:
            offset = c.plus(offset, c.times(capacity, scratch.digits_per_row))
        return c.plus(offset, c.const(scratch.fixed))


def text(lowered: Lowered) -> str:
    """The module."""
    c = Cursor(lowered.target, lowered.kernel.precision.dtype.itemsize)
    function = c.function("run", POINTER, I64, I64, POINTER)
    arguments, first, last, scratch = function.args
    with c.inside(function):
        table = Table(c, arguments)
        sharing = ByRows(c, lowered, first, last, scratch, own=scratch)
        phases, sums = Phases(table, sharing), Sums(sharing)
        sums.clear(sharing.own)
        if lowered.kernel.carries:
            Steps(phases, sums).write()
        else:
            with c.loop(first, last, BLOCK) as row:
                left = c.b.sub(last, row)
                phases.all(Step(row, c.minimum(left, c.const(BLOCK))))
                sums.flush_after(c.b.sub(row, first), FLUSH_ROWS)
        sums.flush()
    return str(c.module)
