"""The phases of a step, one after the other."""

from treadle.compiler.program import Value
from treadle.engines.cpu.lower.loop_nests import Phase
from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.write.addresses import Addresses, Step, Table
from treadle.engines.cpu.write.cursor import Cursor
from treadle.engines.cpu.write.expressions import Expressions
from treadle.engines.cpu.write.pointwise import Pointwise
from treadle.engines.cpu.write.products import Products
from treadle.engines.cpu.write.reductions import Reductions
from treadle.engines.cpu.write.sharing import Sharing, Work

ROWS = 4
"""How many rows go through one nest before the next one begins."""


class Phases:
    """Writes all that is done in one step.

    Args:
        cursor: where.
        lowered: the kernel.
        table: its arguments.
        sharing: what of it is ours.
    """

    def __init__(self, cursor: Cursor, lowered: Lowered, table: Table, sharing: Sharing):
        self.cursor, self.lowered, self.sharing = cursor, lowered, sharing
        self.addresses = Addresses(cursor, lowered, table, sharing)
        expressions = Expressions(cursor, self.addresses)
        self.pointwise = Pointwise(cursor, self.addresses, expressions)
        self.reductions = Reductions(cursor, self.addresses, expressions)
        self.products = Products(cursor, self.addresses, self.pointwise)

    def all(self, step: Step) -> None:
        """All phases; everybody waits after each."""
        for phase in self.lowered.schedule.grouped:
            self.one(phase, step)
            self.sharing.wait()

    def one(self, phase: Phase, step: Step) -> None:
        """One phase."""
        if isinstance(phase, tuple):
            for work in self.sharing.plain(phase, step.count):
                self._plain(work, step)
        elif isinstance(phase, Value):
            self.products.write(phase, step, self.sharing.panels(self.lowered.panels(phase)))
        else:
            self.products.write_fused(phase, step, self.sharing.panels(self.lowered.panels(phase)))

    def _plain(self, work: Work, step: Step) -> None:
        """Nests without products. A nest waits for the one before it, but rows do not wait for each other."""
        c = self.cursor
        with c.loop(work.first, work.last, ROWS) as first:
            end = c.minimum(work.last, c.b.add(first, c.const(ROWS)))
            for nest in work.nests:
                with c.loop(first, end) as r:
                    if nest.reduced:
                        self.reductions.write(nest, r, step)
                    else:
                        self.pointwise.write(nest, r, step, work.over)
