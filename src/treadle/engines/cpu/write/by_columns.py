"""One step of a few rows by threads that share out columns: each computes some panels of every product.

Rows cannot be shared out where there is one. But what a few rows wait for are the weights, which come from a far cache,
and two cores read twice as fast as one. So each thread has panels of every matrix, always the same ones, which then lie
in its own core's cache; between phases the threads wait for each other.

``phase(arguments, number, first, last, scratch, own)`` computes some panels of one phase, all rows. ``scratch`` is
memory for all threads, ``own`` for one. The last phase takes the states from the scratch to where they end up. Rows
whose states lie anywhere (see ``by_index.py``) have a phase more, number -1, which takes these into the scratch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from llvmlite import ir

from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.write.addresses import Step, Table
from treadle.engines.cpu.write.by_index import Behind, ByIndex
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


@dataclasses.dataclass(eq=False)
class _ByColumnsAndIndex(ByIndex):
    """States are gathered into the scratch, and scattered from there."""

    first_panel: ir.Value
    last_panel: ir.Value

    def behind_own(self, offset: ir.Value, capacity: ir.Value) -> ir.Value:
        return offset

    def panels(self, count: int) -> Panels:
        return functools.partial(some_panels, self.cursor, self.first_panel, self.last_panel)


GATHER = -1
"""The phase that takes states into the scratch."""


def text(lowered: Lowered) -> str:
    """The module."""
    c, function = _phase(lowered)
    arguments, number, first, last, scratch, own = function.args
    with c.inside(function):
        table = Table(c, arguments)
        rows = table.word(lowered.places.capacity)
        phases = Phases(table, _ByColumns(c, lowered, c.const(0), rows, scratch, own, first, last))
        before = [table.pointer(place) for place in lowered.places.carries]
        _write(phases, Step(c.const(0), rows, before, _blocks(phases, 1)), number)
    return str(c.module)


def text_by_index(lowered: Lowered) -> str:
    """The module for rows whose states are found by an index."""
    c, function = _phase(lowered)
    arguments, number, first, last, scratch, own = function.args
    with c.inside(function):
        table = Table(c, arguments)
        rows, index = Behind.words(table, lowered)
        phases = Phases(table, _ByColumnsAndIndex(c, lowered, c.const(0), rows, scratch, own, index, first, last))
        step = Step(c.const(0), rows, _blocks(phases, 0), _blocks(phases, 1))
        _write(phases, step, number, gathers=True)
    return str(c.module)


def _phase(lowered: Lowered) -> tuple[Cursor, ir.Function]:
    c = Cursor(lowered.target, lowered.kernel.precision.dtype.itemsize)
    return c, c.function("phase", POINTER, I64, I64, I64, POINTER, POINTER)


def _blocks(phases: Phases, which: int) -> list[ir.Value]:
    """Where the rows of each state begin in the scratch: those before a step (0) or after it (1)."""
    zero = phases.cursor.const(0)
    return [phases.addresses.in_scratch(both[which], zero) for both in phases.lowered.scratch.carries]


def _write(phases: Phases, step: Step, number: ir.Value, gathers: bool = False) -> None:
    """The phase of that number."""
    c, grouped = phases.cursor, phases.lowered.schedule.grouped

    def copies(states: Sequence[ir.Value], load: bool) -> Callable[[], None]:
        return lambda: phases.copy_states(states, c.const(0), step.count, load)

    cases: dict[int, Callable[[], None]] = {
        n: functools.partial(phases.some, [phase], step) for n, phase in enumerate(grouped)
    }
    cases[len(grouped)] = copies(step.after, load=False)
    if gathers:
        cases[GATHER] = copies(step.before, load=True)
    end = c.b.append_basic_block("end")
    switch = c.b.switch(number, end)
    for n, write in cases.items():
        block = c.b.append_basic_block("phase")
        switch.add_case(c.const(n), block)
        c.b.position_at_end(block)
        write()
        c.b.branch(end)
    c.b.position_at_end(end)
