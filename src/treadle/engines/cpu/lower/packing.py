"""How the right operands of products lie in memory, and how many rows a tile of accumulators has."""

import dataclasses

import torch

from treadle.caches import kept_property
from treadle.compiler.program import Value
from treadle.engines.cpu.machine.target import Target
from treadle.engines.passes.loop_nests import Nest, Schedule
from treadle.engines.passes.precision import Precision

DIGITS = 4
"""How many numbers of int8 are in a word of 32 bits; see ``write/int8_tile.py``."""
INT8_ROWS = {16: 2, 32: 4}
"""How many rows a tile of int8 has, by the number of registers."""
_INT8_VECTORS = {1: 8, 2: 4, 3: 4, 4: 2}
"""Vectors of one slot in a panel of int8, by how many slots there are: words are full, and sums are eight or more."""
_DEPTHS = range(32, 8193)
"""Of which K numbers of int8 are multiplied as whole numbers: of fewer there is little to gain, and the sums of many
more would not fit into 32 bits."""
_READ_AHEAD = 4
"""Vectors of a panel that LLVM reads before they are multiplied, in the longer loops of Arm, if there are so many."""
_TO_WIDEN = 2
"""Registers that are needed there to widen a vector of pairs: one of its halves, and the mask of these."""
_PART = 2
"""Vectors of a panel that lie together, over all of K, where registers are few: what a tile of many rows takes at a
time."""


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the matrix of a product lies in memory: panels of ``slots * vectors`` vectors, each contiguous over K, or of
    the parts of these that lie `together`."""

    product: Value
    slots: tuple[int, ...]
    units: int
    vectors: int
    """Vectors of one slot in a panel."""
    lanes: int
    int8: bool = False
    """Whether the numbers are int8: the bytes of words, and a factor for each column behind each panel."""
    dots: bool = False
    """Whether a word has four numbers of one column, which are multiplied as whole numbers: see ``write/int8_dots.py``.
    Otherwise it has one number of each of four vectors: see ``write/int8_tile.py``."""

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
        """Bytes of a whole panel of int8: words of 32 bits, and behind them what each column has.

        That is its factor, a float32, and for whole products the number of 32 bits that its sums may begin with.
        """
        if self.dots:
            return 4 * (-(-self.depth // DIGITS) + 2) * self.width
        words = -(-len(self.slots) * self.vectors // DIGITS)
        return 4 * (self.depth * words * self.lanes + self.width)

    def tile_rows(self, vectors: int, precision: Precision, target: Target) -> int:
        """How many rows a tile of so many vectors has."""
        return INT8_ROWS[target.registers] if self.int8 else rows_of_tile(vectors, precision, target)


def packings_of(plan: Schedule, target: Target, lanes: int) -> dict[Value, Packing]:
    """The packing of every product's matrix, in the order in which products are computed.

    The products of one nest share its units, and have panels of equally many vectors a slot.
    """
    int8 = plan.kernel.int8
    nests = {f.product: phase for phase in plan.phases if isinstance(phase, Nest) for f in phase.fused}
    result = {}
    for product, fused in plan.products.items():
        nest = nests.get(product)
        if nest is None:
            units, slots = product.row_numel, 1
        else:
            units, slots = nest.domain[0], max(len(f.slots) for f in nest.fused)
        most = max(1, vectors_of_panel(target, bool(plan.kernel.carries)) // slots)
        if int8.intersection(one.product.inputs[1] for one in (nest.fused if nest else (fused,))):
            most = _INT8_VECTORS.get(slots, 1)
        vectors = min(most, -(-units // lanes))
        of_int8 = product.inputs[1] in int8
        dots = of_int8 and target.dots is not None and product.inputs[1].shape[0] in _DEPTHS
        result[product] = Packing(product, fused.slots, units, vectors, lanes, of_int8, dots)
    return result


def numbers_of_digits(depth: int, lanes: int) -> int:
    """How much memory the digits of a row of ``depth`` numbers take, in float32: whole vectors, and one before them."""
    return lanes + -(-depth // lanes) * lanes


def vectors_of_panel(target: Target, in_steps: bool = True) -> int:
    """How many vectors a row of a panel has at the most, of all slots.

    They are the sums of a tile of one row, which is what a live step multiplies. Each multiply-add waits for the one
    before it in its sum, about four cycles. So there are eight sums where a core begins two or more multiply-adds in a
    cycle and reads their vectors, which are short; of wide ones, four keep it as busy as its reads do. All steps at
    once, not ``in_steps``, are many rows.
    """
    if target.multiplies_by_lane:
        return 8
    return 4 if in_steps or not most_together(target) else most_together(target)


def together(vectors: int, target: Target) -> int:
    """How many vectors of a panel of so many lie together, over all of K: all, or a part of them.

    With 16 registers, three rows of four vectors are as many sums as six of two. But the fewer rows there are, the
    oftener the panel is read, and a deep one comes from the second cache; with two vectors and few rows, sums wait for
    themselves. So tiles of few rows take four vectors at a time, and those of many rows two, which lie together.
    """
    return _PART if most_together(target) and vectors % _PART == 0 else vectors


def most_together(target: Target) -> int:
    """How many vectors of a panel lie together where their number can be divided by that; 0 where all do."""
    return _PART if target.registers < 32 else 0


def rows_of_tile(vectors: int, precision: Precision, target: Target) -> int:
    """How many rows a tile of so many vectors has at the most, all at a time or a part of them."""
    at_once = vectors, together(vectors, target)
    return max(_rows_in_registers(some, precision, target) for some in at_once)


def vectors_at_once(rows: int, vectors: int, precision: Precision, target: Target) -> int:
    """How many vectors of a panel a tile of so many rows takes at a time: all, or those that lie `together`."""
    return vectors if rows <= _rows_in_registers(vectors, precision, target) else together(vectors, target)


def _rows_in_registers(vectors: int, precision: Precision, target: Target) -> int:
    """How many rows of accumulators the registers hold beside what is multiplied, eight at the most."""
    if by_columns(vectors, target):
        rows = _rows_by_columns(vectors, precision, target)
    else:
        rows = _rows_by_rows(vectors, target)
    return max(1, min(rows, 8))


def by_columns(vectors: int, target: Target) -> bool:
    """Whether a tile reads vectors of a row of the panel one after another, while a factor of each row is there.

    Otherwise all these vectors are there, while the factors are read one after another.
    """
    if target.multiplies_by_lane:
        return True
    return _rows_by_columns(vectors, Precision(torch.float32), target) > _rows_by_rows(vectors, target)


def _rows_by_rows(vectors: int, target: Target) -> int:
    return (target.registers - 1 - vectors) // vectors


def _rows_by_columns(vectors: int, precision: Precision, target: Target) -> int:
    beside = 1
    if target.multiplies_by_lane:
        beside = min(vectors, _READ_AHEAD) + (_TO_WIDEN if precision.widens else 0)
    return (target.registers - beside) // (vectors + 1)
