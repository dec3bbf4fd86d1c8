"""The machine code of the product over rows. Sizes are arguments, so that there is one kernel for each dtype."""

from collections.abc import Sequence
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.bfloat16 import multiply_pairs
from treadle.engines.cpu.write.counted_loop import counted

__all__ = ["CHUNK", "DEPTH", "ROWS", "RowProductCode", "vectors_of_a_tile"]

ROWS = 6
"""Rows of a tile: numbers of ``a`` that one row of both matrices brings."""
DEPTH = 512
"""Most columns of ``a`` that are copied at a time: with a block of rows they stay in the second cache."""
CHUNK = 64
"""Blocks that are added up before their sum is added to that of others."""

INDEX, I32, BIT, POINTER, VOID = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.PointerType(), ir.VoidType()
ELEMENTS = {torch.float32: (ir.FloatType(), "f32", 4), torch.float64: (ir.DoubleType(), "f64", 8)}


def vectors_of_a_tile(target: Target) -> int:
    """Columns of a tile, in vectors: as many as leave registers for a row of the panel and a number of ``a``."""
    return 4 if target.registers >= 32 else 2


def _index(value: int) -> ir.Constant:
    return ir.Constant(INDEX, value)


class RowProductCode:
    """Writes the module: a function a width of panel, and one that goes over blocks of rows and over panels.

    Args:
        dtype: of all numbers.
        target: the CPU.
        pairs: whether what looks like float32 are pairs of bfloat16, of two rows each.

    Attributes:
        module: what is written; it defines ``outer``.
    """

    b: Any  # builds what comes next; llvmlite's methods have no types, and pyright infers wrong ones

    def __init__(self, dtype: torch.dtype, target: Target, pairs: bool = False):
        self.pairs = pairs
        self.element, self.suffix, self.size = ELEMENTS[dtype]
        self.lanes, self.vector_bytes = target.lanes(self.size), target.vector_bytes
        self.vectors = vectors_of_a_tile(target)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.mask = ir.VectorType(BIT, self.lanes)
        self.module = ir.Module("outer")
        self.widths = [self._panel(vectors) for vectors in range(1, self.vectors + 1)]
        self.columns = self._copied_columns()
        self._outer()

    def _outer(self) -> None:
        """Chunks of blocks of rows. All but the first have their sums in ``other``, and are then added to ``out``."""
        kinds = [POINTER, INDEX, POINTER, INDEX, POINTER, POINTER, INDEX, INDEX, INDEX, INDEX, INDEX, POINTER]
        function = ir.Function(self.module, ir.FunctionType(VOID, kinds), "outer")
        a, a_stride, g, g_stride, out, other, out_stride, n_size, k_size, m_size, block, buffer = function.args
        b = self.b = ir.IRBuilder(function.append_basic_block())
        chunk = b.mul(block, _index(CHUNK))
        with self.loop(n_size, chunk) as first:
            is_first = b.icmp_signed("==", first, _index(0))
            to = b.select(is_first, out, other)
            chunk_rows = self.least(b.sub(n_size, first), chunk)
            with self.loop(chunk_rows, block) as start:
                n = b.add(first, start)
                rows = self.least(b.sub(chunk_rows, start), block)
                a_block = self.at(a, b.mul(n, a_stride))
                g_block = self.at(g, b.mul(n, g_stride))
                again = b.icmp_signed(">", start, _index(0))
                self._block(
                    (a_block, a_stride),
                    (g_block, g_stride),
                    (to, out_stride),
                    (rows, k_size, m_size),
                    block,
                    buffer,
                    again,
                )
            with (
                b.if_then(b.not_(is_first)),
                self.loop(k_size, _index(1)) as k,
                self.loop(m_size, _index(1)) as m,
            ):
                offset = b.add(b.mul(k, out_stride), m)
                total, more = (
                    b.load(self.at(base, offset), typ=self.element, align=self.size) for base in (out, other)
                )
                b.store(b.fadd(total, more), self.at(out, offset), align=self.size)
        b.ret_void()

    def _block(self, a: Any, g: Any, to: Any, sizes: Any, block: Any, buffer: Any, again: Any) -> None:
        """The sums of a block of rows: panels from left to right, the last ones as narrow as what is left.

        Args:
            a, g, to: where they are, and how many numbers rows are apart.
            sizes: rows, columns of ``a``, columns of ``g``.
            block: most rows of a block.
            buffer: memory for copies.
            again: whether the sums are added to what is there.
        """
        b, (rows, k_size, m_size) = self.b, sizes
        copy = self.at(buffer, b.mul(block, _index(self.vectors * self.lanes)))
        with self.loop(k_size, _index(DEPTH)) as k:
            depth = self.least(b.sub(k_size, k), _index(DEPTH))
            b.call(self.columns, [self.at(a[0], k), a[1], rows, depth, block, copy])
            line = self.at(to[0], b.mul(k, to[1]))
            with self.loop(m_size, _index(self.vectors * self.lanes)) as m:
                columns = b.sub(m_size, m)
                vectors = b.sdiv(b.add(columns, _index(self.lanes - 1)), _index(self.lanes))
                arguments = [copy, block, self.at(g[0], m), g[1]]
                arguments += [self.at(line, m), to[1], rows, depth, columns, buffer, again]
                self.switch(vectors, self.widths, arguments)

    def _copied_columns(self) -> ir.Function:
        """Copy rows of ``a``: columns as wide as a vector, one after the other, ``block`` rows each."""
        function = self.function("columns", [POINTER, INDEX, INDEX, INDEX, INDEX, POINTER])
        a, a_stride, n_size, k_size, block, buffer = function.args
        b = self.b = ir.IRBuilder(function.append_basic_block())
        whole = b.and_(k_size, _index(-self.lanes))
        some = b.icmp_signed("<", whole, k_size)
        mask = self.last_mask(b.sub(k_size, whole), 1)
        with self.loop(n_size, _index(1)) as n:
            source = self.at(a, b.mul(n, a_stride))
            place = self.at(buffer, b.mul(n, _index(self.lanes)))
            with self.loop(whole, _index(self.lanes)) as k:
                value = self.load(self.at(source, k), 0, None)
                b.store(value, self.at(place, b.mul(k, block)), align=self.vector_bytes)
            with b.if_then(some):
                value = self.load(self.at(source, whole), 0, mask)
                b.store(value, self.at(place, b.mul(whole, block)), align=self.vector_bytes)
        b.ret_void()
        return function

    def _panel(self, vectors: int) -> ir.Function:
        """Copy a panel of a block, then go down the tiles of its columns."""
        tiles = [self._tile(rows, vectors) for rows in range(1, ROWS + 1)]
        kinds = [POINTER, INDEX, POINTER, INDEX, POINTER, INDEX, INDEX, INDEX, INDEX, POINTER, BIT]
        function = self.function(f"panel{vectors}", kinds)
        a, block, g, g_stride, out, out_stride, n_size, k_size, columns, buffer, again = function.args
        b = self.b = ir.IRBuilder(function.append_basic_block())
        mask = self.last_mask(columns, vectors)
        with self.loop(n_size, _index(1)) as n:
            source = self.at(g, b.mul(n, g_stride))
            place = self.at(buffer, b.mul(n, _index(vectors * self.lanes)))
            for j in range(vectors):
                value = self.load(source, j, mask if j == vectors - 1 else None)
                b.store(value, self.at(place, _index(j * self.lanes)), align=self.vector_bytes)
        with self.loop(k_size, _index(ROWS)) as k:
            place = self.at(out, b.mul(k, out_stride))
            arguments = [a, k, block, buffer, place, out_stride, n_size, mask, again]
            self.switch(b.sub(k_size, k), tiles, arguments)
        b.ret_void()
        return function

    def _tile(self, rows: int, vectors: int) -> ir.Function:
        """The sums of one tile over a block, stored or added to what is there."""
        kinds = [POINTER, INDEX, INDEX, POINTER, POINTER, INDEX, INDEX, self.mask, BIT]
        function = self.function(f"tile{rows}x{vectors}", kinds)
        a, k, block, panel, out, out_stride, n_size, mask, again = function.args
        start = function.append_basic_block()
        loop, done, further, store = (
            function.append_basic_block(name) for name in ("loop", "done", "further", "store")
        )
        places = [(i, j) for i in range(rows) for j in range(vectors)]

        b = self.b = ir.IRBuilder(start)
        lines = [self.at(out, b.mul(out_stride, _index(i))) for i in range(rows)]
        masks = [None] * (vectors - 1) + [mask]
        columns = [self._column(a, b.add(k, _index(i)), block) for i in range(rows)]
        b.branch(loop)

        b.position_at_end(loop)
        n = b.phi(INDEX)
        sums = [b.phi(self.vector) for _ in places]
        updated = self._with_a_row(
            sums, columns, b.mul(n, _index(self.lanes)), self.at(panel, b.mul(n, _index(vectors * self.lanes)))
        )
        following = b.add(n, _index(1))
        b.cbranch(b.icmp_signed("<", following, n_size), loop, done)
        for phi, new in zip([n, *sums], [following, *updated], strict=True):
            phi.add_incoming(ir.Constant(phi.type, None), start)
            phi.add_incoming(new, loop)

        b.position_at_end(done)
        b.cbranch(again, further, store)

        b.position_at_end(further)
        added = [b.fadd(self.load(lines[i], j, masks[j]), updated[i * vectors + j]) for i, j in places]
        b.branch(store)

        b.position_at_end(store)
        values = [b.phi(self.vector) for _ in places]
        for (i, j), value, alone, on_top in zip(places, values, updated, added, strict=True):
            value.add_incoming(alone, done)
            value.add_incoming(on_top, further)
            self.store(value, lines[i], j, masks[j])
        b.ret_void()
        return function

    def _column(self, a: Any, column: Any, block: Any) -> Any:
        """Where the numbers of a column of ``a`` begin in its copy."""
        b = self.b
        first = b.mul(b.and_(column, _index(-self.lanes)), block)
        return self.at(a, b.add(first, b.and_(column, _index(self.lanes - 1))))

    def _with_a_row(self, sums: Sequence[Any], columns: Sequence[Any], n: Any, line: Any) -> list[Any]:
        """The sums of a tile with one more row: number ``n`` of each column of ``a`` times a line of the panel."""
        b, vectors = self.b, len(sums) // len(columns)
        row = [
            b.load(self.at(line, _index(j * self.lanes)), typ=self.vector, align=self.vector_bytes)
            for j in range(vectors)
        ]
        updated: list[Any] = []
        for i, column in enumerate(columns):
            number = self.spread(b.load(self.at(column, n), typ=self.element, align=self.size))
            updated += [self._multiply_add(number, row[j], sums[i * vectors + j]) for j in range(vectors)]
        return updated

    def _multiply_add(self, number: Any, row: Any, total: Any) -> Any:
        fma = self.declared(f"llvm.fmuladd.v{self.lanes}{self.suffix}", self.vector, [self.vector] * 3)
        operands = number, row, total
        return multiply_pairs(self.b, *operands) if self.pairs else self.b.call(fma, operands)

    # What the functions are made of.

    def function(self, name: str, kinds: list[ir.Type]) -> ir.Function:
        """One that is called from within the module."""
        function = ir.Function(self.module, ir.FunctionType(VOID, kinds), name)
        function.linkage = "internal"
        return function

    def at(self, base: Any, offset: Any) -> Any:
        """The address of an element."""
        return self.b.gep(base, [offset], source_etype=self.element)

    def least(self, one: Any, other: Any) -> Any:
        """The smaller of two numbers."""
        return self.b.select(self.b.icmp_signed("<", one, other), one, other)

    def loop(self, end: Any, step: Any) -> Any:
        """Steps from 0 up to an end."""
        return counted(self.b, _index(0), end, step)

    def switch(self, size: Any, functions: list[ir.Function], arguments: list[Any]) -> None:
        """Call the function of a size; the last one for all that is larger, too."""
        b = self.b
        after = b.append_basic_block("after")
        cases = [b.append_basic_block() for _ in functions]
        choice = b.switch(size, cases[-1])
        for i, (case, function) in enumerate(zip(cases, functions, strict=True)):
            if case is not cases[-1]:
                choice.add_case(_index(i + 1), case)
            b.position_at_end(case)
            b.call(function, arguments)
            b.branch(after)
        b.position_at_end(after)

    def last_mask(self, columns: Any, vectors: int) -> Any:
        """Which lanes of the last vector of a panel are columns."""
        kind = ir.VectorType(INDEX, self.lanes)
        numbers = ir.Constant(kind, [(vectors - 1) * self.lanes + i for i in range(self.lanes)])
        return self.b.icmp_signed("<", numbers, self.spread(columns))

    def spread(self, value: Any) -> Any:
        """A number in all lanes."""
        nothing = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        lane = self.b.insert_element(nothing, value, _index(0))
        return self.b.shuffle_vector(lane, nothing, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def load(self, line: Any, j: int, mask: Any | None) -> Any:
        """Vector j of a line; lanes that the mask leaves out are zero and not read."""
        address = self.at(line, _index(j * self.lanes))
        if mask is None:
            return self.b.load(address, typ=self.vector, align=self.size)
        load = self.masked("load", self.vector, [POINTER, I32, self.mask, self.vector])
        return self.b.call(load, [address, I32(self.size), mask, ir.Constant(self.vector, None)])

    def store(self, value: Any, line: Any, j: int, mask: Any | None) -> None:
        """Write vector j of a line, less the lanes that the mask leaves out."""
        address = self.at(line, _index(j * self.lanes))
        if mask is None:
            self.b.store(value, address, align=self.size)
        else:
            store = self.masked("store", VOID, [self.vector, POINTER, I32, self.mask])
            self.b.call(store, [value, address, I32(self.size), mask])

    def masked(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        """LLVM's function that reads or writes some lanes of a vector."""
        return self.declared(f"llvm.masked.{name}.v{self.lanes}{self.suffix}.p0", result, kinds)

    def declared(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        """A function of LLVM's."""
        return self.module.globals.get(name) or ir.Function(self.module, ir.FunctionType(result, kinds), name)
