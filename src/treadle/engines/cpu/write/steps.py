"""All steps of a sequence: which rows take part in each, and where states come from and go to."""

from collections.abc import Sequence

from llvmlite import ir

from treadle.engines.cpu.write.addresses import Step
from treadle.engines.cpu.write.cursor import I8, I64, POINTER
from treadle.engines.cpu.write.phases import Phases
from treadle.engines.cpu.write.sums import Sums

FLUSH_STEPS = 256
"""How many steps are added up before their sum is added to that of those before."""


def copy_states(
    phases: Phases, i: int, place: int, states: ir.Value, rows: tuple[ir.Value, ir.Value], load: bool
) -> None:
    """Rows of a carried value between its tensor [B, n] and the scratch.

    Args:
        phases: the writers of the kernel.
        i: which carried value.
        place: which argument is the tensor's address.
        states: the block in the scratch.
        rows: the first one, and the one after the last.
        load: whether to copy into the scratch, not out of it.
    """
    c, addresses = phases.cursor, phases.addresses
    count, size = phases.lowered.kernel.carries[i][0].row_numel, addresses.scratch.carries[i][0].size
    with c.loop(*rows) as r:
        tensor = addresses.table.pointer(place)
        outside = c.at(tensor, c.b.mul(c.b.add(phases.sharing.first, r), c.const(count)))
        inside = c.at(states, c.b.mul(r, c.const(size)))
        c.copy(*((outside, inside) if load else (inside, outside)), count)


class Steps:
    """Writes the loop over time: a row joins at its first step and leaves after its last.

    Rows are sorted, the longest first, so those that take a step are always the first ones.
    """

    def __init__(self, phases: Phases, sums: Sums):
        self.phases, self.sums = phases, sums
        self.cursor, self.sharing, self.addresses = phases.cursor, phases.sharing, phases.addresses
        self.places, self.table = self.addresses.places, self.addresses.table
        self.kernel = phases.lowered.kernel
        self.carries = range(len(self.kernel.carries))

    def write(self) -> None:
        """All steps."""
        c, b, zero = self.cursor, self.cursor.b, self.cursor.const(0)
        blocks = [[c.slot(POINTER) for _ in range(2)] for _ in self.carries]
        for slots, rows in zip(blocks, self.addresses.scratch.carries, strict=True):
            for slot, block in zip(slots, rows, strict=True):
                b.store(self.addresses.in_scratch(block, zero), slot)
        joined = c.slot(I64)
        b.store(zero, joined)
        steps = self.table.words[self.places.steps]
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
            for i in self.carries:
                copy_states(self.phases, i, self.places.start(i), step.before[i], (already, step.count), load=True)
        b.store(step.count, joined)

    def _compute(self, step: Step) -> None:
        """The step; forwards, resets come before it, and backwards after it."""
        has_resets = self.cursor.b.icmp_signed("!=", self.table.words[self.places.resets], self.cursor.const(0))
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

        def hand_over(first: ir.Value) -> None:
            for i in self.carries:
                copy_states(self.phases, i, self.places.finish(i), step.after[i], (first, step.count), load=False)

        with self.sharing.once(), b.if_else(is_last) as (then, otherwise):
            with then:
                hand_over(zero)
            with otherwise:
                if not self.kernel.reverse:
                    left = self._rows_at(b.add(t, c.const(1)))
                    hand_over(b.select(b.icmp_signed("<", left, zero), zero, left))

    def _reset(self, step: Step, states: Sequence[ir.Value]) -> None:
        """Forwards, a row takes the initial state before its step; backwards, what reached it ends there."""
        c, b, resets = self.cursor, self.cursor.b, self.table.words[self.places.resets]
        with b.if_then(b.icmp_signed("!=", resets, c.const(0))):
            flags = b.inttoptr(resets, POINTER)
            with c.loop(0, step.count) as r:
                flag = b.load(b.gep(flags, [b.add(step.first, r)], source_etype=I8), typ=I8)
                with b.if_then(b.icmp_signed("!=", flag, ir.Constant(I8, 0))):
                    for i in self.carries:
                        self._reset_row(i, states[i], r)

    def _reset_row(self, i: int, states: ir.Value, r: ir.Value) -> None:
        c, b = self.cursor, self.cursor.b
        count, size = self.kernel.carries[i][0].row_numel, self.addresses.scratch.carries[i][0].size
        tensor = self.table.pointer(self.places.fresh(i))
        fresh = c.at(tensor, b.mul(b.add(self.sharing.first, r), c.const(count)))
        inside = c.at(states, b.mul(r, c.const(size)))

        def end(j: ir.Value, valid: int) -> None:
            to, source = c.at(fresh, j), c.at(inside, j)
            c.store(b.fadd(c.load(to, valid), c.load(source, valid)), to, valid)
            c.store(c.zeros, source, valid)

        if self.kernel.reverse:
            c.over(count, end)
        else:
            c.copy(fresh, inside, count)
