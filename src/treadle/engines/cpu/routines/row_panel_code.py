"""The machine code of a panel of the product over rows: tiles below each other, whose sums stay in registers.

There is a module for each width of a panel, made when it is first needed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.routines.routine_code import RoutineCode
from treadle.engines.cpu.write.cursor import I1, I32, I64, POINTER, const
from treadle.engines.cpu.write.vector import Same

PANEL = POINTER, I64, POINTER, I64, POINTER, I64, I64, I64, I64, POINTER, I1
"""The copy of ``a`` and its block, ``g`` and its stride, the result and its stride, rows, columns of ``a``, columns of
``g``, room for the copy of the panel, and whether the sums are added to what is there."""


_BUSY = 8
"""Sums that keep a core busy, which begins up to two multiply-adds in a cycle and ends each after four."""


def rows_of_a_tile(target: Target) -> int:
    """Rows of a tile: numbers of ``a`` that one row of both matrices brings; whole vectors where these are factors."""
    return 8 if target.multiplies_by_lane else 6


def vectors_of_a_tile(target: Target) -> int:
    """Columns of a tile, in vectors: as many as leave registers for a row of the panel and a number of ``a``."""
    if target.multiplies_by_lane:
        return 3  # for numbers of ``a`` come in up to four vectors
    return 4 if target.registers >= 32 else 2


def _heights(target: Target, vectors: int) -> list[int]:
    """How many rows tiles of so many vectors have: the largest, and those that make up what is left below these."""
    most = rows_of_a_tile(target)
    # Where ``a`` is read by vectors, what is left has to be one tile, which begins with a vector.
    pairs_do = 2 * vectors >= _BUSY and not target.multiplies_by_lane
    return [most, 2, 1] if pairs_do else [*range(most, 0, -1)]


class PanelCode(RoutineCode):
    """Writes the module: ``panel``, for columns that take so many vectors.

    With ``pairs``, what looks like float32 are pairs of bfloat16, of two rows each.
    """

    def __init__(self, dtype: torch.dtype, target: Target, vectors: int, pairs: bool = False):
        super().__init__(dtype, target)
        self.vectors, self.pairs = vectors, pairs
        self._panel()

    def _panel(self) -> None:
        """Copy a panel of a block, then go down the tiles of its columns."""
        vectors = self.vectors
        tiles = {rows: self._tile(rows) for rows in _heights(self.target, vectors)}
        function = self.begin("panel", *PANEL)
        a, block, g, g_stride, out, out_stride, n_size, k_size, columns, buffer, again = function.args
        b = self.b
        mask = self.below(columns, (vectors - 1) * self.lanes)  # of the last vector
        with self.loop(0, n_size) as n:
            source = self.at(g, b.mul(n, g_stride))
            place = self.at(buffer, b.mul(n, const(vectors * self.lanes)))
            for j in range(vectors):
                value = self.load(self._vector(source, j), mask if j == vectors - 1 else None)
                b.store(value, self._vector(place, j), align=self.target.vector_bytes)
        first: Any = const(0)
        for rows, tile in tiles.items():
            left = b.sub(k_size, first)
            stop = b.add(first, b.sub(left, b.srem(left, const(rows))))
            with self.loop(first, stop, rows) as k:
                place = self.at(out, b.mul(k, out_stride))
                b.call(tile, [a, k, block, buffer, place, out_stride, n_size, mask, again])
            first = stop
        b.ret_void()

    def _tile(self, rows: int) -> ir.Function:
        """The sums of one tile over a block, stored or added to what is there."""
        vectors = self.vectors
        kinds = [POINTER, I64, I64, POINTER, POINTER, I64, I64, self.part, I1]
        function = self.begin(f"tile{rows}x{vectors}", *kinds, internal=True)
        a, k, block, panel, out, out_stride, n_size, mask, again = function.args
        b = self.b
        places = [(i, j) for i in range(rows) for j in range(vectors)]
        lines = [self.at(out, b.mul(out_stride, const(i))) for i in range(rows)]
        masks = [None] * (vectors - 1) + [mask]
        apart = self.lanes if self.target.multiplies_by_lane else 1
        columns = [self._column(a, b.add(k, const(i)), block) for i in range(0, rows, apart)]
        sums: list[Any] = [self.zeros] * len(places)
        updated = self._over_rows(sums, (columns, panel, vectors), n_size)
        done = b.block
        further, store = (function.append_basic_block(name) for name in ("further", "store"))
        b.cbranch(again, further, store)

        b.position_at_end(further)
        added = [b.fadd(self.load(self._vector(lines[i], j), masks[j]), updated[i * vectors + j]) for i, j in places]
        b.branch(store)

        b.position_at_end(store)
        values = [b.phi(self.vector) for _ in places]
        for (i, j), value, alone, on_top in zip(places, values, updated, added, strict=True):
            value.add_incoming(alone, done)
            value.add_incoming(on_top, further)
            self.store(value, self._vector(lines[i], j), masks[j])
        b.ret_void()
        return function

    def _over_rows(self, sums: list[Any], operands: tuple[list[Any], Any, int], n_size: Any) -> list[Any]:
        """The sums of a tile with all rows of a block, some at a time and then one by one."""
        b, at_once = self.b, self.target.at_once
        if at_once == 1:
            return self._rows_in_turn(sums, operands, const(0), n_size, 1)
        whole = b.and_(n_size, const(-at_once))
        sums = self._rows_in_turn(sums, operands, const(0), whole, at_once)
        return self._rows_in_turn(sums, operands, whole, n_size, 1)

    def _rows_in_turn(
        self, sums: list[Any], operands: tuple[list[Any], Any, int], first: Any, stop: Any, at_once: int
    ) -> list[Any]:
        """The same with rows from ``first`` to ``stop``."""
        b, (columns, panel, vectors), before = self.b, operands, self.b.block
        head, body, end = (b.append_basic_block(name) for name in ("rows", "body", "end"))
        b.branch(head)
        b.position_at_end(head)
        n, phis = b.phi(I64), [b.phi(self.vector) for _ in sums]
        b.cbranch(b.icmp_signed("<", n, stop), body, end)
        b.position_at_end(body)
        updated: list[Any] = phis
        for u in range(at_once):
            row = b.add(n, const(u))
            line = self.at(panel, b.mul(row, const(vectors * self.lanes)))
            updated = self._with_a_row(updated, vectors, columns, b.mul(row, const(self.lanes)), line)
        for phi, start, new in zip([n, *phis], [first, *sums], [b.add(n, const(at_once)), *updated], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(new, body)
        b.branch(head)
        b.position_at_end(end)
        return phis

    def _column(self, a: Any, column: Any, block: Any) -> Any:
        """Where the numbers of a column of ``a`` begin in its copy."""
        b = self.b
        first = b.mul(b.and_(column, const(-self.lanes)), block)
        return self.at(a, b.add(first, b.and_(column, const(self.lanes - 1))))

    def _with_a_row(self, sums: Sequence[Any], vectors: int, columns: Sequence[Any], n: Any, line: Any) -> list[Any]:
        """The sums of a tile with one more row: number ``n`` of each column of ``a`` times a line of the panel."""
        b = self.b
        row = [b.load(self._vector(line, j), typ=self.vector, align=self.target.vector_bytes) for j in range(vectors)]
        updated: list[Any] = []
        for i, number in enumerate(self._numbers(columns, len(sums) // vectors, n)):
            updated += [self._multiply_add(number, row[j], sums[i * vectors + j]) for j in range(vectors)]
        return updated

    def _numbers(self, columns: Sequence[Any], rows: int, n: Any) -> Iterator[Any]:
        """Number ``n`` of each column in all lanes; ``columns`` has every one, or where a vector begins of several."""
        b, places = self.b, (self.at(column, n) for column in columns)
        if not self.target.multiplies_by_lane:
            for place in places:  # each is read when it is needed: there may be no registers for all of them
                yield self.splat(b.load(place, typ=self.element, align=self.bytes))
            return
        several = [b.load(place, typ=self.vector, align=self.target.vector_bytes) for place in places]
        kind, nothing = ir.VectorType(I32, self.lanes), Same(self.vector)
        for i in range(rows):
            yield b.shuffle_vector(several[i // self.lanes], nothing, Same(kind, i % self.lanes))

    def _multiply_add(self, number: Any, row: Any, total: Any) -> Any:
        if self.pairs:
            return self.multiply_pairs(number, row, total)
        return self.b.call(self.declared(f"llvm.fmuladd.{self.suffix}", *[self.vector] * 4), [number, row, total])

    def _vector(self, line: Any, j: int) -> Any:
        """Where vector ``j`` of a line is."""
        return self.at(line, const(j * self.lanes))
