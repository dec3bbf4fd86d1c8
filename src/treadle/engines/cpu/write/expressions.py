"""Values at an index: a vector of features of one row, computed from what is in memory or in a tile."""

import dataclasses
from typing import Any

import torch
from llvmlite import ir

from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.engines.cpu.write import vector_functions
from treadle.engines.cpu.write.addresses import Addresses, Step
from treadle.engines.cpu.write.cursor import I32
from treadle.engines.cpu.write.vector import Same
from treadle.engines.passes.evaluation import evaluated
from treadle.engines.passes.indices import ROW, Affine, Flat, Index, flat
from treadle.engines.passes.loop_nests import Buffer, Carry, Nest, Output

_COMPARE = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclasses.dataclass(frozen=True)
class Tile:
    """A row of the accumulators of fused products."""

    row: ir.Value
    vectors: int
    """Vectors of one slot."""


@dataclasses.dataclass(eq=False)
class Row:
    """A row that a nest takes, and what is the same for all its features, which comes before them."""

    step: Step
    nest: Nest
    number: ir.Value
    before: Any
    """Builds what comes before the features."""
    tile: Tile | None = None
    addresses: dict[Value | Output | Carry | Buffer, ir.Value] = dataclasses.field(default_factory=dict)
    """Where the row is of values that are read, and of those that are written."""
    values: dict[tuple[Value, Index], ir.Value] = dataclasses.field(default_factory=dict)
    """Those that are the same for all features."""


@dataclasses.dataclass(eq=False)
class Spot:
    """What the text at hand is about: one vector of features of a row.

    Values that were computed inside a loop do not hold outside of it: they are known for this vector alone.
    """

    row: Row
    variables: list[ir.Value]
    valid: int
    """How many lanes are features."""
    vector: ir.Value | None = None
    """Which vector of a slot of the tile it is."""
    values: dict[tuple[Value, Index], ir.Value] = dataclasses.field(default_factory=dict)


class Expressions:
    """Writes values."""

    def __init__(self, addresses: Addresses):
        self.cursor, self.addresses = addresses.cursor, addresses
        self.plan = addresses.lowered.schedule
        self._readable = addresses.lowered.kernel.memory | self.plan.stored

    def at(self, value: Value, index: Index, spot: Spot) -> ir.Value:
        """A vector of a value."""
        return evaluated(
            (value, index),
            self.plan,
            spot.row.nest,
            self._readable,
            spot.values,
            lambda value, index, operands: self._once(value, index, operands, spot),
        )

    def number_at(self, value: Value, index: Index, spot: Spot) -> ir.Value:
        """The same; of truth values, ones and zeros."""
        return self._as_number(self.at(value, index, spot))

    def place(self, base: ir.Value, affine: Affine, spot: Spot) -> ir.Value:
        """The address of a place in a row."""
        c = self.cursor
        place: ir.Value = c.const(affine[0])
        for coefficient, variable in zip(affine[1:], spot.variables, strict=True):
            place = c.plus(place, c.times(variable, coefficient))
        return c.at(base, place)

    def written(self, to: Output | Carry | Buffer, row: Row) -> ir.Value:
        """Where a row that is written begins."""
        if to not in row.addresses:
            with self.cursor.building(row.before):
                row.addresses[to] = self.addresses.written(to, row.number, row.step)
        return row.addresses[to]

    def _once(self, value: Value, index: Index, operands: list[ir.Value], spot: Spot) -> ir.Value:
        """A vector of a value from those of its operands: before all features, if it is the same for all of them."""
        if _varies(index):
            return self._computed(value, index, operands, spot)
        row = spot.row
        if (value, index) not in row.values:
            with self.cursor.building(row.before):
                row.values[value, index] = self._computed(value, index, operands, spot)
        return row.values[value, index]

    def _computed(self, value: Value, index: Index, operands: list[ir.Value], spot: Spot) -> ir.Value:
        c = self.cursor
        if self.plan.is_loaded(value, spot.row.nest):
            result = self._loaded(value, index, spot)
            return self._is_not_zero(result) if value.dtype == torch.bool else result
        if value.op == "full":
            number = value.number
            if value.dtype == torch.bool:
                return Same(c.mask, int(number))
            return c.filled(float(number))
        if value.op == "embedding":
            return self._embedded(value, index, spot)
        return self._operation(value, operands) if value.op in p.ELEMENTWISE else operands[0]

    def _operation(self, value: Value, operands: list[ir.Value]) -> ir.Value:
        b, op = self.cursor.b, value.op
        match op:
            case "add" | "sub" | "mul":
                return getattr(b, f"f{op}")(*operands, flags=("contract",))
            case "div":
                return b.fdiv(*operands)
            case "ne":
                return b.fcmp_unordered("!=", *operands)
            case "not":
                return b.not_(operands[0])
            case "and":
                return b.and_(*operands)
            case "or":
                return b.or_(*operands)
            case "where":
                return b.select(*operands)
            case "cast":
                to_bool = value.dtype == torch.bool
                return self._is_not_zero(operands[0]) if to_bool else self._as_number(operands[0])
        if op in _COMPARE:
            return b.fcmp_ordered(_COMPARE[op], *operands)
        return vector_functions.emit(b, op, *operands)

    def _is_not_zero(self, number: ir.Value) -> ir.Value:
        return self.cursor.b.fcmp_unordered("!=", number, self.cursor.zeros)

    def _as_number(self, value: Any) -> ir.Value:
        c = self.cursor
        return c.b.select(value, c.filled(1.0), c.zeros) if value.type == c.mask else value

    def _loaded(self, value: Value, index: Index, spot: Spot) -> ir.Value:
        c = self.cursor
        affine = flat(index, value.shape, len(spot.row.nest.domain))
        if value in self.plan.products and value not in self.plan.buffers:
            return self._from_tile(value, affine, spot)
        address = self.place(self._read(value, spot.row), affine, spot)
        coefficient = affine[-1] if spot.variables else 0
        if coefficient == 1:
            return c.load(address, spot.valid if self.addresses.is_dense(value) else c.lanes)
        if coefficient == 0:
            return c.splat(c.load_number(address))
        result: ir.Value = c.zeros
        for lane in range(spot.valid):
            one = c.load_number(c.at(address, c.const(coefficient * lane)))
            result = c.b.insert_element(result, one, ir.Constant(I32, lane))
        return result

    def _read(self, value: Value, row: Row) -> ir.Value:
        """Where a row that is read begins."""
        if value in self.addresses.invariants:
            return self.addresses.invariant(value)
        if value not in row.addresses:
            with self.cursor.building(row.before):
                row.addresses[value] = self.addresses.row(value, row.number, row.step)[0]
        return row.addresses[value]

    def _from_tile(self, product: Value, affine: Affine, spot: Spot) -> ir.Value:
        c, row = self.cursor, spot.row
        assert row.tile is not None
        slots, vectors = self.addresses.lowered.packings[product].slots, row.tile.vectors
        if product not in row.addresses:
            with c.building(row.before):
                place = c.times(row.tile.row, len(slots) * vectors * c.lanes)
                row.addresses[product] = c.at(self.addresses.tile(product), place)
        vector = c.plus(c.const(slots.index(affine[0]) * vectors), spot.vector)
        return c.load(c.at(row.addresses[product], c.times(vector, c.lanes)), c.lanes)

    def _embedded(self, value: Value, index: Index, spot: Spot) -> ir.Value:
        """Features of the row of a table that a whole number names."""
        c, row = self.cursor, spot.row
        if value not in row.addresses:
            with c.building(row.before):
                row.addresses[value] = self._named_row(value, row)
        affine = flat(index, value.shape, len(row.nest.domain))
        address = self.place(row.addresses[value], affine, spot)
        if spot.variables and affine[-1] == 1:
            return c.load(address, spot.valid)
        return c.splat(c.load_number(address))

    def _named_row(self, value: Value, row: Row) -> ir.Value:
        """Where that row begins; numbers outside of the table name its first or last row."""
        c, b, addresses = self.cursor, self.cursor.b, self.addresses
        table, which = value.inputs
        place = addresses.streams[which]
        at = b.mul(c.plus(row.step.first, row.number), addresses.table.word(place + 1))
        number = c.load_word(addresses.table.pointer(place), at)
        zero, last = c.const(0), c.const(table.shape[0] - 1)
        number = b.select(b.icmp_signed("<", number, zero), zero, c.minimum(number, last))
        return c.at(addresses.invariant(table), c.times(number, table.shape[1]))


def _varies(index: Index) -> bool:
    """Whether an index is another one for another feature."""
    places = (index.place,) if isinstance(index, Flat) else (axis for axis in index if axis is not ROW)
    return any(any(place[1:]) for place in places)
