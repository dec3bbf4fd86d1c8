"""A kernel, compiled, and how it is run: rows shared out over threads."""

import ctypes
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from treadle.compiler.program import EXPENSIVE, Value
from treadle.compiler.walk import preorder
from treadle.engines.cpu.lower.precision import Operands
from treadle.engines.cpu.lower.schedule import Kernel
from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.arena import Number, Word
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import Target, host
from treadle.engines.cpu.routines.weight_panels import pack, pair_up
from treadle.engines.cpu.write.emit import BLOCK, emit
from treadle.engines.cpu.write.rendezvous import WORDS
from treadle.engines.cpu.write.side_by_side import AbreastEmitter, side_by_side
from treadle.engines.layout import Layout

__all__ = ["RUN", "CompiledKernel", "Sums", "compiled"]

RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
# Below this many vector operations a second thread costs more than it helps: about 20 microseconds.
_WORTH_A_THREAD = 60_000
_TILES = 24


class CompiledKernel:
    """The machine code of a kernel.

    Args:
        kernel: what it computes.
        target: the CPU; this machine's by default.
    """

    def __init__(self, kernel: Kernel, target: Target | None = None):
        target = target or host()
        self.kernel, self.target = kernel, target
        self.code = emit(kernel, target)
        self.operands = [(packing.product.inputs[1], packing) for packing in self.code.packings]
        self.library = compilation.recall(self.code.description, ("run",), self.code.write, target)
        self.address = self.library.address("run")
        self.function = RUN(self.address)
        lanes = target.lanes(kernel.precision.dtype.itemsize)
        self.row_cost = sum(packing.size / lanes for packing in self.code.packings)
        computed = {v for phase in self.code.schedule.phases for v in _evaluated(phase, kernel.memory)}
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

    def write_down(
        self,
        recipe: Recipe,
        layout: Layout,
        streams: Sequence[tuple[Number, Number]],
        invariants: Sequence[Number],
        packed: Sequence[Number],
        outputs: Sequence[tuple[Number, Number]],
        carries: Sequence[tuple[Number, Number, Number]] = (),
        split: Sequence[tuple[int, int]] | None = None,
    ) -> "Sums":
        """Write down a run over all rows (or all steps).

        Args:
            recipe: what does it.
            layout: how rows lie; its counts, offsets and resets are tensors of these names.
            streams: of each, where it is and how many numbers its rows are apart.
            invariants, packed: where they are.
            outputs: as streams, but written.
            carries: of each, where it starts [B, ...], where it ends up, and what resets start from.
            split: the runs of rows that lie apart, if they do; the offsets of each are a tensor of a run's number.

        Returns:
            Where the kernel's sums are once it has run.
        """
        shares = self.shares(layout) if split is None or not self.kernel.carries else split
        capacity = max(last - first for first, last in shares) if self.kernel.carries else BLOCK
        table: list[Number] = [layout.steps, capacity, recipe.tensor("counts")[0], recipe.tensor("offsets")[0]]
        table.append(0 if layout.packed_resets is None else recipe.tensor("resets")[0])
        for group in (*streams, *outputs):
            table += group
        table += [*invariants, *packed]
        for group in carries:
            table += group
        arguments = [recipe.table(table)] * len(shares)
        if split is not None and self.kernel.carries:
            runs = range(len(split))
            arguments = [recipe.table([*table[:3], recipe.tensor(("offsets", i))[0], *table[4:]]) for i in runs]
        itemsize = self.kernel.precision.dtype.itemsize
        abreast = self.abreast(layout) if split is None else 1
        if abreast > 1:
            return self._write_down_abreast(recipe, arguments[0], capacity, abreast)
        size = -(-(self.code.fixed + capacity * self.code.per_row + 64) * itemsize // 64) * 64
        scratch = recipe.scratch.room(len(shares) * size)
        for i, (first, last) in enumerate(shares):
            recipe.task(self.address, (arguments[i], first, last, scratch + i * size))
        if not self.kernel.sums:
            recipe.scratch.leave(scratch, len(shares) * size)
        return Sums(scratch, size, len(shares), self.code.sums)

    def _write_down_abreast(self, recipe: Recipe, table: Word, rows: int, count: int) -> "Sums":
        """Write down a run by so many threads side by side."""
        itemsize = self.kernel.precision.dtype.itemsize
        shared = -(-(rows * self.code.per_row + 64) * itemsize // 64) * 64
        own = -(-(self.code.fixed + 64) * itemsize // 64) * 64
        scratch = recipe.scratch.room(shared + count * own)
        meeting = recipe.table([0] * WORDS)
        for _ in range(count):
            given = table, count, scratch, scratch + shared, own, meeting, threads.yield_address()
            recipe.task(self._abreast_address, given)
        if not self.kernel.sums:
            recipe.scratch.leave(scratch, shared + count * own)
        return Sums(scratch + shared, own, count, self.code.sums)

    @functools.cached_property
    def _abreast_address(self) -> int:
        emitter = AbreastEmitter(self.kernel, self.target)
        library = compilation.recall(f"abreast\n{self.code.description}", ("run",), emitter.text, self.target)
        return library.address("run")

    def abreast(self, layout: Layout) -> int:
        """How many threads take all rows side by side, each some of the columns; 1 if they rather share out rows."""
        count = threads.count(self._worth(layout))
        return side_by_side(self.code, layout.batch, count) if self.kernel.carries else 1

    def _worth(self, layout: Layout) -> int:
        """How many threads the work is worth."""
        return max(1, int(self.row_cost * layout.rows // _WORTH_A_THREAD))

    def shares(self, layout: Layout) -> list[tuple[int, int]]:
        """Which rows go to which thread."""
        steps = bool(self.kernel.carries)
        rows = layout.batch if steps else layout.rows
        count = threads.count(min(rows, self._worth(layout)))
        if count == 1 or self.abreast(layout) > 1:
            return [(0, rows)]
        if steps:
            return layout.shares(count)
        # Whole tiles for everybody but the last: 24 rows are tiles of 4, 6, 8 and 12 without a rest.
        step = -(-rows // (count * _TILES)) * _TILES if rows > count * BLOCK else -(-rows // count)
        return [(first, min(first + step, rows)) for first in range(0, rows, step)]


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


@functools.lru_cache(maxsize=512)
def compiled(kernel: Kernel) -> CompiledKernel:
    """The compiled form of a kernel; one for all that ask for the same, such as layers that are alike."""
    return CompiledKernel(kernel)
