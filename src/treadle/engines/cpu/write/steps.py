"""What one step does, all steps of a sequence, and what is summed over them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from treadle.compiler.program import Value
from treadle.engines.cpu.write.addresses import Addresses, Step, Table
from treadle.engines.cpu.write.cursor import I8, I64, POINTER
from treadle.engines.cpu.write.expressions import Expressions, Row
from treadle.engines.cpu.write.pointwise import Pointwise
from treadle.engines.cpu.write.products import Products
from treadle.engines.cpu.write.reductions import Reduction
from treadle.engines.cpu.write.sharing import Sharing, Work
from treadle.engines.passes.loop_nests import Phase

_MANY, _PART = 16, 4
"""Of more phases than so many, so many each are a function."""
ROWS = 4
"""How many rows go through one nest before the next one begins."""
FLUSH_STEPS = 256
"""How many steps are added up before their sum is added to that of those before."""


class Phases:
    """Writes all that is done in one step, as far as it is ours."""

    def __init__(self, table: Table, sharing: Sharing):
        self.cursor, self.lowered, self.sharing = sharing.cursor, sharing.lowered, sharing
        self.addresses = addresses = Addresses(table, sharing)
        self.expressions = Expressions(addresses)
        self.pointwise = Pointwise(self.expressions)
        self.products = Products(addresses, self.pointwise)

    def all(self, step: Step) -> None:
        """All phases; everybody waits after each."""
        phases = self.lowered.schedule.grouped
        for first in range(0, len(phases), _PART):
            self.some(phases[first : first + _PART], step)

    def some(self, phases: Sequence[Phase], step: Step) -> None:
        """Some of the phases, one after another."""
        if len(self.lowered.schedule.grouped) > _MANY:
            self._apart(phases, step)
        else:
            self._in_turn(phases, step)

    def _in_turn(self, phases: Sequence[Phase], step: Step) -> None:
        for phase in phases:
            self._one(phase, step)
            self.sharing.wait()

    def _apart(self, phases: Sequence[Phase], step: Step) -> None:
        """Some phases as a function of their own: what LLVM takes for a function grows faster than the function."""
        c, sharing = self.cursor, self.sharing
        held = {field.name: getattr(sharing, field.name) for field in dataclasses.fields(sharing)}
        held = {n: v for n, v in held.items() if isinstance(v, ir.Value) and not isinstance(v, ir.Constant)}
        given: list[Any] = [
            self.addresses.table.address,
            *held.values(),
            step.first,
            step.count,
            *step.before,
            *step.after,
        ]
        function = c.function(f"part{len(c.module.globals)}", *(value.type for value in given), internal=True)
        function.attributes.add("noinline")
        with c.inside(function):
            table, *values = function.args
            first, count, *states = values[len(held) :]
            moved = dataclasses.replace(sharing, **dict(zip(held, values, strict=False)))
            before, after = states[: len(step.before)], states[len(step.before) :]
            Phases(Table(c, table), moved)._in_turn(phases, Step(first, count, before, after))
        c.b.call(function, given)

    def _one(self, phase: Phase, step: Step) -> None:
        if isinstance(phase, tuple):
            for work in self.sharing.plain(phase, step.count):
                self._plain(work, step)
        elif isinstance(phase, Value):
            self.products.write(phase, step, self.sharing.panels(self.lowered.panels(phase)))
        else:
            self.products.write_fused(phase, step, self.sharing.panels(self.lowered.panels(phase)))

    def copy_states(self, states: Sequence[ir.Value], first: ir.Value, last: ir.Value, load: bool) -> None:
        """Rows of all states between their tensors and blocks of the scratch: into these, or to where they end up."""
        places, c = self.addresses.places, self.cursor
        for i, block in enumerate(states):
            with c.loop(first, last) as r:
                outside, inside = self.addresses.state(i, places.start if load else places.finish, block, r)
                given = (outside, inside) if load else (inside, outside)
                c.copy(*given, self.lowered.kernel.carries[i][0].row_numel)

    def _plain(self, work: Work, step: Step) -> None:
        """Nests without products. A nest waits for the one before it, but rows do not wait for each other."""
        c = self.cursor
        with c.loop(work.first, work.last, ROWS) as first:
            end = c.minimum(work.last, c.b.add(first, c.const(ROWS)))
            for nest in work.nests:
                with c.loop(first, end) as r, c.before() as before:
                    row = Row(step, nest, r, before)
                    if nest.reduced:
                        Reduction(self.expressions, row).write()
                    else:
                        self.pointwise.write(row, work.over)


class Sums:
    """Writes what becomes of a thread's sums over rows and steps: those of late, added now and then to all before.

    Each number is added to one not much larger than itself, and a long sequence costs no precision.
    """

    def __init__(self, sharing: Sharing):
        self.cursor, self.sharing, self.size = sharing.cursor, sharing, sharing.lowered.scratch.sums_size

    def clear(self, own: ir.Value) -> None:
        """Begin with zeros, those of all before too."""
        self.cursor.fill(own, 2 * self.size)

    def flush_after(self, done: ir.Value, every: int) -> None:
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


class Steps:
    """Writes the loop over time: a row joins at its first step and leaves after its last.

    Rows are sorted, the longest first, so those that take a step are always the first ones.
    """

    def __init__(self, phases: Phases, sums: Sums):
        self.phases, self.sums = phases, sums
        self.cursor, self.sharing, self.addresses = phases.cursor, phases.sharing, phases.addresses
        self.places, self.table = self.addresses.places, self.addresses.table
        self.kernel = phases.lowered.kernel

    def write(self) -> None:
        c, b, zero = self.cursor, self.cursor.b, self.cursor.const(0)
        blocks = [[c.slot(POINTER) for _ in range(2)] for _ in self.kernel.carries]
        for slots, rows in zip(blocks, self.addresses.scratch.carries, strict=True):
            for slot, block in zip(slots, rows, strict=True):
                b.store(self.addresses.in_scratch(block, zero), slot)
        joined = c.slot(I64)
        b.store(zero, joined)
        steps = self.table.word(self.places.steps)
        with c.loop(zero, steps) as s:
            t = b.sub(b.sub(steps, c.const(1)), s) if self.kernel.reverse else s
            rows = self._rows_at(t)
            with b.if_then(b.icmp_signed(">", rows, zero)):
                before = [b.load(slots[0], typ=POINTER) for slots in blocks]
                after = [b.load(slots[1], typ=POINTER) for slots in blocks]
                offset = self.table.word_of(self.places.offsets, t)
                step = Step(b.add(offset, self.sharing.first), rows, before, after)
                self._join(step, joined)
                self._compute(step)
                self._finish(step, t, b.icmp_signed("==", b.add(s, c.const(1)), steps))
                for slots, old, new in zip(blocks, before, after, strict=True):
                    b.store(new, slots[0])
                    b.store(old, slots[1])
            self.sums.flush_after(s, FLUSH_STEPS)

    def _rows_at(self, t: ir.Value) -> ir.Value:
        """How many of the thread's rows take step t."""
        most = self.cursor.minimum(self.table.word_of(self.places.counts, t), self.sharing.last)
        return self.cursor.b.sub(most, self.sharing.first)

    def _join(self, step: Step, joined: ir.Value) -> None:
        """Rows whose first step it is bring their states."""
        b = self.cursor.b
        already = b.load(joined, typ=I64)
        with self.sharing.once(b.icmp_signed("<", already, step.count)):
            self.phases.copy_states(step.before, already, step.count, load=True)
        b.store(step.count, joined)

    def _compute(self, step: Step) -> None:
        """The step; forwards, resets come before it, and backwards after it."""
        has_resets = self.cursor.b.icmp_signed("!=", self.table.word(self.places.resets), self.cursor.const(0))
        if not self.kernel.reverse:
            with self.sharing.once(has_resets):
                self._reset(step, step.before)
        self.phases.all(step)
        if self.kernel.reverse:
            with self.sharing.once(has_resets):
                self._reset(step, step.after)

    def _finish(self, step: Step, t: ir.Value, is_last: ir.Value) -> None:
        """Rows whose last step it was hand over their states."""
        c, b, zero = self.cursor, self.cursor.b, self.cursor.const(0)
        with self.sharing.once():
            left = step.count
            if not self.kernel.reverse:
                left = self._rows_at(b.select(is_last, t, b.add(t, c.const(1))))
                left = b.select(b.icmp_signed("<", left, zero), zero, left)
            self.phases.copy_states(step.after, b.select(is_last, zero, left), step.count, load=False)

    def _reset(self, step: Step, states: Sequence[ir.Value]) -> None:
        """Forwards, a row takes the initial state before its step; backwards, what reached it ends there."""
        c, b, resets = self.cursor, self.cursor.b, self.table.word(self.places.resets)
        with b.if_then(b.icmp_signed("!=", resets, c.const(0))):
            flags = b.inttoptr(resets, POINTER)
            with c.loop(0, step.count) as r:
                flag = b.load(b.gep(flags, [b.add(step.first, r)], source_etype=I8), typ=I8)
                with b.if_then(b.icmp_signed("!=", flag, ir.Constant(I8, 0))):
                    for i, block in enumerate(states):
                        fresh, inside = self.addresses.state(i, self.places.fresh, block, r)
                        self._reset_row(fresh, inside, self.kernel.carries[i][0].row_numel)

    def _reset_row(self, fresh: ir.Value, inside: ir.Value, count: int) -> None:
        c = self.cursor

        def end(fresh: ir.Value, inside: ir.Value) -> None:
            def end_vector(j: ir.Value, valid: int) -> None:
                to, source = c.at(fresh, j), c.at(inside, j)
                c.store(c.b.fadd(c.load(to, valid), c.load(source, valid)), to, valid)
                c.store(c.zeros, source, valid)

            c.over(count, end_vector)

        if self.kernel.reverse:
            c.call_small(f"end{count}", [fresh, inside], end)
        else:
            c.copy(fresh, inside, count)
