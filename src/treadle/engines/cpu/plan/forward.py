"""The way forwards through a chain, written down."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from treadle.compiler.program import Value
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.rows import Packed, Reads, Slot, of_layout, split_rows
from treadle.engines.cpu.plan.section import Backward, Part, contiguous
from treadle.engines.cpu.routines import copies
from treadle.engines.layout import Layout

if TYPE_CHECKING:
    from treadle.engines.cpu.plan.backward import BackwardRecipe
    from treadle.engines.cpu.plan.chain import Chain

__all__ = ["ForwardRecipe"]


class ForwardRecipe:
    """The way forwards through a chain, for one layout of rows.

    Attributes:
        slots: of each link, where the values are that its backward pass may read.
        active: the links that have a backward pass.
        backwards: the recipes for the way back, which know where this one keeps what.
    """

    def __init__(self, chain: "Chain", layout: Layout, needs: tuple[bool, ...] | None):
        self.chain = chain
        self.backwards: dict[Any, BackwardRecipe] = {}
        self.recipe = recipe = Recipe()
        self.reads = Reads(chain, recipe)
        self.active: dict[int, Backward] = {} if needs is None else active_links(chain, needs)
        self.kept = self._kept()
        parts = {i: self.active[i].forward if i in self.active else link.plain for i, link in enumerate(chain.links)}
        self.split = split_rows(parts.values(), layout)
        packed = Packed(self.reads, parts)
        last = {v: i for i, section in enumerate(chain.sections) for v in section.inputs}
        self.places: dict[Value, Slot] = {}
        self.slots: list[dict[Value, Slot]] = []
        self.results: dict[Any, tuple[int, ...]] = {}
        self.size = chain.dtype.itemsize
        if self.split is not None:
            self._split_inputs(parts, layout)
        for i, part in parts.items():
            self._link(i, part, packed.of[i], layout, last)
        recipe.barrier()

    def _split_inputs(self, parts: Mapping[int, Part], layout: Layout) -> None:
        """Copy the rows of inputs to where each thread has its own."""
        recipe, read = self.recipe, set[Value]()
        for i, part in parts.items():
            outside = self.chain.values_of(i)
            read |= {outside[v] for v in part.streams if outside.get(v) in self.reads.index}
        indices = {self.chain.values_of(i)[v] for i, part in parts.items() for v in part.indices}
        for value in self.chain.inputs:
            kept = value in self.kept
            if value in read or (kept and value.has_rows):
                source = self.reads.row_slot(value, value in indices)
                itemsize = source.key[2].itemsize
                size = max(value.row_numel, 1) * itemsize
                arena = recipe.kept if kept else recipe.scratch
                slot = Slot("kept" if kept else "scratch", arena.room(layout.rows * size).plus, size // itemsize)
                copies.split(
                    recipe, slot.at(recipe)[0], source.at(recipe), layout.steps, self.split or (), size, itemsize
                )
                self.places[value] = slot
        recipe.barrier()

    def _kept(self) -> set[Value]:
        """Which values that links read a backward pass reads, too."""
        kept: set[Value] = set()
        for i, backward in self.active.items():
            outside = self.chain.values_of(i)
            kept |= {outside[v] for v in backward.keeps if v in outside}
        return kept

    def _room(self, kept: bool, rows: int, value: Value) -> Slot:
        numbers = max(value.row_numel, 1)
        key, arena = ("kept", self.recipe.kept) if kept else ("scratch", self.recipe.scratch)
        place = arena.room(rows * numbers * self.size)
        return Slot(key, place.plus, numbers)

    def _link(self, i: int, part: Part, packed: list[Number], layout: Layout, last: Mapping[Value, int]) -> None:
        chain, recipe = self.chain, self.recipe
        section, own = chain.sections[i], chain.links[i].section
        backward, first = self.active.get(i), chain.first_state[i]
        slots: dict[Value, Slot] = {}
        for local, value in zip(own.inputs, section.inputs, strict=True):
            if value in self.places:
                slots[local] = self.places[value]
            elif value.has_rows and self.split is None:
                slots[local] = self.reads.row_slot(value, local in part.indices)
        starts = [recipe.tensor(("start", first + k))[0] for k in range(len(own.old))]
        resets = layout.packed_resets is not None
        fresh = [recipe.tensor(("fresh", first + k))[0] for k in range(len(own.old))] if resets else starts
        given = dict(zip(own.outputs, section.outputs, strict=True))
        late: list[tuple[Slot, Slot, Value]] = []  # copies: to, from, what
        gathers: list[tuple[Value, Value, int]] = []
        if backward is not None:
            for k, (old, new) in enumerate(zip(own.old, own.new, strict=True)):
                if old not in backward.keeps:
                    continue
                if layout.order is None and self.split is None and not resets and new not in slots:
                    # With the first state in front, the states before each step and those after it are one memory.
                    storage = self._room(True, layout.batch + layout.rows, new)
                    slots[old] = storage
                    offset = layout.batch * max(new.row_numel, 1) * self.size
                    slots[new] = dataclasses.replace(storage, offset=storage.offset + offset)
                    copies.copy(recipe, storage.at(recipe)[0], starts[k], offset)
                else:
                    slots[old] = self._room(True, layout.rows, new)
                    gathers.append((old, new, k))
        leaving: list[tuple[Slot, Value]] = []
        for local in part.outputs:
            value = given.get(local)
            seen = value is not None and value in chain.outputs
            if local in slots:
                pass
            elif (backward is not None and local in backward.keeps) or (value is not None and value in self.kept):
                slots[local] = self._room(True, layout.rows, local)
            elif seen and self.split is None:
                slots[local] = self._result(value, layout)
                seen = False
            else:
                slots[local] = self._room(False, layout.rows, local)
                if value is None or value not in last:
                    leaving.append((slots[local], local))
            if seen:
                late.append((self._result(value, layout), slots[local], local))
            if value is not None:
                self.places[value] = slots[local]
        finishes = []
        for k, old in enumerate(own.old):
            key = ("finish", first + k)
            self.results[key] = (layout.batch, *old.row_shape)
            finishes.append(recipe.tensor(key)[0])
            if layout.order is not None:  # a row without steps ends as it starts
                copies.copy(recipe, finishes[-1], starts[k], layout.batch * old.row_numel * self.size)
        if layout.order is not None and own.old:
            recipe.barrier()
        part.compiled.write_down(
            recipe,
            layout,
            [slots[v].at(recipe) for v in part.streams],
            [self.reads.shared(i, v) for v in part.shared],
            packed,
            [slots[v].at(recipe) for v in part.outputs],
            list(zip(starts, finishes, fresh, strict=True)),
            self.split,
        )
        for value, end in last.items():
            if end == i and value in self.places and self.places[value].key == "scratch":
                leaving.append((self.places[value], value))
        # What is copied in the next phase leaves after it.
        copied = {source for _, source, _ in late} | {slots[new] for _, new, _ in gathers}
        for slot, value in leaving:
            if slot not in copied:
                self._leave(slot, value, layout)
        recipe.barrier()
        for slot, value in leaving:
            if slot in copied:
                self._leave(slot, value, layout)
        for to, source, value in late:
            size = value.row_numel * self.size
            if self.split is None:
                copies.copy(recipe, to.at(recipe)[0], source.at(recipe)[0], layout.rows * size)
            elif size:
                addresses = to.at(recipe)[0], source.at(recipe)[0]
                copies.unsplit(recipe, *addresses, layout.steps, self.split, size, self.size)
        for old, new, k in gathers:
            index, size = recipe.tensor("origins")[0], new.row_numel * self.size
            rows = slots[new].at(recipe)[0]
            to = slots[old].at(recipe)[0]
            copies.previous(recipe, to, index, layout.rows, layout.batch, size, fresh[k], starts[k], rows)
        self.slots.append(slots)

    def _leave(self, slot: Slot, value: Value, layout: Layout) -> None:
        size = layout.rows * max(value.row_numel, 1) * self.size
        self.recipe.scratch.leave(self.recipe.scratch.address + slot.offset, size)

    def _result(self, value: Any, layout: Layout) -> Slot:
        key = ("result", self.chain.outputs.index(value))
        self.results[key] = (layout.rows, *value.row_shape)
        return Slot(key, 0, max(value.row_numel, 1))

    def follow(
        self, layout: Layout, inputs: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Run; returns outputs and final states, and the memory that the backward pass reads."""
        chain = self.chain
        tensors = of_layout(layout, self.recipe, self.split)
        self.reads.supply(inputs, tensors)
        for i, start in enumerate(starts):
            tensors["start", i] = contiguous(start, chain.dtype)
        if layout.packed_resets is not None:
            for i, again in enumerate(fresh):
                tensors["fresh", i] = contiguous(again, chain.dtype)
        for key, shape in self.results.items():
            tensors[key] = empty(*shape, dtype=chain.dtype)
        kept = self.recipe.follow(tensors)
        results = []
        for i, value in enumerate(chain.outputs):
            tensor = tensors["result", i]
            tensor = tensor.bool() if value.dtype == torch.bool else tensor
            results.append(tensor.movedim(0, value.batch_axis) if value.batch_axis > 0 else tensor)
        results += [tensors["finish", i] for i in range(len(chain.old))]
        return results, kept


def active_links(chain: "Chain", needs: tuple[bool, ...]) -> dict[int, Backward]:
    """The links through which a gradient flows, and the derivative of each."""
    inputs, states = len(chain.inputs), len(chain.old)
    needed = {v for v, need in zip(chain.inputs, needs, strict=False) if need and v.dtype.is_floating_point}
    found = {}
    for i, (section, link) in enumerate(zip(chain.sections, chain.links, strict=True)):
        wanted = tuple(v in needed for v in section.inputs)
        first = chain.first_state[i]
        of_states = [needs[inputs + k] or needs[inputs + states + k] for k in range(first, first + len(section.old))]
        if any(wanted) or any(of_states):
            found[i] = link.backward(wanted)
            needed |= {v for v in section.outputs if v.dtype.is_floating_point}
    return found
