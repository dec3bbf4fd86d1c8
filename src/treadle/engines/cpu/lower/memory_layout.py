"""Where everything is that a kernel reads and writes: its table of arguments, and its scratch."""

import dataclasses
from collections.abc import Mapping

from treadle.compiler.program import Value
from treadle.engines.cpu.lower.loop_nests import Kernel, Schedule
from treadle.engines.cpu.lower.packing import Packing, rows_of_tile
from treadle.engines.cpu.lower.precision import Operands
from treadle.engines.cpu.machine.target import Target


@dataclasses.dataclass(frozen=True)
class Places:
    """Where each word is in the table of addresses and sizes that a kernel is given.

    Args:
        streams, outputs, invariants, matrices, carries: how many of each there are.
    """

    streams: int
    outputs: int
    invariants: int
    matrices: int
    carries: int

    steps, capacity, counts, offsets, resets = range(5)

    @classmethod
    def of(cls, kernel: Kernel, matrices: int) -> "Places":
        """The table of a kernel with so many products."""
        return cls(len(kernel.streams), len(kernel.outputs), len(kernel.invariants), matrices, len(kernel.carries))

    def stream(self, i: int) -> int:
        """The address of a stream; the word after it says how many numbers its rows are apart."""
        return 5 + 2 * i

    def output(self, i: int) -> int:
        """The address of an output, likewise."""
        return self.stream(self.streams) + 2 * i

    def invariant(self, i: int) -> int:
        """The address of what all rows share."""
        return self.output(self.outputs) + i

    def matrix(self, i: int) -> int:
        """The address of a packed matrix."""
        return self.invariant(self.invariants) + i

    def start(self, i: int) -> int:
        """The address of a state before the first step; then that of the one after the last, and what resets give."""
        return self.matrix(self.matrices) + 3 * i

    def finish(self, i: int) -> int:
        """The address where a state ends up."""
        return self.start(i) + 1

    def fresh(self, i: int) -> int:
        """The address of a state that a reset gives; backwards, of the gradient that ends there."""
        return self.start(i) + 2

    def __len__(self) -> int:
        return self.start(self.carries)


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
    buffers: Mapping[Value, Rows]
    pairs: Mapping[Value, Rows]
    """Left operands of products in bfloat16."""
    carries: tuple[tuple[Rows, Rows], ...]
    """Both blocks of a state, which is read from one and written to the other."""
    per_row: int
    """Numbers for each row."""

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
            end += max(rows_of_tile(width, target) * width * lanes for width in widths)
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
    recent = tuple(sum(sizes[:i]) for i in range(len(sizes)))
    return Scratch(recent, sum(sizes), tiles, end, buffers, pairs, carries, start)
