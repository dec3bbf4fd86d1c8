"""How the right operands of products lie in memory, and how many rows a tile of accumulators has."""

import dataclasses

from treadle.caches import kept_property
from treadle.compiler.program import Value
from treadle.engines.cpu.machine.target import Target
from treadle.engines.passes.loop_nests import Nest, Schedule


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the matrix of a product lies in memory: panels of ``slots * vectors`` vectors, each contiguous over K."""

    product: Value
    slots: tuple[int, ...]
    units: int
    vectors: int
    """Vectors of one slot in a panel."""
    lanes: int

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


def packings_of(plan: Schedule, target: Target, lanes: int) -> dict[Value, Packing]:
    """The packing of every product's matrix, in the order in which products are computed.

    The products of one nest share its units, and have panels of equally many vectors a slot.
    """
    many = target.registers == 32
    nests = {f.product: phase for phase in plan.phases if isinstance(phase, Nest) for f in phase.fused}
    result = {}
    for product, fused in plan.products.items():
        nest = nests.get(product)
        if nest is None:
            units, most = product.row_numel, 4 if many else 2
        else:
            units, slots = nest.domain[0], max(len(f.slots) for f in nest.fused)
            most = {1: 4, 2: 2}.get(slots, 1) if many else {1: 2}.get(slots, 1)
        result[product] = Packing(product, fused.slots, units, min(most, -(-units // lanes)), lanes)
    return result


def rows_of_tile(vectors: int, target: Target) -> int:
    """How many rows of accumulators the registers hold beside a row of the panel and a number that is spread."""
    return max(1, min((target.registers - 1 - vectors) // vectors, 8))
