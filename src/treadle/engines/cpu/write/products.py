"""Products, panel by panel and tile by tile, and the nests that run on their accumulators."""

import dataclasses
from collections.abc import Callable, Sequence

from llvmlite import ir

from treadle.compiler.program import Value
from treadle.engines.cpu.lower.packing import Packing
from treadle.engines.cpu.write.addresses import Addresses, Step
from treadle.engines.cpu.write.cursor import I8, BFloat
from treadle.engines.cpu.write.expressions import Row, Spot, Tile
from treadle.engines.cpu.write.int8_dots import int8_dots
from treadle.engines.cpu.write.int8_tile import int8_tile
from treadle.engines.cpu.write.pointwise import Pointwise
from treadle.engines.cpu.write.row_digits import write_digits
from treadle.engines.cpu.write.sharing import Panels
from treadle.engines.cpu.write.tile import tile
from treadle.engines.passes.loop_nests import Nest
from treadle.engines.passes.precision import Operands
from treadle.engines.passes.turns import Turn


@dataclasses.dataclass(frozen=True)
class _Factor:
    """A product of a phase: what its tiles are called with."""

    product: Value
    vectors: int
    """Vectors of a row of its tiles, of all slots."""
    stride: int
    """Numbers between rows of the result."""
    out: Callable[[ir.Value], ir.Value]
    """Where a row of the result goes."""


class Products:
    """Writes products."""

    def __init__(self, addresses: Addresses, pointwise: Pointwise):
        self.cursor, self.addresses, self.pointwise = addresses.cursor, addresses, pointwise
        self.lowered = addresses.lowered
        self.precision = self.lowered.kernel.precision

    def write(self, product: Value, step: Step, panels: Panels) -> None:
        """A product whose result goes into a buffer."""
        c, packing = self.cursor, self.lowered.packings[product]
        rows = self.addresses.scratch.buffers[product]
        self._prepare_left([product], step)

        def panel_of(panel: ir.Value, is_whole: bool) -> None:
            def out(r: ir.Value) -> ir.Value:
                return c.at(self.addresses.in_scratch(rows, r), c.times(panel, packing.width))

            vectors = len(packing.slots) * (packing.vectors if is_whole else packing.last_vectors)
            self._tiles([_Factor(product, vectors, rows.size, out)], panel, step, None)

        whole = packing.panels - (packing.last_vectors < packing.vectors)
        panels(whole, whole < packing.panels, panel_of)

    def write_fused(self, nest: Nest, step: Step, panels: Panels) -> None:
        """Products and the nest that reads them: the nest runs on the accumulators of each tile."""
        c, (units,) = self.cursor, nest.domain
        products = [fused.product for fused in nest.fused]
        vectors = self.lowered.packings[products[0]].vectors
        self._prepare_left(products, step)
        whole, rest = divmod(units, vectors * c.lanes)
        fewer = [min(c.lanes, rest - start) for start in range(0, rest, c.lanes)]

        def panel_of(panel: ir.Value, is_whole: bool) -> None:
            counts = [c.lanes] * vectors if is_whole else fewer
            factors = []
            for fused in nest.fused:
                wide = len(fused.slots) * len(counts)
                out = lambda _, product=fused.product: self.addresses.tile(product)  # noqa: E731
                factors.append(_Factor(fused.product, wide, wide * c.lanes, out))

            def body(first: ir.Value, count: ir.Value) -> None:
                start = c.times(panel, vectors * c.lanes)
                for turn in self.pointwise.turns(nest):
                    # With an index for all that a step of gates reads and writes, a step takes a hundredth longer.
                    with c.loop(0, count, searched=True) as n, c.before() as before:
                        row = Row(step, nest, before.add(first, n), before, Tile(n, len(counts)))
                        self._on_accumulators(row, start, counts, turn)

            self._tiles(factors, panel, step, body)

        panels(whole, bool(rest), panel_of)

    def _on_accumulators(self, row: Row, start: ir.Value, counts: Sequence[int], turn: Turn) -> None:
        """A turn for a row of a tile, whose vectors have so many valid lanes each and begin with unit ``start``."""
        c = self.cursor

        def at(q: ir.Value, valid: int) -> None:
            self.pointwise.vector(Spot(row, [c.plus(start, c.times(q, c.lanes))], valid, q), turn)

        full = sum(1 for count in counts if count == c.lanes)
        if full == 1:
            at(c.const(0), c.lanes)
        elif full:
            with c.loop(0, full, searched=True) as q:
                at(q, c.lanes)
        for q, count in enumerate(counts):
            if count < c.lanes:
                at(c.const(q), count)

    def _tiles(
        self,
        factors: Sequence[_Factor],
        panel: ir.Value,
        step: Step,
        then: Callable[[ir.Value, ir.Value], None] | None,
    ) -> None:
        """The tiles of one panel, all rows: ``then(first row, count)`` after each."""
        c, b = self.cursor, self.cursor.b
        packings = self.lowered.packings
        most = min(packings[factor.product].tile_rows(factor.vectors, self.precision, c.target) for factor in factors)
        # Of ten rows twice five, not six and four: the fewer rows, the longer each waits for the weights.
        tiles = b.sdiv(b.add(step.count, c.const(most - 1)), c.const(most))
        with c.loop(0, tiles) as n:
            first = b.sdiv(b.mul(n, step.count), tiles)
            count = b.sub(b.sdiv(b.mul(b.add(n, c.const(1)), step.count), tiles), first)
            for factor in factors:
                self._tile(factor, panel, step, first, count, most)
            if then is not None:
                then(first, count)

    def _tile(self, factor: _Factor, panel: ir.Value, step: Step, first: ir.Value, count: ir.Value, most: int) -> None:
        """One tile of a product, of ``count`` rows and ``most`` at the most."""
        c, b, product = self.cursor, self.cursor.b, factor.product
        packing = self.lowered.packings[product]
        if packing.dots:
            a = self.addresses.digits(product.inputs[0], first)
            a_stride = c.const(self.addresses.scratch.digits[product.inputs[0]].size)
        elif self.precision.left is Operands.PAIRS:
            rows = self.addresses.scratch.pairs[product.inputs[0]]
            a, a_stride = self.addresses.in_scratch(rows, first), c.const(rows.size)
        else:
            a, a_stride = self.addresses.left(product.inputs[0], first, step)
        weights = self._panel(product, panel)
        to = factor.out(first)
        given = [a, a_stride, weights, c.const(packing.depth), to, c.const(factor.stride)]
        end = b.append_basic_block("tiled")
        switch = b.switch(count, end)
        for rows in range(1, most + 1):
            block = b.append_basic_block(f"rows{rows}")
            b.position_at_end(block)
            switch.add_case(c.const(rows), block)
            b.call(self._function(packing, rows, factor.vectors), given)
            b.branch(end)
        b.position_at_end(end)

    def _function(self, packing: Packing, rows: int, vectors: int) -> ir.Function:
        """The tile of so many rows and vectors."""
        if packing.dots:
            return int8_dots(self.cursor, rows, vectors)
        return (
            int8_tile(self.cursor, rows, vectors) if packing.int8 else tile(self.cursor, self.precision, rows, vectors)
        )

    def _panel(self, product: Value, panel: ir.Value) -> ir.Value:
        """Where a panel of a product's matrix begins."""
        c, packing = self.cursor, self.lowered.packings[product]
        matrix = self.addresses.matrix(product)
        if packing.int8:
            return c.b.gep(matrix, [c.b.mul(panel, c.const(packing.int8_panel_bytes))], source_etype=I8)
        deep = (packing.depth + 1) // 2 if self.precision.right is Operands.PAIRS else packing.depth
        return c.at(matrix, c.times(panel, deep * packing.width))

    def _prepare_left(self, products: Sequence[Value], step: Step) -> None:
        """The left operands of products as these multiply them: all rows, as every panel reads them."""
        if self.precision.left is Operands.PAIRS:
            self._round_left(products, step)
        wholes = [product.inputs[0] for product in products if self.lowered.packings[product].dots]
        for operand in dict.fromkeys(wholes):
            with self.cursor.loop(0, step.count) as r:
                source, _ = self.addresses.left(operand, r, step)
                write_digits(self.cursor, source, self.addresses.digits(operand, r), operand.row_numel)

    def _round_left(self, products: Sequence[Value], step: Step) -> None:
        """The left operands of products in bfloat16."""
        c, half = self.cursor, ir.VectorType(BFloat(), self.cursor.lanes)
        for product in products:
            operand = product.inputs[0]
            with c.loop(0, step.count) as r:
                source, _ = self.addresses.left(operand, r, step)
                to = self.addresses.in_scratch(self.addresses.scratch.pairs[operand], r)

                def round_vector(j: ir.Value, valid: int, source: ir.Value = source, to: ir.Value = to) -> None:
                    function = c.declared(f"llvm.x86.avx512bf16.cvtneps2bf16.{c.lanes * 32}", half, c.vector)
                    rounded = c.b.call(function, [c.load(c.at(source, j), valid)])
                    c.b.store(rounded, c.b.gep(to, [j], source_etype=ir.IntType(16)), align=2)

                c.over(operand.row_numel, round_vector)
