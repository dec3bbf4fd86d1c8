"""Nests without reductions: loops over features that compute every root and store it."""

from collections.abc import Callable, Sequence

from llvmlite import ir

from treadle.engines.cpu.write.cursor import I32, Cursor
from treadle.engines.cpu.write.expressions import Expressions, Row, Spot
from treadle.engines.cpu.write.sharing import Over
from treadle.engines.passes.indices import flat, root_index
from treadle.engines.passes.loop_nests import Nest, Sink, Sum
from treadle.engines.passes.turns import Turn, turns

Variables = dict[int, ir.Value]


def walk(cursor: Cursor, nest: Nest, axes: Sequence[int], over: Over, body: Callable[[Variables, int], None]) -> None:
    """``body(variables, valid lanes)`` for all places along some axes of a nest; its last axis goes by vectors."""

    def inner(axes: Sequence[int], variables: Variables, valid: int) -> None:
        if not axes:
            body(variables, valid)
            return
        axis, *rest = axes
        if axis == len(nest.domain) - 1:
            over(nest.domain[axis], lambda j, valid: inner(rest, {**variables, axis: j}, valid))
        else:
            with cursor.loop(0, nest.domain[axis]) as i:
                inner(rest, {**variables, axis: i}, valid)

    inner(axes, {}, cursor.lanes)


class Pointwise:
    """Writes nests without reductions."""

    def __init__(self, expressions: Expressions):
        self.cursor, self.addresses, self.expressions = expressions.cursor, expressions.addresses, expressions

    def turns(self, nest: Nest) -> list[Turn]:
        """The turns that a nest takes, each over all features."""
        return turns(nest, self.expressions.plan)

    def write(self, row: Row, over: Over) -> None:
        for turn in self.turns(row.nest):
            self._turn(row, turn, over)

    def _turn(self, row: Row, turn: Turn, over: Over) -> None:
        def body(variables: Variables, valid: int) -> None:
            self.vector(Spot(row, list(variables.values()), valid), turn)

        if row.nest.domain:
            walk(self.cursor, row.nest, range(len(row.nest.domain)), over, body)
        else:  # one number
            over(1, lambda _, valid: body({}, valid))

    def vector(self, spot: Spot, turn: Turn) -> None:
        """A turn for a vector of features."""
        c, count = self.cursor, len(spot.row.nest.domain)
        for one in turn.stored:
            base = self.expressions.written(one.to, spot.row)
            spot.values[one.place] = c.load(self.expressions.place(base, one.affine, spot), spot.valid)
        for root in turn.roots:
            value, index = root_index(root, spot.row.nest)
            result = self.expressions.number_at(value, index, spot)
            for sink in root.sinks:
                constant, *coefficients = flat(index, value.shape, count, sink.strides)
                self._store(result, sink, (constant + sink.offset, *coefficients), spot)

    def _store(self, result: ir.Value, sink: Sink, affine: tuple[int, ...], spot: Spot) -> None:
        c, to, is_sum = self.cursor, sink.to, isinstance(sink.to, Sum)
        base = self.addresses.sum(to) if isinstance(to, Sum) else self.expressions.written(to, spot.row)
        address = self.expressions.place(base, affine, spot)
        coefficient = affine[-1] if spot.variables else 1
        if coefficient == 1:
            result = c.b.fadd(c.load(address, spot.valid), result) if is_sum else result
            c.store(result, address, spot.valid)
            return
        for lane in range(spot.valid):
            one = c.b.extract_element(result, ir.Constant(I32, lane))
            place = c.at(address, c.const(coefficient * lane))
            one = c.b.fadd(c.load_number(place), one) if is_sum else one
            c.store_number(one, place)
