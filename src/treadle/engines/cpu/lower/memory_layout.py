"""Where everything is that a kernel reads and writes: its table of arguments, and its scratch."""

import dataclasses
from collections.abc import Mapping

from treadle.compiler.program import Value
from treadle.engines.cpu.lower.packing import Packing, numbers_of_digits
from treadle.engines.cpu.machine.target import Target
from treadle.engines.passes.loop_nests import Schedule
from treadle.engines.passes.precision import Operands


@dataclasses.dataclass(frozen=True)
class Places:
    """Where each word is in the table of addresses and sizes that a kernel is given, first to last."""

    streams: range
    """Addresses; the word after each says how many numbers the rows are apart."""
    outputs: range
    """Likewise."""
    invariants: range
    matrices: range
    """Addresses of packed matrices."""
    carries: range
    """Addresses of states before the first step. After each follow `finish` and `fresh`."""

    steps, capacity, counts, offsets, resets = range(5)

    start, finish, fresh = range(3)
    """Of a state: where it starts, where it ends up, and what resets give (backwards, the gradient that ends there)."""

    @classmethod
    def of(cls, *counts: int) -> "Places":
        """The table for so many of each."""
        groups, end = [], 5
        for count, words in zip(counts, (2, 2, 1, 1, 3), strict=True):
            groups.append(range(end, end + count * words, words))
            end = groups[-1].stop
        return cls(*groups)

    def __len__(self) -> int:
        return self.carries.stop


@dataclasses.dataclass(frozen=True)
class Rows:
    """A block of rows in the scratch."""

    start: int
    """Where it begins, in numbers times the capacity of the scratch in rows."""
    size: int
    """How many numbers a row has."""


@dataclasses.dataclass(frozen=True)
class Scratch:
    """What a kernel keeps in memory: first what is there once, then a block of rows for each value that has one."""

    recent: tuple[int, ...]
    """Where each sum of late begins."""
    sums_size: int
    """Numbers of all sums; the sums of all before follow."""
    tiles: Mapping[Value, int]
    """Where the accumulators of a fused product are stored."""
    fixed: int
    """Numbers that do not depend on the rows."""
    digits: Mapping[Value, Rows]
    """Left operands of products of whole numbers, behind what is fixed: each thread has its own."""
    digits_per_row: int
    """Numbers of these for each row."""
    buffers: Mapping[Value, Rows]
    pairs: Mapping[Value, Rows]
    """Left operands of products in bfloat16."""
    carries: tuple[tuple[Rows, Rows], ...]
    """Both blocks of a state, which is read from one and written to the other."""
    per_row: int
    """Numbers for each row."""

    def own(self, rows: int) -> int:
        """Numbers that each thread has for itself."""
        return self.fixed + rows * self.digits_per_row

    @property
    def sums(self) -> tuple[int, ...]:
        """Where the totals of each sum begin."""
        return tuple(self.sums_size + begin for begin in self.recent)


def scratch_of(plan: Schedule, packings: Mapping[Value, Packing], target: Target, lanes: int) -> Scratch:
    """Lay out the scratch of a kernel."""

    def padded(count: int, multiple: int = 1) -> int:
        multiple = max(multiple, lanes)
        return -(-max(count, 1) // multiple) * multiple + lanes

    kernel = plan.kernel
    sizes = [padded(value.row_numel) for value in kernel.sums]
    end = 2 * sum(sizes)
    tiles: dict[Value, int] = {}
    for product, packing in packings.items():
        if product not in plan.buffers:
            tiles[product] = end
            widths = [len(packing.slots) * v for v in range(1, packing.vectors + 1)]
            end += max(packing.tile_rows(width, kernel.precision, target) * width * lanes for width in widths)
    start = 0

    def rows(size: int) -> Rows:
        nonlocal start
        start += size
        return Rows(start - size, size)

    buffers = {
        value: rows(padded(count, packings[value].width if value in packings else 1))
        for value, count in plan.buffers.items()
    }
    in_pairs = packings if kernel.precision.left is Operands.PAIRS else ()
    operands = dict.fromkeys(product.inputs[0] for product in in_pairs)
    pairs = {operand: rows(padded((operand.row_numel + 1) // 2)) for operand in operands}
    carries = tuple((rows(padded(old.row_numel)), rows(padded(old.row_numel))) for old, _ in kernel.carries)
    shared, start = start, 0
    wholes = dict.fromkeys(product.inputs[0] for product, packing in packings.items() if packing.dots)
    digits = {operand: rows(numbers_of_digits(operand.row_numel, lanes)) for operand in wholes}
    recent = tuple(sum(sizes[:i]) for i in range(len(sizes)))
    return Scratch(recent, sum(sizes), tiles, end, digits, start, buffers, pairs, carries, shared)
