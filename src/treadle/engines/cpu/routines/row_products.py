"""The product over rows, aᵀ g, which the gradient of a weight is: N rows (every step of every sequence), K × M sums.

A tile of sums stays in registers while rows go by: each row brings a few vectors of ``g`` and, spread over all lanes,
a few numbers of ``a``. Rows are taken in blocks, of which both are copied to where a tile reads one place after the
other: of ``g`` a panel as wide as a tile, which stays in the nearest cache while all tiles below each other read it; of
``a`` columns as wide as a vector, each in one piece. As they came, the numbers that a tile reads of ``a`` lie a whole
row apart, often a power of two, and there is room in a cache for few of these at a time.

Sums are sums of sums: of a block's rows, of a chunk's blocks, of all chunks. Each number is then added to one not much
larger than itself, and the rounding errors of 400,000 rows in float32 are those of a few hundred.
"""

import functools
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.arena import Number, Word
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import Target, host
from treadle.engines.cpu.write.bfloat16 import multiply_pairs
from treadle.engines.cpu.write.counted_loop import counted

__all__ = ["outer"]

ROWS = 6
"""Rows of a tile: numbers of ``a`` that one row of both matrices brings."""
BLOCK = 128
"""Most rows (of N) for which both are copied; sums leave the registers once a block."""
DEPTH = 512
"""Most columns of ``a`` that are copied at a time: with a block of rows they stay in the second cache."""
CHUNK = 64
"""Blocks that are added up before their sum is added to that of others."""
WORTH_A_THREAD = 1_000_000
"""Multiplications that take a thread a few times as long as it takes to give it work."""

INDEX, BIT, POINTER, VOID = ir.IntType(64), ir.IntType(1), ir.PointerType(), ir.VoidType()
ELEMENTS = {torch.float32: (ir.FloatType(), "f32", 4), torch.float64: (ir.DoubleType(), "f64", 8)}


def outer(
    recipe: Recipe,
    a: tuple[Number, Number],
    g: tuple[Number, Number],
    out: Number,
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    target: Target | None = None,
    pairs: bool = False,
) -> None:
    """Write down aᵀ g: the sums over rows of the products of each column of ``a`` with each column of ``g``.

    Args:
        recipe: what does it; begun after all other tasks of the phase.
        a: [N, K]: its address, and how many numbers its rows are apart; the numbers of a row are side by side.
        g: [N, M], likewise.
        out: where the result [K, M] goes, dense.
        sizes: N, K and M, none of them 0. Where M is less than a vector, the product the other way round is faster.
        dtype: float32 or float64.
        target: the CPU, this one unless given.
        pairs: whether what looks like float32 are pairs of bfloat16, of two rows each (`pack.halve_rows`).
    """
    target = target or host()
    n, k, m = sizes
    size = dtype.itemsize
    lanes = target.lanes(size)
    block = -(-n // -(-n // BLOCK))
    function = _function(dtype, target, pairs)
    strips = _strips(k, m, lanes, threads.count(n * k * m // WORTH_A_THREAD))
    deep = min(DEPTH, -(-max(last - first for first, last, _, _ in strips) // lanes) * lanes)
    width = block * (deep + _vectors(target) * lanes) * size
    copies = recipe.scratch.room(len(strips) * width)
    several = n > CHUNK * block
    chunk = recipe.scratch.room(k * m * size) if several else out
    for i, (k_first, k_last, m_first, m_last) in enumerate(strips):
        begin = (k_first * m + m_first) * size
        arguments = (a[0] + k_first * size, a[1], g[0] + m_first * size, g[1], out + begin, chunk + begin, m)
        sides = k_last - k_first, m_last - m_first
        recipe.task(function, (*arguments, n, *sides, block, copies + i * width), late=True)
    recipe.scratch.leave(copies, len(strips) * width)
    if several:
        assert isinstance(chunk, Word)
        recipe.scratch.leave(chunk, k * m * size)


def _strips(k: int, m: int, lanes: int, count: int) -> list[tuple[int, int, int, int]]:
    """The result in at most ``count`` strips, as (first row, last row, first column, last column).

    Every thread reads and copies all of the narrower matrix: so strips are columns of ``g`` in whole vectors, or, where
    ``a`` is wider or there are fewer than two vectors for each, columns of ``a`` in whole tiles.
    """
    vectors = -(-m // lanes)
    if vectors >= 2 * count and (k <= m or k < 2 * ROWS * count):
        return [(0, k, first, last) for first, last in _split(m, lanes, count)]
    return [(first, last, 0, m) for first, last in _split(k, ROWS, count)]


def _split(size: int, unit: int, count: int) -> list[tuple[int, int]]:
    units = -(-size // unit)
    count = min(count, units)
    ends = [min(units * (i + 1) // count * unit, size) for i in range(count)]
    return list(zip([0, *ends], ends, strict=False))


def _vectors(target: Target) -> int:
    """Columns of a tile, in vectors: as many as leave registers for a row of the panel and a number of ``a``."""
    return 4 if target.registers >= 32 else 2


@functools.cache
def _function(dtype: torch.dtype, target: Target, pairs: bool) -> int:
    return compilation.compile(_generate(dtype, target, pairs), target).address("outer")


# The generator. Sizes are arguments, so that there is one kernel for each dtype.


def _generate(dtype: torch.dtype, target: Target, pairs: bool = False) -> str:
    return str(_Generator(dtype, target, pairs).module)


def _index(value: int) -> ir.Constant:
    return ir.Constant(INDEX, value)


class _Generator:
    """Writes the module: a function a width of panel, and one that goes over blocks of rows and over panels."""

    def __init__(self, dtype: torch.dtype, target: Target, pairs: bool):
        self.pairs = pairs
        self.element, self.suffix, self.size = ELEMENTS[dtype]
        self.lanes, self.vector_bytes = target.lanes(self.size), target.vector_bytes
        self.vectors = _vectors(target)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.mask = ir.VectorType(BIT, self.lanes)
        self.module = ir.Module("outer")
        self.widths = [self.panel(vectors) for vectors in range(1, self.vectors + 1)]
        self.columns = self.copied_columns()
        self.outer()

    def outer(self) -> None:
        """Chunks of blocks of rows; for each block, panels from left to right, the last ones as narrow as what is left.

        All chunks but the first have their sums in ``other`` before they are added to those in ``out``.
        """
        kinds = [POINTER, INDEX, POINTER, INDEX, POINTER, POINTER, INDEX, INDEX, INDEX, INDEX, INDEX, POINTER]
        function = ir.Function(self.module, ir.FunctionType(VOID, kinds), "outer")
        a, a_stride, g, g_stride, out, other, out_stride, n_size, k_size, m_size, block, buffer = function.args
        build: Any = ir.IRBuilder(function.append_basic_block())
        chunk = build.mul(block, _index(CHUNK))
        with self.loop(build, n_size, chunk) as first:
            is_first = build.icmp_signed("==", first, _index(0))
            to = build.select(is_first, out, other)
            chunk_rows = self.least(build, build.sub(n_size, first), chunk)
            with self.loop(build, chunk_rows, block) as start:
                n = build.add(first, start)
                rows = self.least(build, build.sub(chunk_rows, start), block)
                a_block = self.at(build, a, build.mul(n, a_stride))
                g_block = self.at(build, g, build.mul(n, g_stride))
                again = build.icmp_signed(">", start, _index(0))
                copy = self.at(build, buffer, build.mul(block, _index(self.vectors * self.lanes)))
                with self.loop(build, k_size, _index(DEPTH)) as k:
                    depth = self.least(build, build.sub(k_size, k), _index(DEPTH))
                    build.call(self.columns, [self.at(build, a_block, k), a_stride, rows, depth, block, copy])
                    line = self.at(build, to, build.mul(k, out_stride))
                    with self.loop(build, m_size, _index(self.vectors * self.lanes)) as m:
                        columns = build.sub(m_size, m)
                        vectors = build.sdiv(build.add(columns, _index(self.lanes - 1)), _index(self.lanes))
                        arguments = [copy, block, self.at(build, g_block, m), g_stride]
                        arguments += [self.at(build, line, m), out_stride, rows, depth, columns, buffer, again]
                        self.switch(build, vectors, self.widths, arguments)
            with (
                build.if_then(build.not_(is_first)),
                self.loop(build, k_size, _index(1)) as k,
                self.loop(build, m_size, _index(1)) as m,
            ):
                offset = build.add(build.mul(k, out_stride), m)
                total, more = (
                    build.load(self.at(build, base, offset), typ=self.element, align=self.size) for base in (out, other)
                )
                build.store(build.fadd(total, more), self.at(build, out, offset), align=self.size)
        build.ret_void()

    def copied_columns(self) -> ir.Function:
        """Copy rows of ``a``: columns as wide as a vector, one after the other, ``block`` rows each."""
        function = self.function("columns", [POINTER, INDEX, INDEX, INDEX, INDEX, POINTER])
        a, a_stride, n_size, k_size, block, buffer = function.args
        build: Any = ir.IRBuilder(function.append_basic_block())
        whole = build.and_(k_size, _index(-self.lanes))
        some = build.icmp_signed("<", whole, k_size)
        mask = self.last_mask(build, build.sub(k_size, whole), 1)
        with self.loop(build, n_size, _index(1)) as n:
            source = self.at(build, a, build.mul(n, a_stride))
            place = self.at(build, buffer, build.mul(n, _index(self.lanes)))
            with self.loop(build, whole, _index(self.lanes)) as k:
                value = self.load(build, self.at(build, source, k), 0, None)
                build.store(value, self.at(build, place, build.mul(k, block)), align=self.vector_bytes)
            with build.if_then(some):
                value = self.load(build, self.at(build, source, whole), 0, mask)
                build.store(value, self.at(build, place, build.mul(whole, block)), align=self.vector_bytes)
        build.ret_void()
        return function

    def panel(self, vectors: int) -> ir.Function:
        """Copy a panel of a block, then go down the tiles of its columns."""
        tiles = [self.tile(rows, vectors) for rows in range(1, ROWS + 1)]
        kinds = [POINTER, INDEX, POINTER, INDEX, POINTER, INDEX, INDEX, INDEX, INDEX, POINTER, BIT]
        function = self.function(f"panel{vectors}", kinds)
        a, block, g, g_stride, out, out_stride, n_size, k_size, columns, buffer, again = function.args
        build: Any = ir.IRBuilder(function.append_basic_block())
        mask = self.last_mask(build, columns, vectors)
        with self.loop(build, n_size, _index(1)) as n:
            source = self.at(build, g, build.mul(n, g_stride))
            place = self.at(build, buffer, build.mul(n, _index(vectors * self.lanes)))
            for j in range(vectors):
                value = self.load(build, source, j, mask if j == vectors - 1 else None)
                build.store(value, self.at(build, place, _index(j * self.lanes)), align=self.vector_bytes)
        with self.loop(build, k_size, _index(ROWS)) as k:
            place = self.at(build, out, build.mul(k, out_stride))
            arguments = [a, k, block, buffer, place, out_stride, n_size, mask, again]
            self.switch(build, build.sub(k_size, k), tiles, arguments)
        build.ret_void()
        return function

    def tile(self, rows: int, vectors: int) -> ir.Function:
        """The sums of one tile over a block, stored or added to what is there."""
        kinds = [POINTER, INDEX, INDEX, POINTER, POINTER, INDEX, INDEX, self.mask, BIT]
        function = self.function(f"tile{rows}x{vectors}", kinds)
        a, k, block, panel, out, out_stride, n_size, mask, again = function.args
        start = function.append_basic_block()
        loop, done, further, store = (
            function.append_basic_block(name) for name in ("loop", "done", "further", "store")
        )
        places = [(i, j) for i in range(rows) for j in range(vectors)]
        fma = self.intrinsic("llvm.fmuladd", self.vector, [self.vector] * 3)

        build: Any = ir.IRBuilder(start)
        lines = [self.at(build, out, build.mul(out_stride, _index(i))) for i in range(rows)]
        masks = [None] * (vectors - 1) + [mask]
        columns = []
        for i in range(rows):
            column = build.add(k, _index(i))
            first = build.mul(build.and_(column, _index(-self.lanes)), block)
            columns.append(self.at(build, a, build.add(first, build.and_(column, _index(self.lanes - 1)))))
        build.branch(loop)

        build.position_at_end(loop)
        n = build.phi(INDEX)
        sums = [build.phi(self.vector) for _ in places]
        on = build.mul(n, _index(self.lanes))
        panel_line = self.at(build, panel, build.mul(n, _index(vectors * self.lanes)))
        row = [
            build.load(self.at(build, panel_line, _index(j * self.lanes)), typ=self.vector, align=self.vector_bytes)
            for j in range(vectors)
        ]
        updated: list[Any] = []
        for i in range(rows):
            place = self.at(build, columns[i], on)
            number = self.spread(build, build.load(place, typ=self.element, align=self.size))
            for j in range(vectors):
                total = sums[i * vectors + j]
                if self.pairs:
                    updated.append(multiply_pairs(build, number, row[j], total))
                else:
                    updated.append(build.call(fma, [number, row[j], total]))
        following = build.add(n, _index(1))
        build.cbranch(build.icmp_signed("<", following, n_size), loop, done)
        for phi, new in zip([n, *sums], [following, *updated], strict=True):
            phi.add_incoming(ir.Constant(phi.type, None), start)
            phi.add_incoming(new, loop)

        build.position_at_end(done)
        build.cbranch(again, further, store)

        build.position_at_end(further)
        added = [build.fadd(self.load(build, lines[i], j, masks[j]), updated[i * vectors + j]) for i, j in places]
        build.branch(store)

        build.position_at_end(store)
        values = [build.phi(self.vector) for _ in places]
        for (i, j), value, alone, on_top in zip(places, values, updated, added, strict=True):
            value.add_incoming(alone, done)
            value.add_incoming(on_top, further)
            self.store(build, value, lines[i], j, masks[j])
        build.ret_void()
        return function

    # What the three are made of.

    def function(self, name: str, kinds: list[ir.Type]) -> ir.Function:
        function = ir.Function(self.module, ir.FunctionType(VOID, kinds), name)
        function.linkage = "internal"
        return function

    def at(self, build: Any, base: Any, offset: Any) -> Any:
        """The address of an element."""
        return build.gep(base, [offset], source_etype=self.element)

    def least(self, build: Any, one: Any, other: Any) -> Any:
        """The smaller of two numbers."""
        return build.select(build.icmp_signed("<", one, other), one, other)

    def loop(self, build: Any, end: Any, step: Any) -> Any:
        """Steps from 0 up to an end."""
        return counted(build, _index(0), end, step)

    def switch(self, build: Any, size: Any, functions: list[ir.Function], arguments: list) -> None:
        """Call the function of a size; the last one for all that is larger, too."""
        after = build.append_basic_block("after")
        cases = [build.append_basic_block() for _ in functions]
        choice = build.switch(size, cases[-1])
        for i, (case, function) in enumerate(zip(cases, functions, strict=True)):
            if case is not cases[-1]:
                choice.add_case(_index(i + 1), case)
            build.position_at_end(case)
            build.call(function, arguments)
            build.branch(after)
        build.position_at_end(after)

    def last_mask(self, build: Any, columns: Any, vectors: int) -> Any:
        """Which lanes of the last vector of a panel are columns."""
        kind = ir.VectorType(INDEX, self.lanes)
        numbers = ir.Constant(kind, [(vectors - 1) * self.lanes + i for i in range(self.lanes)])
        return build.icmp_signed("<", numbers, self.spread(build, columns))

    def spread(self, build: Any, value: Any) -> Any:
        """A number in all lanes."""
        kind = ir.VectorType(value.type, self.lanes)
        nothing = ir.Constant(kind, ir.Undefined)
        lane = build.insert_element(nothing, value, _index(0))
        return build.shuffle_vector(
            lane, nothing, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        )

    def load(self, build: Any, line: Any, j: int, mask: Any | None) -> Any:
        """Vector j of a line; lanes that the mask leaves out are zero and not read."""
        address = self.at(build, line, _index(j * self.lanes))
        if mask is None:
            return build.load(address, typ=self.vector, align=self.size)
        load = self.masked("load", self.vector, [POINTER, ir.IntType(32), self.mask, self.vector])
        return build.call(load, [address, ir.IntType(32)(self.size), mask, ir.Constant(self.vector, None)])

    def store(self, build: Any, value: Any, line: Any, j: int, mask: Any | None) -> None:
        address = self.at(build, line, _index(j * self.lanes))
        if mask is None:
            build.store(value, address, align=self.size)
        else:
            store = self.masked("store", VOID, [self.vector, POINTER, ir.IntType(32), self.mask])
            build.call(store, [value, address, ir.IntType(32)(self.size), mask])

    def masked(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        return self.declared(f"llvm.masked.{name}.v{self.lanes}{self.suffix}.p0", result, kinds)

    def intrinsic(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        return self.declared(f"{name}.v{self.lanes}{self.suffix}", result, kinds)

    def declared(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        return self.module.globals.get(name) or ir.Function(self.module, ir.FunctionType(result, kinds), name)
