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
from treadle.engines.passes.evaluation import evaluated
from treadle.engines.passes.indices import Affine, Index, flat
from treadle.engines.passes.loop_nests import Buffer, Carry, Nest, Output

_COMPARE = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclasses.dataclass(frozen=True)
class Tile:
    """A vector of the accumulators of fused products."""

    row: ir.Value
    vector: ir.Value
    vectors: int
    """Vectors of one slot in a row of the tile."""


@dataclasses.dataclass(eq=False)
class Spot:
    """What the text at hand is about: one vector of features of one row, in a nest.

    Addresses and values that were computed inside a loop do not hold outside of it: they are known for this vector
    alone.
    """

    step: Step
    nest: Nest
    row: ir.Value
    variables: list[ir.Value]
    valid: int
    """How many lanes are features."""
    tile: Tile | None = None
    values: dict[tuple[Value, Index], ir.Value] = dataclasses.field(default_factory=dict)
    rows: dict[Value | Output | Carry | Buffer, ir.Value] = dataclasses.field(default_factory=dict)
    """Addresses of rows that are read, by value, and of those that are written."""


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
            spot.nest,
            self._readable,
            spot.values,
            lambda value, index, operands: self._computed(value, index, operands, spot),
        )

    def number_at(self, value: Value, index: Index, spot: Spot) -> ir.Value:
        """The same; of truth values, ones and zeros."""
        return self._as_number(self.at(value, index, spot))

    def place(self, base: ir.Value, affine: Affine, spot: Spot) -> ir.Value:
        """The address of a place in a row."""
        c = self.cursor
        place: ir.Value = c.const(affine[0])
        for coefficient, variable in zip(affine[1:], spot.variables, strict=True):
            if coefficient:
                term = variable if coefficient == 1 else c.b.mul(variable, c.const(coefficient))
                place = c.b.add(place, term)
        return c.at(base, place)

    def _computed(self, value: Value, index: Index, operands: list[ir.Value], spot: Spot) -> ir.Value:
        c = self.cursor
        if self.plan.is_loaded(value, spot.nest):
            result = self._loaded(value, index, spot)
            return self._is_not_zero(result) if value.dtype == torch.bool else result
        if value.op == "full":
            number = value.number
            if value.dtype == torch.bool:
                return ir.Constant(c.mask, [int(number)] * c.lanes)
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
        affine = flat(index, value.shape, len(spot.nest.domain))
        if value in self.plan.products and value not in self.plan.buffers:
            return self._from_tile(value, affine, spot)
        if value in self.addresses.invariants:
            base = self.addresses.invariant(value)
        else:
            if value not in spot.rows:
                spot.rows[value] = self.addresses.row(value, spot.row, spot.step)[0]
            base = spot.rows[value]
        address = self.place(base, affine, spot)
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

    def _from_tile(self, product: Value, affine: Affine, spot: Spot) -> ir.Value:
        c, b, tile = self.cursor, self.cursor.b, spot.tile
        assert tile is not None
        slots = self.addresses.lowered.packings[product].slots
        row = b.mul(tile.row, c.const(len(slots) * tile.vectors * c.lanes))
        column = b.mul(b.add(c.const(slots.index(affine[0]) * tile.vectors), tile.vector), c.const(c.lanes))
        return c.load(c.at(self.addresses.tile(product), b.add(row, column)), c.lanes)

    def _embedded(self, value: Value, index: Index, spot: Spot) -> ir.Value:
        """Features of the row of a table that a whole number names; numbers outside read its first or last row."""
        c, b, addresses = self.cursor, self.cursor.b, self.addresses
        table, which = value.inputs
        place = addresses.streams[which]
        row = b.mul(b.add(spot.step.first, spot.row), addresses.table.word(place + 1))
        number = c.load_word(addresses.table.pointer(place), row)
        zero, last = c.const(0), c.const(table.shape[0] - 1)
        number = b.select(b.icmp_signed("<", number, zero), zero, c.minimum(number, last))
        base = addresses.invariant(table)
        affine = flat(index, value.shape, len(spot.nest.domain))
        address = self.place(c.at(base, b.mul(number, c.const(table.shape[1]))), affine, spot)
        if spot.variables and affine[-1] == 1:
            return c.load(address, spot.valid)
        return c.splat(c.load_number(address))
