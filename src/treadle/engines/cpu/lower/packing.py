"""How the right operands of products lie in memory, and how many rows a tile of accumulators has."""

import dataclasses

from treadle.caches import kept_property
from treadle.compiler.program import Value
from treadle.engines.cpu.machine.target import Target
from treadle.engines.passes.loop_nests import Nest, Schedule

DIGITS = 4
"""How many numbers of int8 are in a word of 32 bits; see ``write/int8_tile.py``."""
INT8_ROWS = {16: 2, 32: 4}
"""How many rows a tile of int8 has, by the number of registers."""
_INT8_VECTORS = {1: 8, 2: 4, 3: 4, 4: 2}
"""Vectors of one slot in a panel of int8, by how many slots there are: words are full, and sums are eight or more."""


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the matrix of a product lies in memory: panels of ``slots * vectors`` vectors, each contiguous over K."""

    product: Value
    slots: tuple[int, ...]
    units: int
    vectors: int
    """Vectors of one slot in a panel."""
    lanes: int
    int8: bool = False
    """Whether the numbers are int8: the digits of words, and a factor for each column behind each panel."""

    @kept_property
    def panels(self) -> int:
        """How many panels there are; the last one may have fewer vectors."""
        return -(-self.units // (self.vectors * self.lanes))

    @kept_property
    def width(self) -> int:
        return len(self.slots) * self.vectors * self.lanes

    @kept_property
    def last_vectors(self) -> int:
        """Vectors of one slot in the last panel."""
        return -(-(self.units - (self.panels - 1) * self.vectors * self.lanes) // self.lanes)

    @kept_property
    def widths(self) -> set[int]:
        """How many vectors a panel has, of all slots: those of whole panels, and of the last one."""
        whole = {self.vectors} if self.panels > (self.last_vectors < self.vectors) else set()
        return {len(self.slots) * vectors for vectors in whole | {self.last_vectors}}

    @kept_property
    def padded_units(self) -> int:
        """Columns of one slot, with what is there to fill up vectors."""
        return -(-self.units // self.lanes) * self.lanes

    @kept_property
    def depth(self) -> int:
        """K, rows of the matrix."""
        return self.product.inputs[1].shape[0]

    @kept_property
    def size(self) -> int:
        """How many numbers the packed matrix has."""
        return self.depth * len(self.slots) * self.padded_units

    @kept_property
    def int8_panel_bytes(self) -> int:
        """Bytes of a whole panel of int8: words of 32 bits, and behind them the factor of each column, a float32."""
        words = -(-len(self.slots) * self.vectors // DIGITS)
        return 4 * (self.depth * words * self.lanes + self.width)

    def tile_rows(self, vectors: int, target: Target) -> int:
        """How many rows a tile of so many vectors has."""
        return INT8_ROWS[target.registers] if self.int8 else rows_of_tile(vectors, target)


def packings_of(plan: Schedule, target: Target, lanes: int) -> dict[Value, Packing]:
    """The packing of every product's matrix, in the order in which products are computed.

    The products of one nest share its units, and have panels of equally many vectors a slot.
    """
    many, int8 = target.registers == 32, plan.kernel.int8
    nests = {f.product: phase for phase in plan.phases if isinstance(phase, Nest) for f in phase.fused}
    result = {}
    for product, fused in plan.products.items():
        nest = nests.get(product)
        if nest is None:
            units, slots, most = product.row_numel, 1, 4 if many else 2
        else:
            units, slots = nest.domain[0], max(len(f.slots) for f in nest.fused)
            most = {1: 4, 2: 2}.get(slots, 1) if many else {1: 2}.get(slots, 1)
        if int8.intersection(one.product.inputs[1] for one in (nest.fused if nest else (fused,))):
            most = _INT8_VECTORS.get(slots, 1)
        vectors = min(most, -(-units // lanes))
        result[product] = Packing(product, fused.slots, units, vectors, lanes, product.inputs[1] in int8)
    return result


def rows_of_tile(vectors: int, target: Target) -> int:
    """How many rows of accumulators the registers hold beside a row of the panel and a number that is spread."""
    return max(1, min((target.registers - 1 - vectors) // vectors, 8))
