"""One step of a few rows by threads that share out columns: each computes some panels of every product.

Rows cannot be shared out where there is one. But what a few rows wait for are the weights, which come from a far cache,
and two cores read twice as fast as one. So each thread has panels of every matrix, always the same ones, which then lie
in its own core's cache; between phases the threads wait for each other.

``phase(arguments, number, first, last, scratch, own)`` computes some panels of one phase, all rows. ``scratch`` is
memory for all threads, ``own`` for one. The last phase takes the states from the scratch to where they end up.
"""

import dataclasses
import functools

from llvmlite import ir

from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.write.addresses import Step, Table
from treadle.engines.cpu.write.cursor import I64, POINTER, Cursor
from treadle.engines.cpu.write.sharing import Panels, Sharing, some_panels
from treadle.engines.cpu.write.steps import Phases


@dataclasses.dataclass(eq=False)
class _ByColumns(Sharing):
    """States are read where they start."""

    first_panel: ir.Value
    last_panel: ir.Value

    states_outside = True

    def state_size(self, i: int) -> int:
        return self.lowered.kernel.carries[i][0].row_numel

    def panels(self, count: int) -> Panels:
        return functools.partial(some_panels, self.cursor, self.first_panel, self.last_panel)


def text(lowered: Lowered) -> str:
    """The module."""
    c = Cursor(lowered.target, lowered.kernel.precision.dtype.itemsize)
    function = c.function("phase", POINTER, I64, I64, I64, POINTER, POINTER)
    arguments, number, first, last, scratch, own = function.args
    places = lowered.places
    with c.inside(function):
        table = Table(c, arguments)
        rows = table.word(places.capacity)
        phases = Phases(table, _ByColumns(c, lowered, c.const(0), rows, scratch, own, first, last))
        before = [table.pointer(place) for place in places.carries]
        after = []
        for _, written in lowered.scratch.carries:
            begin = c.entry.mul(rows, c.const(written.start))
            after.append(c.entry.gep(scratch, [begin], source_etype=c.element))
        step = Step(c.const(0), rows, before, after)
        end = function.append_basic_block("end")
        switch = c.b.switch(number, end)
        for n, phase in enumerate([*lowered.schedule.grouped, None]):
            block = function.append_basic_block(f"phase{n}")
            switch.add_case(c.const(n), block)
            c.b.position_at_end(block)
            if phase is not None:
                phases.some([phase], step)
            else:
                phases.copy_states(after, c.const(0), rows, load=False)
            c.b.branch(end)
        c.b.position_at_end(end)
    return str(c.module)
