"""The machine code of the product over rows. Sizes are arguments, so that there is one kernel for each dtype."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine import cache_sizes
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.routines.routine_code import RoutineCode
from treadle.engines.cpu.write.cursor import I1, I32, I64, POINTER, const

BLOCK = 128
"""Most rows (of N) for which both are copied; sums leave the registers once a block."""
CHUNK = 64
"""Blocks that are added up before their sum is added to that of others."""


def depth(itemsize: int) -> int:
    """Most columns of ``a`` that are copied at a time: with a block of rows they take half of the second cache."""
    most = cache_sizes.second() // (2 * BLOCK * itemsize)
    return max(128, min(512, 1 << most.bit_length() - 1))


def rows_of_a_tile(target: Target) -> int:
    """Rows of a tile: numbers of ``a`` that one row of both matrices brings; whole vectors where these are factors."""
    return 8 if target.multiplies_by_lane else 6


def vectors_of_a_tile(target: Target) -> int:
    """Columns of a tile, in vectors: as many as leave registers for a row of the panel and a number of ``a``."""
    if target.multiplies_by_lane:
        return 3  # for numbers of ``a`` come in up to four vectors
    return 4 if target.registers >= 32 else 2


class RowProductCode(RoutineCode):
    """Writes the module: a function a width of panel, and ``outer``, which goes over blocks of rows and over panels.

    With ``pairs``, what looks like float32 are pairs of bfloat16, of two rows each.
    """

    def __init__(self, dtype: torch.dtype, target: Target, pairs: bool = False):
        super().__init__(dtype, target)
        self.pairs, self.rows, self.vectors = pairs, rows_of_a_tile(target), vectors_of_a_tile(target)
        self.widths = [self._panel(vectors) for vectors in range(1, self.vectors + 1)]
        self.columns = self._copied_columns()
        self._outer()

    def _outer(self) -> None:
        """Chunks of blocks of rows. All but the first have their sums in ``other``, and are then added to ``out``."""
        kinds = [POINTER, I64, POINTER, I64, POINTER, POINTER, I64, I64, I64, I64, I64, POINTER]
        function = self.begin("outer", *kinds)
        a, a_stride, g, g_stride, out, other, out_stride, n_size, k_size, m_size, block, buffer = function.args
        b = self.b
        chunk = b.mul(block, const(CHUNK))
        with self.loop(0, n_size, chunk) as first:
            is_first = b.icmp_signed("==", first, const(0))
            to = b.select(is_first, out, other)
            chunk_rows = self.minimum(b.sub(n_size, first), chunk)
            with self.loop(0, chunk_rows, block) as start:
                n = b.add(first, start)
                rows = self.minimum(b.sub(chunk_rows, start), block)
                a_block = self.at(a, b.mul(n, a_stride))
                g_block = self.at(g, b.mul(n, g_stride))
                again = b.icmp_signed(">", start, const(0))
                places = (a_block, a_stride), (g_block, g_stride), (to, out_stride)
                self._block(*places, (rows, k_size, m_size), block, buffer, again)
            with b.if_then(b.not_(is_first)), self.loop(0, k_size) as k, self.loop(0, m_size) as m:
                offset = b.add(b.mul(k, out_stride), m)
                total, more = (
                    b.load(self.at(base, offset), typ=self.element, align=self.bytes) for base in (out, other)
                )
                b.store(b.fadd(total, more), self.at(out, offset), align=self.bytes)
        b.ret_void()

    def _block(self, a: Any, g: Any, to: Any, sizes: Any, block: Any, buffer: Any, again: Any) -> None:
        """The sums of a block of rows: panels from left to right, the last ones as narrow as what is left.

        ``a``, ``g`` and ``to`` are where they are, and how many numbers rows are apart; the sizes are rows, columns of
        ``a``, columns of ``g``; ``again`` says whether the sums are added to what is there.
        """
        b, (rows, k_size, m_size) = self.b, sizes
        copy = self.at(buffer, b.mul(block, const(self.vectors * self.lanes)))
        with self.loop(0, k_size, depth(self.bytes)) as k:
            deep = self.minimum(b.sub(k_size, k), const(depth(self.bytes)))
            b.call(self.columns, [self.at(a[0], k), a[1], rows, deep, block, copy])
            line = self.at(to[0], b.mul(k, to[1]))
            with self.loop(0, m_size, self.vectors * self.lanes) as m:
                columns = b.sub(m_size, m)
                vectors = b.sdiv(b.add(columns, const(self.lanes - 1)), const(self.lanes))
                arguments = [copy, block, self.at(g[0], m), g[1]]
                arguments += [self.at(line, m), to[1], rows, deep, columns, buffer, again]
                self._switch(vectors, self.widths, arguments)

    def _copied_columns(self) -> ir.Function:
        """Copy rows of ``a``: columns as wide as a vector, one after the other, ``block`` rows each."""
        function = self.begin("columns", POINTER, I64, I64, I64, I64, POINTER, internal=True)
        a, a_stride, n_size, k_size, block, buffer = function.args
        b = self.b
        whole = b.and_(k_size, const(-self.lanes))
        some = b.icmp_signed("<", whole, k_size)
        mask = self.below(b.sub(k_size, whole))
        with self.loop(0, n_size) as n:
            source = self.at(a, b.mul(n, a_stride))
            place = self.at(buffer, b.mul(n, const(self.lanes)))
            with self.loop(0, whole, self.lanes) as k:
                value = self.load(self.at(source, k))
                b.store(value, self.at(place, b.mul(k, block)), align=self.target.vector_bytes)
            with b.if_then(some):
                value = self.load(self.at(source, whole), mask)
                b.store(value, self.at(place, b.mul(whole, block)), align=self.target.vector_bytes)
        b.ret_void()
        return function

    def _panel(self, vectors: int) -> ir.Function:
        """Copy a panel of a block, then go down the tiles of its columns."""
        tiles = [self._tile(rows, vectors) for rows in range(1, self.rows + 1)]
        kinds = [POINTER, I64, POINTER, I64, POINTER, I64, I64, I64, I64, POINTER, I1]
        function = self.begin(f"panel{vectors}", *kinds, internal=True)
        a, block, g, g_stride, out, out_stride, n_size, k_size, columns, buffer, again = function.args
        b = self.b
        mask = self.below(columns, (vectors - 1) * self.lanes)  # of the last vector
        with self.loop(0, n_size) as n:
            source = self.at(g, b.mul(n, g_stride))
            place = self.at(buffer, b.mul(n, const(vectors * self.lanes)))
            for j in range(vectors):
                value = self.load(self._vector(source, j), mask if j == vectors - 1 else None)
                b.store(value, self._vector(place, j), align=self.target.vector_bytes)
        with self.loop(0, k_size, self.rows) as k:
            place = self.at(out, b.mul(k, out_stride))
            arguments = [a, k, block, buffer, place, out_stride, n_size, mask, again]
            self._switch(b.sub(k_size, k), tiles, arguments)
        b.ret_void()
        return function

    def _tile(self, rows: int, vectors: int) -> ir.Function:
        """The sums of one tile over a block, stored or added to what is there."""
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
        kind, nothing = ir.VectorType(I32, self.lanes), ir.Constant(self.vector, ir.Undefined)
        for i in range(rows):
            spread = ir.Constant(kind, [i % self.lanes] * self.lanes)
            yield b.shuffle_vector(several[i // self.lanes], nothing, spread)

    def _multiply_add(self, number: Any, row: Any, total: Any) -> Any:
        if self.pairs:
            return self.multiply_pairs(number, row, total)
        return self.b.call(self.declared(f"llvm.fmuladd.{self.suffix}", *[self.vector] * 4), [number, row, total])

    def _vector(self, line: Any, j: int) -> Any:
        """Where vector ``j`` of a line is."""
        return self.at(line, const(j * self.lanes))

    def _switch(self, size: Any, functions: list[ir.Function], arguments: list[Any]) -> None:
        """Call the function of a size; the last one for all that is larger, too."""
        b = self.b
        after = b.append_basic_block("after")
        cases = [b.append_basic_block() for _ in functions]
        choice = b.switch(size, cases[-1])
        for i, (case, function) in enumerate(zip(cases, functions, strict=True)):
            if case is not cases[-1]:
                choice.add_case(const(i + 1), case)
            b.position_at_end(case)
            b.call(function, arguments)
            b.branch(after)
        b.position_at_end(after)
