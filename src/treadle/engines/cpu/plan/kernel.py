"""A kernel, compiled, and how it is run: rows shared out over threads."""

import ctypes
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from treadle.caches import kept_property, kept_while_used
from treadle.compiler.program import EXPENSIVE, Value
from treadle.compiler.walk import preorder
from treadle.engines.cpu.lower.lowered import BLOCK, lower
from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.arena import Number, Word
from treadle.engines.cpu.machine.extent import Part
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import Target, host
from treadle.engines.cpu.plan.frame import Frame
from treadle.engines.cpu.plan.rows import COUNTS, OFFSETS, RESETS, Role, TensorKey
from treadle.engines.cpu.routines.kernel_code import kernel_code
from treadle.engines.cpu.routines.weight_panels import pack, pair_up
from treadle.engines.cpu.write import by_rows, side_by_side
from treadle.engines.cpu.write.rendezvous import WORDS
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Operands

RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
# Below this many vector operations a second thread costs more than it helps: about 20 microseconds.
_WORTH_A_THREAD = 60_000
_TILES = 24


class Rows(NamedTuple):
    """Where rows are, and how many numbers they are apart."""

    address: Number
    stride: Number


class Carry(NamedTuple):
    """A state [B, ...]: where it starts, where it ends up, and what resets start from."""

    start: Number
    end: Number
    fresh: Number


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a kernel is given: the rows that it reads, what all rows share, packed matrices, the rows that it writes."""

    streams: Sequence[Rows]
    invariants: Sequence[Number]
    packed: Sequence[Number]
    outputs: Sequence[Rows]
    carries: Sequence[Carry] = ()

    def table(self, steps: Number, capacity: Number, counts: Number, offsets: Number, resets: Number) -> list[Number]:
        """The numbers of `Places`, in order; a thread takes ``capacity`` rows at most, and no resets are 0."""
        rows = [number for group in (*self.streams, *self.outputs) for number in group]
        states = [number for carry in self.carries for number in carry]
        return [steps, capacity, counts, offsets, resets, *rows, *self.invariants, *self.packed, *states]


class CompiledKernel:
    """The machine code of a kernel, for this machine's CPU by default.

    Attributes:
        matrices: the right operands of products, in the order of the arguments, and how each is packed.
        operands: those of them that are not kept as int8.
    """

    def __init__(self, kernel: Kernel, target: Target | None = None):
        target = target or host()
        self.kernel, self.target = kernel, target
        self.lowered = lowered = lower(kernel, target)
        self.matrices = [(product.inputs[1], packing) for product, packing in lowered.packings.items()]
        self.operands = [(matrix, packing) for matrix, packing in self.matrices if matrix not in kernel.int8]
        self._library = kernel_code(lowered, "by rows", "run", by_rows.text)
        self.address = self._library.address("run")
        lanes = target.lanes(kernel.precision.dtype.itemsize)
        self.row_cost = sum(packing.size / lanes for packing in lowered.packings.values())
        computed = {v for phase in lowered.schedule.phases for v in _evaluated(phase, kernel.memory)}
        self.row_cost += sum(v.row_numel / lanes * (20 if v.op in EXPENSIVE else 1) for v in computed)

    def pack(self, recipe: Recipe, matrices: Sequence[tuple[Number, Number, Number]]) -> list[Number]:
        """Write down how to pack the right operands (address, strides) of all products, in the order of `operands`.

        Where the kernel wants them in pairs the result needs `pair_up` after the next barrier.
        """
        return [
            pack(recipe, matrix, packing, self.kernel.precision, self.target)
            for matrix, (_, packing) in zip(matrices, self.operands, strict=True)
        ]

    def pair_up(self, recipe: Recipe, packed: Sequence[Number]) -> list[Number]:
        """Write down how to round packed matrices, if the kernel wants them in pairs."""
        if self.kernel.precision.right is not Operands.PAIRS:
            return list(packed)
        operands = zip(packed, self.operands, strict=True)
        return [pair_up(recipe, matrix, packing, self.target) for matrix, (_, packing) in operands]

    def write_down(self, recipe: Recipe, frame: Frame, arguments: Arguments, runs: int = 0) -> "Sums":
        """Write down a run over all rows (or all steps); returns where the kernel's sums are once it has run.

        Counts, offsets and resets of the layout are tensors of the recipe, and if so many ``runs`` of rows lie apart,
        so are the offsets of each.
        """
        recipe.keep(self._library)
        count = 1 if runs else self.threads_side_by_side(frame)
        if count > 1:
            return self._write_down_side_by_side(recipe, frame, arguments, count)
        if self.kernel.carries:
            count = runs or self.threads_by_rows(frame)
            shares = frame.shares(recipe, count) if count > 1 else [(0, frame.batch(recipe).number)]
            capacity = frame.most_of_a_share(count)
        else:
            runs, shares, capacity = 0, self._shares_of_all_rows(recipe, frame), BLOCK
        if runs:
            offsets = [TensorKey(Role.RUN_OFFSETS, i) for i in range(runs)]
            tables = [self._table(recipe, frame, arguments, capacity, key) for key in offsets]
        else:
            tables = [self._table(recipe, frame, arguments, capacity, OFFSETS)] * len(shares)
        size = self._scratch_size(self.lowered.scratch.own(capacity) + capacity * self.lowered.scratch.per_row)
        scratch = recipe.scratch.room(len(shares) * size)
        for i, (table, (first, last)) in enumerate(zip(tables, shares, strict=True)):
            recipe.task(self.address, (table, first, last, scratch + i * size))
        if not self.kernel.sums:
            recipe.scratch.leave(scratch, len(shares) * size)
        return Sums(scratch, size, len(shares), self.lowered.scratch.sums)

    def _write_down_side_by_side(self, recipe: Recipe, frame: Frame, arguments: Arguments, count: int) -> "Sums":
        """Write down a run by so many threads side by side."""
        batch = frame.batch(recipe)
        table = self._table(recipe, frame, arguments, batch.number, OFFSETS)
        shared = self._scratch_size(batch.most * self.lowered.scratch.per_row)
        own = self._scratch_size(self.lowered.scratch.own(batch.most))
        scratch = recipe.scratch.room(shared + count * own)
        meeting = recipe.table([0] * WORDS)
        library = self._side_by_side
        recipe.keep(library)
        for _ in range(count):
            given = table, count, scratch, scratch + shared, own, meeting, threads.yield_address()
            recipe.task(library.address("run"), given)
        if not self.kernel.sums:
            recipe.scratch.leave(scratch, shared + count * own)
        return Sums(scratch + shared, own, count, self.lowered.scratch.sums)

    def _table(self, recipe: Recipe, frame: Frame, arguments: Arguments, capacity: Number, offsets: TensorKey) -> Word:
        """The address of what the kernel is given, as numbers."""
        resets = recipe.tensor(RESETS)[0] if frame.has_resets else 0
        counts, starts = recipe.tensor(COUNTS)[0], recipe.tensor(offsets)[0]
        return recipe.table(arguments.table(frame.steps(recipe), capacity, counts, starts, resets))

    def _scratch_size(self, numbers: int) -> int:
        """The bytes of a thread's memory for so many numbers: whole cache lines, and room to align the first."""
        return -(-(numbers + 64) * self.kernel.precision.dtype.itemsize // 64) * 64

    @kept_property
    def _side_by_side(self) -> compilation.Library:
        return kernel_code(self.lowered, "side by side", "run", side_by_side.text)

    def threads_side_by_side(self, frame: Frame) -> int:
        """How many threads take all rows together, each some of the columns; 1 if they rather share out rows."""
        count = threads.count(self._worth(frame))
        return self.lowered.count_side_by_side(frame.most_batch, count) if self.kernel.carries else 1

    def _worth(self, frame: Frame) -> int:
        """How many threads the work is worth."""
        return max(1, int(self.row_cost * frame.most_rows // _WORTH_A_THREAD))

    def threads_by_rows(self, frame: Frame) -> int:
        """How many threads share out the rows of the batch."""
        count = threads.count(min(frame.most_batch, self._worth(frame)))
        return 1 if self.threads_side_by_side(frame) > 1 else count

    def _shares_of_all_rows(self, recipe: Recipe, frame: Frame) -> list[Part]:
        """Which rows of all steps go to which thread."""
        rows = frame.rows(recipe)
        count = threads.count(min(rows.most, self._worth(frame)))
        # Whole tiles for everybody but the last: 24 rows are tiles of 4, 6, 8 and 12 without a rest.
        return rows.parts(count, _TILES if rows.most > count * BLOCK else 1)


def _evaluated(phase: Any, memory: set[Value]) -> list[Value]:
    """What the nests of a phase compute; what they load costs little."""
    if isinstance(phase, Value):
        return []
    met = preorder(
        (root.value for root in phase.roots), lambda value: () if value.op == "dot" else value.inputs, memory
    )
    return [value for value in met if value.op != "dot"]


@dataclasses.dataclass(frozen=True)
class Sums:
    """Where the sums of a kernel are, a part of them for each thread. Whoever has read them leaves the room."""

    address: Word
    stride: int
    """Bytes between those of one thread and of the next."""
    terms: int
    """How many threads there are."""
    begins: tuple[int, ...]
    """Where each sum begins."""


@kept_while_used
def compiled(kernel: Kernel) -> CompiledKernel:
    """The compiled form of a kernel; one for all that ask for the same, such as layers that are alike."""
    return CompiledKernel(kernel)
