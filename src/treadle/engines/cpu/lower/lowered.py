"""A kernel lowered for a CPU: everything that is decided before a line of it is written."""

import dataclasses

from treadle.caches import kept_property
from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.engines.cpu.lower.memory_layout import Places, Scratch, scratch_of
from treadle.engines.cpu.lower.packing import Packing, packings_of
from treadle.engines.cpu.machine import cache_sizes
from treadle.engines.cpu.machine.target import Target
from treadle.engines.passes.loop_nests import Kernel, Phase, Schedule
from treadle.engines.passes.precision import Operands
from treadle.engines.passes.schedule import schedule

BLOCK = 48
"""How many rows a kernel without steps takes through all its phases at a time: what stays in the caches."""

# When threads should share out columns: in cycles of a core, as measured on servers of 2023 and 2024.
_MULTIPLY = 0.5
"""To multiply a vector of a matrix with a number of a row."""
_NEAR, _FAR = 2.0, 5.0
"""To read a vector of a matrix, from the second cache or, if it is too large for that, from the third."""
_TOO_LARGE = 1.5
"""How many times the second cache that is: of less, much is still there from the step before."""
_MEETING = 800.0
"""For threads to wait for each other."""
_LINE = 150.0
"""To read a vector that another thread has just written."""
_WORTH = 1.25
"""How many times as fast it has to be, by this reckoning."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lowered:
    """What a kernel's text is written from, and what a caller has to know to run it."""

    kernel: Kernel
    target: Target
    schedule: Schedule
    packings: dict[Value, Packing]
    """Of each product, in the order of the matrices among the arguments."""
    places: Places
    scratch: Scratch

    @kept_property
    def description(self) -> str:
        """What the text follows from, beside the sources of this engine: the kernel, value by value."""
        kernel = self.kernel
        groups = (kernel.streams, kernel.invariants, sum(kernel.carries, ()), kernel.outputs, kernel.sums)
        values = p.ordered(value for group in groups for value in group)
        number = {value: i for i, value in enumerate(values)}
        lines = [
            f"{v.op} {v.attributes!r} {p.show_shape(v.shape)} {v.dtype} {[number[operand] for operand in v.inputs]}"
            for v in values
        ]
        lines += [str([number[value] for value in group]) for group in groups]
        # Weights that are rounded are float32 like others: the text is the same.
        pairs = [operands is Operands.PAIRS for operands in (kernel.precision.right, kernel.precision.left)]
        int8 = [(packing.int8, packing.dots) for packing in self.packings.values()]
        return "\n".join([*lines, f"{kernel.precision.dtype} {kernel.reverse} {pairs} {int8}"])

    def panels(self, phase: Phase) -> int:
        """How many panels a phase's products have; threads can share these out. 1 if it has no products."""
        if isinstance(phase, tuple):
            return 1
        return self.packings[phase if isinstance(phase, Value) else phase.fused[0].product].panels

    def count_side_by_side(self, rows: int, count: int) -> int:
        """How many of so many threads should share out columns of so many rows; 1 if each takes rows of its own."""
        packings = self.packings.values()
        count = min(count, max((packing.panels for packing in packings), default=1))
        if count < 2:
            return 1
        itemsize = self.kernel.precision.dtype.itemsize
        lanes = self.target.lanes(itemsize)
        vectors = sum(packing.size for packing in packings) / lanes

        def products(share: float, of_rows: int) -> float:
            read = _NEAR if share * lanes * itemsize <= _TOO_LARGE * cache_sizes.second() else _FAR
            return share * max(of_rows * _MULTIPLY, read)

        written = sum(product.inputs[0].row_numel for product in self.packings) * rows / lanes
        apart = products(vectors, -(-rows // count))
        together = products(vectors / count, rows) + len(self.schedule.grouped) * _MEETING
        together += written * (count - 1) / count * _LINE
        return count if apart > _WORTH * together else 1


def lower(kernel: Kernel, target: Target) -> Lowered:
    """Decide how a kernel is computed on a CPU."""
    lanes = target.lanes(kernel.precision.dtype.itemsize)
    plan = schedule(kernel)
    packings = packings_of(plan, target, lanes)
    scratch = scratch_of(plan, packings, target, lanes)
    groups = kernel.streams, kernel.outputs, kernel.invariants, packings, kernel.carries
    places = Places.of(*map(len, groups))
    return Lowered(kernel, target, plan, packings, places, scratch)
