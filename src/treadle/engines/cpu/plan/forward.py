"""The forward pass of a chain, written down."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.compiler.program import Value
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.plan.frame import Axis, Frame
from treadle.engines.cpu.plan.kernel import Carry
from treadle.engines.cpu.plan.links import Link, Links
from treadle.engines.cpu.plan.rows import ORIGINS, Role, TensorKey, keys_of
from treadle.engines.cpu.plan.slots import Block, Draft, Slot
from treadle.engines.cpu.routines import copies
from treadle.engines.layout import Layout
from treadle.engines.passes.rows import contiguous, with_rows_in_place
from treadle.engines.passes.section_passes import DerivedPasses, Pass

_NEAR = 8192
"""Bytes of a state in a thread's rows from which on other threads are far enough away, and copying costs more."""


class ForwardRecipe:
    """The forward pass of a chain, for the layouts of a frame; ``needs`` as in `Links.derivatives`, or None.

    Attributes:
        derivatives: the links that have a backward pass.
        slots: of each link, where the values are that its backward pass may read.
        runs: the runs of rows that lie apart, if they do.
    """

    def __init__(self, links: Links, frame: Frame, needs: Sequence[bool] | None):
        self.links = links
        self.derivatives = {} if needs is None else links.derivatives(needs)
        writer = _Writer(links, frame, self.derivatives)
        self.recipe, self.supply = writer.draft.recipe, writer.draft.supply
        self.slots, self.frame, self.runs = writer.slots, frame, writer.draft.runs

    def follow(
        self, layout: Layout, inputs: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Run; returns outputs and final states, and the memory that the backward pass reads."""
        tensors = self.tensors(layout, inputs, starts, fresh)
        kept = self.recipe.follow(tensors, about=layout)
        return self.given_back([tensors[key] for key in self.results]), kept

    def tensors(
        self, layout: Layout, inputs: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> dict[TensorKey, Tensor]:
        """What a call reads, and new memory for what it writes."""
        links, dtype = self.links, self.links.dtype
        tensors = self.supply.tensors(layout, inputs)
        for key, start in zip(keys_of(Role.START, links.states), starts, strict=True):
            tensors[key] = contiguous(start, dtype)
        if layout.packed_resets is not None:
            for key, again in zip(keys_of(Role.FRESH, links.states), fresh, strict=True):
                tensors[key] = contiguous(again, dtype)
        return tensors

    @kept_property
    def results(self) -> tuple[TensorKey, ...]:
        """The keys of outputs and final states, in order."""
        return (*keys_of(Role.OUTPUT, len(self.links.outputs)), *keys_of(Role.END, self.links.states))

    def given_back(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Outputs and final states as whoever asked for them has them."""
        outputs = self.links.outputs
        return [
            with_rows_in_place(tensor.bool() if value.dtype == torch.bool else tensor, value)
            for tensor, value in zip(results, outputs, strict=False)
        ] + list(results[len(outputs) :])


class _Shifted(NamedTuple):
    """A state before each step, to be taken from that after the step before it once the kernel has run."""

    old: Value
    new: Value
    carry: Carry


class _Writer:
    """Writes the forward pass down: ``places`` are of values of the chain, ``slots`` of each link's own ones."""

    def __init__(self, links: Links, frame: Frame, derivatives: Mapping[Link, DerivedPasses]):
        self.links, self.frame, self.derivatives = links, frame, derivatives
        self.passes = {
            link: derivatives[link].forward if link in derivatives else link.compiled.plain for link in links
        }
        self.draft = Draft(links, frame, _runs_apart(self.passes.values(), frame))
        self.recipe = self.draft.recipe
        self.kept = {link.inputs[v] for link, d in derivatives.items() for v in d.keeps if v in link.inputs}
        self.readers = collections.Counter(v for link in links for v in link.section.inputs)
        self.places: dict[Value, Slot] = {}
        self.slots: dict[Link, dict[Value, Slot]] = {}
        packed = self.draft.pack(self.passes)
        if self.draft.runs:
            self._split_inputs()
        for link in links:
            self._link(link, packed[link])
        self.recipe.barrier()

    def _split_inputs(self) -> None:
        """Copy the rows of inputs to where each thread has its own."""
        passes = self.passes.items()
        read = {link.inputs[v] for link, one in passes for v in one.streams if v in link.inputs}
        indices = {link.inputs[v] for link, one in passes for v in one.indices}
        for value in self.links.inputs:
            kept = value in self.kept
            if value in read or (kept and value.has_rows):
                key = self.draft.supply.rows_of(value, value in indices)
                itemsize = self.draft.supply.dtype(key).itemsize
                slot = self.draft.room(value, Block.KEPT if kept else Block.SCRATCH, itemsize)
                self.draft.split(Slot(key), slot, itemsize)
                self.draft.will_use(slot, self.readers[value])
                self.draft.has_used(slot)
                self.places[value] = slot
        self.recipe.barrier()

    def _link(self, link: Link, packed: Sequence[Number]) -> None:
        slots = self.slots[link] = self._input_slots(link)
        read = [*slots.values()]
        carries = self._carries(link)
        shifted = self._keep_states_before_steps(link, slots, carries)
        copied_out, rooms = self._output_slots(link, slots)
        for states in shifted:
            self.draft.will_use(slots[states.new])
        if carries and not self.frame.is_whole:  # a row without steps ends as it starts
            for old, carry in zip(link.own.old, carries, strict=True):
                self.draft.copy_state(carry.end, carry.start, old)
            self.recipe.barrier()
        self.draft.run(link, self.passes[link], packed, slots, carries)
        for slot in (*read, *rooms):
            self.draft.has_used(slot)
        self.recipe.barrier()
        for own in copied_out:
            self.draft.copy_out(slots[own], self._output(link.outputs[own]), own)
        for states in shifted:
            self._shift(states, slots)

    def _input_slots(self, link: Link) -> dict[Value, Slot]:
        """Where the link's own inputs with rows are."""
        slots = {}
        for own, value in link.inputs.items():
            if value in self.places:
                slots[own] = self.places[value]
            elif value.has_rows and not self.draft.runs:
                slots[own] = Slot(self.draft.supply.rows_of(value, own in self.passes[link].indices))
        return slots

    def _carries(self, link: Link) -> list[Carry]:
        """Where the link's states start, end, and start again at resets."""
        carries = []
        for k, old in zip(link.states, link.own.old, strict=True):
            start = self.recipe.tensor(TensorKey(Role.START, k))[0]
            fresh = self.recipe.tensor(TensorKey(Role.FRESH, k))[0] if self.frame.has_resets else start
            end = self.draft.supply.new(TensorKey(Role.END, k), *old.row_shape, axis=Axis.BATCH)
            carries.append(Carry(start, end, fresh))
        return carries

    def _keep_states_before_steps(
        self, link: Link, slots: dict[Value, Slot], carries: Sequence[Carry]
    ) -> list[_Shifted]:
        """Find room for the states before each step that are kept; returns those that have to be copied there."""
        shifted = []
        keeps = self.derivatives[link].keeps if link in self.derivatives else ()
        simple = self.frame.is_whole and not self.draft.runs and not self.frame.has_resets
        for (old, new), carry in zip(link.compiled.carries, carries, strict=True):
            if old not in keeps:
                continue
            if simple and new not in slots:
                # With the first state in front, the states before each step and those after it are one memory.
                slots[old] = before = self.draft.room(new, Block.KEPT, more=self.frame.most_batch)
                slots[new] = dataclasses.replace(before, per_row=max(new.row_numel, 1) * self.draft.itemsize)
                self.draft.copy_state(before.at(self.recipe).address, carry.start, new)
            else:
                slots[old] = self.draft.room(new, Block.KEPT)
                shifted.append(_Shifted(old, new, carry))
        return shifted

    def _output_slots(self, link: Link, slots: dict[Value, Slot]) -> tuple[list[Value], list[Slot]]:
        """Find room for what a link writes; returns what is copied to an output of the chain, and the room."""
        copied_out, rooms = [], []
        for own in self.passes[link].outputs:
            value = link.outputs.get(own)
            is_output = value in self.links.outputs
            if own not in slots:
                kept = value in self.kept or (link in self.derivatives and own in self.derivatives[link].keeps)
                if value is not None and is_output and not kept and not self.draft.runs:
                    slots[own] = self._output(value)
                    is_output = False
                else:
                    slots[own] = self.draft.room(own, Block.KEPT if kept else Block.SCRATCH)
                    rooms.append(slots[own])
            if is_output:
                copied_out.append(own)
            if value is not None:
                self.places[value] = slots[own]
                self.draft.will_use(slots[own], self.readers[value] + is_output)
        return copied_out, rooms

    def _output(self, value: Value) -> Slot:
        """The tensor of an output of the chain."""
        return self.draft.new_tensor(TensorKey(Role.OUTPUT, self.links.outputs.index(value)), value)

    def _shift(self, states: _Shifted, slots: Mapping[Value, Slot]) -> None:
        """Copy the states after each step, and those that rows start with, to where those before each step belong."""
        recipe, count = self.recipe, self.draft.rows
        to, rows = slots[states.old].at(recipe).address, slots[states.new].at(recipe).address
        index, size = recipe.tensor(ORIGINS)[0], states.new.row_numel * self.draft.itemsize
        fresh, start = states.carry.fresh, states.carry.start
        copies.previous(recipe, to, index, count, self.draft.batch.number, size, fresh, start, rows)
        self.draft.has_used(slots[states.new])


def _runs_apart(passes: Iterable[Pass], frame: Frame) -> int:
    """How many runs of rows lie apart from each other, one for each thread; none if all are in one place."""
    if not frame.is_whole:
        return 0
    loops = [one for one in passes if one.kernel.carries]
    runs = max((one.compiled.threads_by_rows(frame) for one in loops), default=1)
    if runs < 2:
        return 0
    widest = max(old.row_numel * one.kernel.precision.dtype.itemsize for one in loops for old, _ in one.kernel.carries)
    return runs if widest * frame.most_of_a_share(runs) <= _NEAR else 0
