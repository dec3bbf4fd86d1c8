"""Where rows are, in the text of a kernel: addresses of arguments, of scratch, and of the rows of a step."""

import dataclasses
from collections.abc import Sequence

from llvmlite import ir

from treadle.compiler.program import Value
from treadle.engines.cpu.lower.memory_layout import Rows
from treadle.engines.cpu.write.cursor import I64, POINTER, Cursor
from treadle.engines.cpu.write.sharing import Sharing
from treadle.engines.passes.loop_nests import Buffer, Carry, Output, Sum


class Table:
    """The kernel's table of arguments, of which the entry block reads what is asked for."""

    def __init__(self, cursor: Cursor, address: ir.Value):
        self.cursor, self.address = cursor, address
        self._words: dict[int, ir.Value] = {}
        self._pointers: dict[int, ir.Value] = {}

    def word(self, place: int) -> ir.Value:
        if place not in self._words:
            entry = self.cursor.entry
            address = entry.gep(self.address, [self.cursor.const(place)], source_etype=I64)
            self._words[place] = entry.load(address, typ=I64)
        return self._words[place]

    def pointer(self, place: int) -> ir.Value:
        if place not in self._pointers:
            self._pointers[place] = self.cursor.entry.inttoptr(self.word(place), POINTER)
        return self._pointers[place]

    def word_of(self, place: int, index: ir.Value) -> ir.Value:
        return self.cursor.load_word(self.cursor.b.inttoptr(self.word(place), POINTER), index)


@dataclasses.dataclass(frozen=True)
class Step:
    """The rows that take a step."""

    first: ir.Value
    """Where the first one is in streams and outputs."""
    count: ir.Value
    before: Sequence[ir.Value] = ()
    """Of each state, the address of the first row before the step."""
    after: Sequence[ir.Value] = ()


class Addresses:
    """Addresses of everything that a kernel reads and writes."""

    def __init__(self, table: Table, sharing: Sharing):
        self.cursor, self.lowered, self.table, self.sharing = sharing.cursor, sharing.lowered, table, sharing
        self.places, self.scratch, kernel = self.lowered.places, self.lowered.scratch, self.lowered.kernel
        self.streams = dict(zip(kernel.streams, self.places.streams, strict=True))
        self.invariants = dict(zip(kernel.invariants, self.places.invariants, strict=True))
        self.matrices = dict(zip(self.lowered.packings, self.places.matrices, strict=True))
        self.carries = {old: i for i, (old, _) in enumerate(kernel.carries)}
        self._held = kernel.memory | set(self.lowered.schedule.buffers)
        self._blocks: dict[int, ir.Value] = {}

    def in_scratch(self, rows: Rows, r: ir.Value) -> ir.Value:
        c = self.cursor
        if rows.start not in self._blocks:
            with c.building(c.entry):
                capacity = self.table.word(self.places.capacity)
                start = self.sharing.behind_own(c.times(capacity, rows.start), capacity)
                self._blocks[rows.start] = c.at(self.sharing.scratch, start)
        return c.at(self._blocks[rows.start], c.times(r, rows.size))

    def digits(self, operand: Value, r: ir.Value) -> ir.Value:
        """Where row ``r`` of a product's left operand is as whole numbers."""
        c, rows = self.cursor, self.scratch.digits[operand]
        start = c.times(self.table.word(self.places.capacity), rows.start)
        offset = c.plus(c.plus(start, c.times(r, rows.size)), c.const(self.scratch.fixed))
        return c.at(self.sharing.own, offset)

    def row(self, value: Value, r: ir.Value, step: Step) -> tuple[ir.Value, ir.Value]:
        """Row ``r`` of a value with rows, and how many numbers its rows are apart."""
        c, b = self.cursor, self.cursor.b
        if value in self.streams:
            place = self.streams[value]
            stride = self.table.word(place + 1)
            return c.at(self.table.pointer(place), b.mul(c.plus(step.first, r), stride)), stride
        if value in self.carries:
            i = self.carries[value]
            size = self.sharing.state_size(i)
            return c.at(step.before[i], c.times(r, size)), c.const(size)
        rows = self.scratch.buffers[value]
        return self.in_scratch(rows, r), c.const(rows.size)

    def state(self, i: int, which: int, block: ir.Value, r: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Row ``r`` of a state: in its tensor [B, n], such as `Places.start`, and in a block of the scratch."""
        c = self.cursor
        count, size = self.lowered.kernel.carries[i][0].row_numel, self.scratch.carries[i][0].size
        tensor = self.table.pointer(self.places.carries[i] + which)
        outside = c.at(tensor, c.times(self.sharing.state_row(r), count))
        return outside, c.at(block, c.times(r, size))

    def is_dense(self, value: Value) -> bool:
        """Whether nothing follows the last feature of a row, so that no lanes beyond it may be read."""
        outside = self.sharing.states_outside and value in self.carries
        return outside or value in self.streams or value in self.invariants

    def left(self, operand: Value, r: ir.Value, step: Step) -> tuple[ir.Value, ir.Value]:
        """Row ``r`` of a product's left operand, which may be a part of a row, and the distance between rows."""
        offset = 0
        while operand not in self._held:
            if operand.op == "slice":
                offset += operand.slice.start * (operand.slice.axis == 1)
            operand = operand.inputs[0]
        address, stride = self.row(operand, r, step)
        return self.cursor.at(address, self.cursor.const(offset)), stride

    def written(self, to: Output | Carry | Buffer, r: ir.Value, step: Step) -> ir.Value:
        """Row ``r`` of the memory that a root goes to."""
        c, b = self.cursor, self.cursor.b
        match to:
            case Output(i):
                place = self.places.outputs[i]
                row = b.mul(c.plus(step.first, r), self.table.word(place + 1))
                return c.at(self.table.pointer(place), row)
            case Carry(i):
                return c.at(step.after[i], c.times(r, self.scratch.carries[i][1].size))
            case Buffer(value):
                return self.in_scratch(self.scratch.buffers[value], r)

    def sum(self, to: Sum) -> ir.Value:
        return self.cursor.at(self.sharing.own, self.cursor.const(self.scratch.recent[to.number]))

    def tile(self, product: Value) -> ir.Value:
        return self.cursor.at(self.sharing.own, self.cursor.const(self.scratch.tiles[product]))

    def matrix(self, product: Value) -> ir.Value:
        return self.table.pointer(self.matrices[product])

    def invariant(self, value: Value) -> ir.Value:
        return self.table.pointer(self.invariants[value])
