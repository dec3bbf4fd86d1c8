"""Sums over all rows and steps: those of late, which are added to those of all before from time to time."""

from llvmlite import ir

from treadle.engines.cpu.write.cursor import Cursor
from treadle.engines.cpu.write.sharing import Sharing


class Sums:
    """Writes what becomes of a thread's own sums.

    Each number is added to one not much larger than itself, and a long sequence costs no precision.
    """

    def __init__(self, cursor: Cursor, sharing: Sharing):
        self.cursor, self.sharing, self.size = cursor, sharing, sharing.lowered.scratch.sums_size

    def clear(self, own: ir.Value) -> None:
        """Begin with zeros, those of all before too."""
        self.cursor.fill(own, 2 * self.size)

    def flush_after(self, done: ir.Value, every: int) -> None:
        """Flush where what is done is a multiple of that."""
        c = self.cursor
        if self.size:
            rest = c.b.srem(done, c.const(every))
            with c.b.if_then(c.b.icmp_signed("==", rest, c.const(0)), likely=False):
                self.flush()

    def flush(self) -> None:
        """Add the sums of late to those of all before, and begin new ones."""
        c, own = self.cursor, self.sharing.own

        def move(j: ir.Value, valid: int) -> None:
            recent, total = c.at(own, j), c.at(own, c.b.add(j, c.const(self.size)))
            c.store(c.b.fadd(c.load(total, valid), c.load(recent, valid)), total, valid)
            c.store(c.zeros, recent, valid)

        c.over(self.size, move)
