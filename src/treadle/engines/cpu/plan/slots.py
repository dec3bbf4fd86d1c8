"""Where the rows of a value lie while a recipe runs, and a recipe under construction, which finds room for them."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence

from treadle.compiler.program import Value
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.frame import Axis, Frame
from treadle.engines.cpu.plan.kernel import Arguments, Carry, Rows, Sums
from treadle.engines.cpu.plan.links import Link, Links
from treadle.engines.cpu.plan.rows import TensorKey
from treadle.engines.cpu.plan.supply import Supply
from treadle.engines.cpu.routines import copies
from treadle.engines.passes.precision import Operands
from treadle.engines.passes.section_passes import Pass


class Block(enum.Enum):
    """A block of memory of a recipe."""

    KEPT = "what the backward pass reads"
    SCRATCH = "what ends with the call"


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where rows are.

    Args:
        where: a block of memory, or a tensor.
        offset: where in it, in bytes.
        per_row: how many bytes behind that for each row of the batch.
        stride: how many numbers rows are apart; None if the tensor says it.
    """

    where: Block | TensorKey
    offset: int = 0
    stride: int | None = None
    per_row: int = 0

    def at(self, recipe: Recipe) -> Rows:
        """The address and the distance of rows, for a recipe."""
        if isinstance(self.where, Block):
            block = recipe.kept if self.where is Block.KEPT else recipe.scratch
            address = block.address + self.offset
            if self.per_row:
                address += recipe.number("batch", Axis.BATCH.size) * self.per_row
            return Rows(address, self.stride or 0)
        address, stride, _ = recipe.tensor(self.where)
        return Rows(address + self.offset, stride if self.stride is None else self.stride)


class Draft:
    """A recipe under construction, for the layouts of a frame.

    So many ``runs`` of rows lie apart from each other, one for each thread; none if all are in one place.
    """

    def __init__(self, links: Links, frame: Frame, runs: int):
        self.links, self.frame, self.runs = links, frame, runs
        self.recipe = Recipe()
        self.rows, self.batch = frame.rows(self.recipe), frame.batch(self.recipe)
        self.supply = Supply(links, self.recipe, runs)
        self.itemsize = links.dtype.itemsize
        self._uses: dict[int, int] = {}  # of places in scratch memory

    def room(self, value: Value, block: Block = Block.SCRATCH, itemsize: int | None = None, more: int = 0) -> Slot:
        """Room for the rows of a value, and for some ``more`` of them."""
        stride = max(value.row_numel, 1)
        arena = self.recipe.kept if block is Block.KEPT else self.recipe.scratch
        place = arena.room((self.rows.most + more) * stride * (itemsize or self.itemsize))
        if block is Block.SCRATCH:
            self._uses[place.plus] = 1
        return Slot(block, place.plus, stride)

    def will_use(self, slot: Slot, times: int = 1) -> None:
        """Whoever asked for room uses it once; so many times somebody else will."""
        if slot.where is Block.SCRATCH:
            self._uses[slot.offset] += times

    def has_used(self, slot: Slot) -> None:
        """What tasks of the present phase use for the last time makes room in the next one."""
        if slot.where is Block.SCRATCH:
            self._uses[slot.offset] -= 1
            if not self._uses[slot.offset]:
                size = self.rows.most * (slot.stride or 0) * self.itemsize
                self.recipe.scratch.leave(self.recipe.scratch.address + slot.offset, size)

    def new_tensor(self, key: TensorKey, value: Value) -> Slot:
        """A tensor of its own for the rows of a value."""
        self.supply.new(key, *value.row_shape, axis=Axis.ROWS)
        return Slot(key, 0, max(value.row_numel, 1))

    def split(self, source: Slot, to: Slot, itemsize: int | None = None) -> None:
        """Copy rows that lie step after step to where each thread has its own."""
        itemsize = itemsize or self.itemsize
        size, rows = (to.stride or 0) * itemsize, source.at(self.recipe)
        runs = self.frame.runs(self.recipe, self.runs)
        copies.split(self.recipe, to.at(self.recipe).address, rows, runs, size, itemsize)

    def copy_out(self, source: Slot, to: Slot, value: Value) -> None:
        """Copy dense rows to where they lie step after step; a use of them."""
        size, recipe = value.row_numel * self.itemsize, self.recipe
        addresses = to.at(recipe).address, source.at(recipe).address
        if not self.runs:
            copies.copy(recipe, *addresses, self.rows, size)
        elif size:
            copies.unsplit(recipe, *addresses, self.frame.runs(recipe, self.runs), size, self.itemsize)
        self.has_used(source)

    def copy_state(self, to: Number, source: Number, state: Value) -> None:
        """Copy a state [B, ...]."""
        copies.copy(self.recipe, to, source, self.batch, state.row_numel * self.itemsize)

    def pack(self, passes: Mapping[Link, Pass]) -> dict[Link, list[Number]]:
        """The right operands of the products of several kernels, packed before any of them runs."""
        packed = {}
        for link, one in passes.items():
            matrices = [self.supply.matrix(link, operand) for operand, _ in one.compiled.operands]
            packed[link] = one.compiled.pack(self.recipe, matrices)
        if any(one.kernel.precision.right is Operands.PAIRS for one in passes.values()):
            self.recipe.barrier()
        packed = {link: one.compiled.pair_up(self.recipe, packed[link]) for link, one in passes.items()}
        self.recipe.barrier()
        return packed

    def run(
        self, link: Link, one: Pass, packed: Sequence[Number], slots: Mapping[Value, Slot], carries: Sequence[Carry]
    ) -> Sums:
        """Run the kernel of a link's pass on what is in these slots."""
        arguments = Arguments(
            [slots[v].at(self.recipe) for v in one.streams],
            [self.supply.shared(link, v) for v in one.shared],
            packed,
            [slots[v].at(self.recipe) for v in one.outputs],
            carries,
        )
        return one.compiled.write_down(self.recipe, self.frame, arguments, self.runs)
