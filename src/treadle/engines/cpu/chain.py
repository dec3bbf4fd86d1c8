"""Sections that follow each other, as one node of PyTorch's autograd: a recipe for each way through it.

What a section gives and another one reads never becomes a tensor of PyTorch's: it is a place in a block of memory. The
block that the backward pass reads is one tensor, the other one ends with the call.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.cpu import moves
from treadle.engines.cpu.contract import outer
from treadle.engines.cpu.kernel import Sums, compiled
from treadle.engines.cpu.memory import empty
from treadle.engines.cpu.pack import halve_rows
from treadle.engines.cpu.recipe import Number, Recipe, Word
from treadle.engines.cpu.schedule import Kernel
from treadle.engines.cpu.section import Backward, CompiledSection, Part, contiguous, dense_rows, part_of
from treadle.engines.cpu.target import host
from treadle.engines.interpreter import run_section
from treadle.engines.layout import Layout, Split

__all__ = ["Chain"]

_MOST_RECIPES = 16
_NEAR = 8192
"""Bytes of a state in a thread's rows from which on other threads are far enough away, and copying costs more."""
_WIDE = 512
"""Features from which the left operand of a product over rows is better the other one: its rows are pages apart."""


class Chain:
    """Sections that run one after another.

    Args:
        sections: loops and parallel ones, of one precision.
        links: the compiled form of each.
        visible: which of the values that they give are read outside.
    """

    def __init__(self, sections: Sequence[Section], links: Sequence[CompiledSection], visible: Iterable[Value]):
        self.sections, self.links = tuple(sections), tuple(links)
        self.dtype = links[0].dtype
        made = {value for section in sections for value in section.outputs}
        visible = set(visible)
        self.inputs = tuple(dict.fromkeys(v for section in sections for v in section.inputs if v not in made))
        self.outputs = tuple(dict.fromkeys(v for section in sections for v in section.outputs if v in visible))
        self.states = tuple(name for section in sections for name in section.states)
        self.old = tuple(value for section in sections for value in section.old)
        self.new = tuple(value for section in sections for value in section.new)
        self.first_state = [sum(len(s.old) for s in sections[:i]) for i in range(len(sections))]
        self._recipes: dict[Any, Any] = {}

    def run(
        self, layout: Layout, inputs: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs [N, ...], and the states after the last step of each row."""
        everything = [*inputs, *starts, *fresh]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in everything):
            results = list(_Node.apply(self, layout, *everything))  # pyright: ignore
        else:
            with torch.no_grad():
                results, _ = self.forward(layout, None).follow(layout, inputs, starts, fresh)
        count = len(self.outputs)
        return results[:count], results[count:]

    def forward(self, layout: Layout, needs: tuple[bool, ...] | None) -> "_ForwardRecipe":
        """The way forwards; ``needs`` says of inputs, starts and fresh states whether gradients are wanted."""
        key = (needs, layout.key, torch.get_num_threads())
        return _found(self._recipes, key, lambda: _ForwardRecipe(self, layout, needs))

    def backward(self, forward: "_ForwardRecipe", layout: Layout, given: tuple[bool, ...]) -> "_BackwardRecipe":
        """The way back; ``given`` says of outputs and final states whether there is a gradient from above."""
        make = lambda: _BackwardRecipe(self, forward, layout, given)  # noqa: E731
        return _found(forward.backwards, (given, torch.get_num_threads()), make)

    def values_of(self, number: int) -> dict[Value, Value]:
        """Of a link: what its own inputs are in the chain."""
        return dict(zip(self.links[number].section.inputs, self.sections[number].inputs, strict=True))


def _found(recipes: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """The recipe of that key, made if there is none; the oldest one is forgotten where there are many."""
    found = recipes.get(key)
    if found is None:
        found = make()
        if len(recipes) >= _MOST_RECIPES:
            recipes.pop(next(iter(recipes)), None)
        recipes[key] = found
    return found


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Where rows are: in a block of memory or in a tensor, and how many numbers they are apart (None: the tensor's)."""

    key: Any
    offset: int = 0
    stride: int | None = None

    def at(self, recipe: Recipe) -> tuple[Number, Number]:
        """The address and the distance of rows, for a recipe."""
        if self.key == "kept":
            address: Word = recipe.kept.address + self.offset
            stride: Number = self.stride or 0
        elif self.key == "scratch":
            address, stride = recipe.scratch.address + self.offset, self.stride or 0
        else:
            address, own, _ = recipe.tensor(self.key)
            address, stride = address + self.offset, own if self.stride is None else self.stride
        return address, stride


class _Reads:
    """The tensors that a recipe reads, as they have to be for machine code."""

    def __init__(self, chain: Chain, recipe: Recipe):
        self.chain, self.recipe = chain, recipe
        self.index = {value: i for i, value in enumerate(chain.inputs)}
        self.rows: dict[Any, tuple[int, int, torch.dtype]] = {}
        self.alike: dict[Any, int] = {}
        self.derived: dict[int, dict[Value, None]] = {}

    def row_slot(self, value: Value, indices: bool) -> _Slot:
        """Rows of an input of the chain."""
        i, dtype = self.index[value], value.dtype if indices else self.chain.dtype
        key = ("rows", i, dtype)
        self.rows[key] = i, value.batch_axis, dtype
        return _Slot(key)

    def matrix(self, number: int, value: Value) -> tuple[Number, Number, Number]:
        """A right operand of a link, with any strides."""
        return self.recipe.tensor(self._key("matrix", number, value))

    def shared(self, number: int, value: Value) -> Number:
        """What all rows of a link read, dense."""
        return self.recipe.tensor(self._key("shared", number, value))[0]

    def _key(self, kind: str, number: int, value: Value) -> Any:
        if value.op == "input":
            key = (kind, self.index[self.chain.values_of(number)[value]])
            self.alike[key] = key[1]
            return key
        self.derived.setdefault(number, {})[value] = None
        return (kind, number, value)

    def supply(self, inputs: Sequence[Tensor], tensors: dict[Any, Tensor]) -> None:
        """Add what is read to ``tensors``, by key."""
        dtype = self.chain.dtype
        for key, (i, axis, wanted) in self.rows.items():
            tensors[key] = dense_rows(inputs[i], axis, wanted)
        for key, i in self.alike.items():
            tensors[key] = contiguous(inputs[i], dtype) if key[0] == "shared" else inputs[i]
        for number, values in self.derived.items():
            known = {
                local: inputs[self.index[value]]
                for local, value in self.chain.values_of(number).items()
                if not value.has_rows
            }
            interpreter.evaluate(values, known, 0)
            for value in values:
                tensors["matrix", number, value] = known[value]
                tensors["shared", number, value] = contiguous(known[value], dtype)


class _Packed:
    """The right operands of the products of several kernels, packed before any of them runs."""

    def __init__(self, reads: _Reads, parts: Mapping[int, Part]):
        recipe = reads.recipe
        packed = {}
        for number, part in parts.items():
            matrices = [reads.matrix(number, w) for w, _ in part.compiled.operands]
            packed[number] = part.compiled.pack(recipe, matrices)
        if any(part.compiled.halved for part in parts.values()):
            recipe.barrier()
        self.of = {number: part.compiled.pair_up(recipe, packed[number]) for number, part in parts.items()}
        recipe.barrier()


class _ForwardRecipe:
    """The way forwards through a chain, for one layout of rows.

    Attributes:
        slots: of each link, where the values are that its backward pass may read.
        active: the links that have a backward pass.
        backwards: the recipes for the way back, which know where this one keeps what.
    """

    def __init__(self, chain: Chain, layout: Layout, needs: tuple[bool, ...] | None):
        self.chain = chain
        self.backwards: dict[Any, _BackwardRecipe] = {}
        self.recipe = recipe = Recipe()
        self.reads = _Reads(chain, recipe)
        self.active: dict[int, Backward] = {} if needs is None else _active(chain, needs)
        self.kept = self._kept()
        parts = {i: self.active[i].forward if i in self.active else link.plain for i, link in enumerate(chain.links)}
        self.split = _split(parts.values(), layout)
        packed = _Packed(self.reads, parts)
        last = {v: i for i, section in enumerate(chain.sections) for v in section.inputs}
        self.places: dict[Value, _Slot] = {}
        self.slots: list[dict[Value, _Slot]] = []
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
                slot = _Slot("kept" if kept else "scratch", arena.room(layout.rows * size).plus, size // itemsize)
                moves.split(
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

    def _room(self, kept: bool, rows: int, value: Value) -> _Slot:
        numbers = max(value.row_numel, 1)
        key, arena = ("kept", self.recipe.kept) if kept else ("scratch", self.recipe.scratch)
        place = arena.room(rows * numbers * self.size)
        return _Slot(key, place.plus, numbers)

    def _link(self, i: int, part: Part, packed: list[Number], layout: Layout, last: Mapping[Value, int]) -> None:
        chain, recipe = self.chain, self.recipe
        section, own = chain.sections[i], chain.links[i].section
        backward, first = self.active.get(i), chain.first_state[i]
        slots: dict[Value, _Slot] = {}
        for local, value in zip(own.inputs, section.inputs, strict=True):
            if value in self.places:
                slots[local] = self.places[value]
            elif value.has_rows and self.split is None:
                slots[local] = self.reads.row_slot(value, local in part.indices)
        starts = [recipe.tensor(("start", first + k))[0] for k in range(len(own.old))]
        resets = layout.packed_resets is not None
        fresh = [recipe.tensor(("fresh", first + k))[0] for k in range(len(own.old))] if resets else starts
        given = dict(zip(own.outputs, section.outputs, strict=True))
        late: list[tuple[_Slot, _Slot, Value]] = []  # copies: to, from, what
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
                    moves.copy(recipe, storage.at(recipe)[0], starts[k], offset)
                else:
                    slots[old] = self._room(True, layout.rows, new)
                    gathers.append((old, new, k))
        leaving: list[tuple[_Slot, Value]] = []
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
                moves.copy(recipe, finishes[-1], starts[k], layout.batch * old.row_numel * self.size)
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
                moves.copy(recipe, to.at(recipe)[0], source.at(recipe)[0], layout.rows * size)
            elif size:
                addresses = to.at(recipe)[0], source.at(recipe)[0]
                moves.unsplit(recipe, *addresses, layout.steps, self.split, size, self.size)
        for old, new, k in gathers:
            index, size = recipe.tensor("origins")[0], new.row_numel * self.size
            rows = slots[new].at(recipe)[0]
            to = slots[old].at(recipe)[0]
            moves.previous(recipe, to, index, layout.rows, layout.batch, size, fresh[k], starts[k], rows)
        self.slots.append(slots)

    def _leave(self, slot: _Slot, value: Value, layout: Layout) -> None:
        size = layout.rows * max(value.row_numel, 1) * self.size
        self.recipe.scratch.leave(self.recipe.scratch.address + slot.offset, size)

    def _result(self, value: Any, layout: Layout) -> _Slot:
        key = ("result", self.chain.outputs.index(value))
        self.results[key] = (layout.rows, *value.row_shape)
        return _Slot(key, 0, max(value.row_numel, 1))

    def follow(
        self, layout: Layout, inputs: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Run; returns outputs and final states, and the memory that the backward pass reads."""
        chain = self.chain
        tensors = _of_layout(layout, self.recipe, self.split)
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


def _active(chain: Chain, needs: tuple[bool, ...]) -> dict[int, Backward]:
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


def _split(parts: Iterable[Part], layout: Layout) -> list[tuple[int, int]] | None:
    """The runs of rows that lie apart from each other, one for each thread; None if all are in one place."""
    if layout.order is not None:
        return None
    loops = [part for part in parts if part.kernel.carries]
    shares = max((part.compiled.shares(layout) for part in loops), key=len, default=[])
    if len(shares) < 2:
        return None
    widest = max(old.row_numel * part.kernel.dtype.itemsize for part in loops for old, _ in part.kernel.carries)
    return shares if widest * max(last - first for first, last in shares) <= _NEAR else None


def _of_layout(layout: Layout, recipe: Recipe, shares: list[tuple[int, int]] | None) -> dict[Any, Tensor]:
    tensors: dict[Any, Tensor] = {"counts": layout.counts, "offsets": layout.offsets}
    order: Layout | Split = layout
    if shares is not None:
        order = Split(layout, shares)
        tensors.update({("offsets", i): offsets for i, offsets in enumerate(order.offsets)})
    if order.packed_resets is not None:
        tensors["resets"] = order.packed_resets
    if "origins" in recipe.tensors:
        tensors["origins"] = order.origins
    return tensors


class _BackwardRecipe:
    """The way back through a chain.

    Args:
        chain, forward, layout: what was done.
        given: of each output and final state, whether there is a gradient from above.

    Attributes:
        reached: the links that a gradient reaches, the last one first.
    """

    def __init__(self, chain: Chain, forward: _ForwardRecipe, layout: Layout, given: tuple[bool, ...]):
        self.chain, self.forward, self.layout = chain, forward, layout
        self.recipe = recipe = Recipe()
        self.reads = _Reads(chain, recipe)
        self.size = chain.dtype.itemsize
        count = len(chain.outputs)
        self.ends = {k for k in range(len(chain.old)) if given[count + k]}
        self.split = forward.split
        self.cotangents = {v: [_Slot(("above", i))] for i, v in enumerate(chain.outputs) if given[i]}
        self.reached, readers = self._reached()
        self.alone = {value for value, times in readers.items() if times == 1 and value in self.reads.index}
        if self.split is not None:  # what is given back lies otherwise
            self.alone.clear()
        self.nothing = 1
        self.results: dict[Any, tuple[int, ...]] = {}
        self.totals: list[tuple[int, Value, Any, bool]] = []  # link, contraction, its tensor, whether that is turned
        self.shown: list[tuple[int, Value, Any]] = []  # link, value, its tensor
        self.rooms: dict[tuple[Any, int], list[int]] = {}  # of each: how many bytes, and how many will read it yet
        parts = {i: forward.active[i].part for i in self.reached if _has_kernel(forward.active[i])}
        packed = _Packed(self.reads, parts)
        if self.split is not None:
            self._split_above()
        for i in self.reached:
            self._link(i, packed.of.get(i, []))
        for value in readers:
            if value in self.reads.index:
                self._collect(value)
        recipe.barrier()
        del self.layout  # it holds tensors of a call

    def _reached(self) -> tuple[list[int], dict[Value, int]]:
        """The links that a gradient reaches, and how many gradients each value gets from its readers."""
        links, readers = [], {}
        for i in reversed(self.forward.active):
            section, first = self.chain.sections[i], self.chain.first_state[i]
            states = range(first, first + len(section.old))
            if any(v in self.cotangents or v in readers for v in section.outputs) or not self.ends.isdisjoint(states):
                links.append(i)
                for value, gradient in self._gradients(i):
                    if value.has_rows and gradient is not None:
                        readers[value] = readers.get(value, 0) + 1
        return links, readers

    def _gradients(self, i: int) -> list[tuple[Value, Value | None]]:
        """Of the inputs of a link whose gradients are wanted: the value in the chain, and the link's gradient of it."""
        outside, backward = self.chain.values_of(i), self.forward.active[i]
        return [(outside[v], g) for v, g in zip(backward.wanted, backward.derivative.gradients, strict=True)]

    # Memory.

    def _room(self, value: Value) -> _Slot:
        numbers = max(value.row_numel, 1)
        size = self.layout.rows * numbers * self.size
        slot = _Slot("scratch", self.recipe.scratch.room(size).plus, numbers)
        self.rooms[slot.key, slot.offset] = [size, 1]
        return slot

    def _will_read(self, slot: _Slot) -> None:
        if slot.key == "scratch":
            self.rooms[slot.key, slot.offset][1] += 1

    def _has_read(self, slot: _Slot) -> None:
        """What the tasks of the present phase read for the last time makes room in the next one."""
        if slot.key == "scratch":
            room = self.rooms[slot.key, slot.offset]
            room[1] -= 1
            if not room[1]:
                self.recipe.scratch.leave(self.recipe.scratch.address + slot.offset, room[0])

    def _zeros(self, count: int) -> Any:
        self.nothing = max(self.nothing, count)
        return ("zeros",)

    def _split_above(self) -> None:
        """Copy the gradients from above to where each thread has its own."""
        recipe = self.recipe
        for value, (source,) in list(self.cotangents.items()):
            slot = self._room(value)
            size = max(value.row_numel, 1) * self.size
            moves.split(
                recipe, slot.at(recipe)[0], source.at(recipe), self.layout.steps, self.split or (), size, self.size
            )
            self.cotangents[value] = [slot]
        recipe.barrier()

    # A link.

    def _link(self, i: int, packed: list[Number]) -> None:
        chain, recipe, layout = self.chain, self.recipe, self.layout
        section, backward, first = chain.sections[i], self.forward.active[i], chain.first_state[i]
        d, part = backward.derivative, backward.part
        slots = self._kept(i)
        above = [self._cotangent(value) for value in section.outputs]
        slots |= zip(d.output_cotangents, above, strict=True)
        carries = []
        for k, placeholder in enumerate(d.state_cotangents, first):
            shape = (layout.batch, *placeholder.row_shape)
            start = ("end", k) if k in self.ends else self._zeros(p.numel(shape))
            self.results["start", k] = shape
            carry = [recipe.tensor(start)[0], recipe.tensor(("start", k))[0]]
            if layout.packed_resets is not None:
                self.results["fresh", k] = shape
                carry.append(recipe.tensor(("fresh", k))[0])
            carries.append((*carry, carry[-1])[:3])
            if layout.order is not None:  # a row without steps gives back what it got
                moves.copy(recipe, carry[1], carry[0], p.numel(shape) * self.size)
        if layout.order is not None and carries:
            recipe.barrier()
        direct = {
            gradient: ("gradient", self.reads.index[value])
            for value, gradient in self._gradients(i)
            if value in self.alone and gradient in part.outputs
        }
        own = []
        for value in part.outputs:
            if value in direct:
                self.results[direct[value]] = (layout.rows, *value.row_shape)
                slots[value] = _Slot(direct[value], 0, max(value.row_numel, 1))
            else:
                slots[value] = self._room(value)
                own.append(slots[value])
        sums = None
        if _has_kernel(backward):
            sums = part.compiled.write_down(
                recipe,
                layout,
                [slots[v].at(recipe) for v in part.streams],
                [self.reads.shared(i, v) for v in part.shared],
                packed,
                [slots[v].at(recipe) for v in part.outputs],
                carries,
                self.split,
            )
            recipe.barrier()
        self._contract(i, backward, slots, sums)
        for value, gradient in self._gradients(i):
            if value.has_rows and gradient is not None:
                self.cotangents.setdefault(value, []).append(slots[gradient])
                self._will_read(slots[gradient])
        for value in backward.looked_at:
            given = chain.values_of(i).get(value)
            if given in self.reads.index:
                whole_numbers = not (value.dtype.is_floating_point or value.dtype == torch.bool)
                key = self.reads.row_slot(given, whole_numbers).key  # pyright: ignore
            else:
                key = ("shown", i, value)
                self._will_read(slots[value])
                self._add([slots[value]], key, value)
            self.shown.append((i, value, key))
        for slot in (*own, *above):
            self._has_read(slot)

    def _kept(self, i: int) -> dict[Value, _Slot]:
        """Where the values of the forward pass are."""
        slots = {}
        for value, slot in self.forward.slots[i].items():
            if slot.key == "kept":
                slots[value] = slot
            elif slot.key in self.forward.reads.rows:
                self.reads.rows[slot.key] = self.forward.reads.rows[slot.key]
                slots[value] = slot
        return slots

    def _cotangent(self, value: Value) -> _Slot:
        """Where the sum of all gradients of an output is."""
        terms = self.cotangents.pop(value, [])
        if not terms:  # one row of zeros that stands for all
            return _Slot(self._zeros(max(value.row_numel, 1)), 0, 0)
        if len(terms) == 1:
            return terms[0]
        total = self._room(value)
        self._write_sum(terms, total, value)
        return total

    def _collect(self, value: Value) -> None:
        """The gradient of an input of the chain, as a tensor."""
        key = ("gradient", self.reads.index[value])
        terms = self.cotangents[value]
        if terms[0].key != key:
            self._add(terms, key, value)

    def _add(self, terms: list[_Slot], key: Any, value: Value) -> None:
        """Rows as a tensor, the sum of several."""
        self.results[key] = (self.layout.rows, *value.row_shape)
        result = _Slot(key, 0, max(value.row_numel, 1))
        if self.split is None:
            self._write_sum(terms, result, value)
            return
        total = terms[0]
        if len(terms) > 1:
            total = self._room(value)
            self._write_sum(terms, total, value)
        recipe, size = self.recipe, value.row_numel * self.size
        recipe.barrier()
        if size:
            addresses = result.at(recipe)[0], total.at(recipe)[0]
            moves.unsplit(recipe, *addresses, self.layout.steps, self.split, size, self.size)
        self._has_read(total)

    def _write_sum(self, terms: list[_Slot], total: _Slot, value: Value) -> None:
        recipe = self.recipe
        kernel = compiled(_sum_of(len(terms), value.row_shape, self.chain.dtype))
        recipe.barrier()
        kernel.write_down(recipe, self.layout, [t.at(recipe) for t in terms], [], [], [total.at(recipe)])
        for term in terms:
            self._has_read(term)
        recipe.barrier()

    def _contract(self, i: int, backward: Backward, slots: Mapping[Value, _Slot], sums: Sums | None) -> None:
        """The products and the sums over all rows."""
        recipe, layout, dtype = self.recipe, self.layout, self.chain.dtype
        link = self.chain.links[i]
        begins = iter(sums.begins if sums is not None else ())
        products = []
        halves: dict[Any, Number] = {}
        for number, contraction in enumerate(backward.derivative.contractions):
            key = ("total", i, number)
            if contraction.op == "rowsum":
                assert sums is not None
                count = contraction.inputs[0].row_numel
                self.results[key] = (count,)
                source = sums.address + next(begins) * self.size
                to = recipe.tensor(key)[0]
                moves.add_up(recipe, to, source, count, sums.stride // self.size, sums.terms, dtype)
                self.totals.append((i, contraction, key, False))
                continue
            operands = []
            for value in contraction.inputs:
                whole, start = part_of(value)
                address, stride = slots[whole].at(recipe)
                where, width = (address + start * self.size, stride), value.shape[1]
                if link.pairs:
                    half = (slots[whole], start, width)
                    if half not in halves:
                        halves[half] = halve_rows(recipe, where, layout.rows, width, host())
                    where = (halves[half], width)
                operands.append((where, width))
            products.append((contraction, key, operands))
        if halves:
            recipe.barrier()
        if sums is not None and sums.begins:
            recipe.scratch.leave(sums.address, sums.stride * sums.terms)
        for contraction, key, ((a, k), (g, m)) in products:
            rows = (layout.rows + 1) // 2 if link.pairs else layout.rows
            # The gradient of a transposed weight is laid out like the weight: nobody has to turn it again.
            turned = _is_turned(k, m, contraction in backward.turned, host().lanes(self.size))
            if turned:
                (a, k), (g, m) = (g, m), (a, k)
            self.results[key] = (k, m)
            self.totals.append((i, contraction, key, turned))
            if k and m:
                outer(recipe, a, g, recipe.tensor(key)[0], (rows, k, m), dtype, pairs=link.pairs)
        for (slot, _, width), place in halves.items():
            assert isinstance(place, Word), slot
            recipe.scratch.leave(place, 4 * ((layout.rows + 1) // 2) * width)

    # A call.

    def follow(
        self,
        layout: Layout,
        inputs: Sequence[Tensor],
        from_above: Sequence[Tensor | None],
        kept: Tensor | None,
    ) -> tuple[list[Tensor | None], list[Tensor | None], list[Tensor | None]]:
        """Gradients of the inputs, of the states before the first step, and of those at resets."""
        chain, dtype = self.chain, self.chain.dtype
        tensors = _of_layout(layout, self.recipe, self.split)
        self.reads.supply(inputs, tensors)
        count = len(chain.outputs)
        for i, (value, tensor) in enumerate(zip(chain.outputs, from_above, strict=False)):
            if tensor is not None:
                tensors["above", i] = dense_rows(tensor, value.batch_axis, dtype)
        for k in self.ends:
            tensors["end", k] = contiguous(from_above[count + k], dtype)  # pyright: ignore
        tensors["zeros",] = _zeros(self.nothing, dtype)
        for key, shape in self.results.items():
            tensors[key] = torch.zeros(shape, dtype=dtype) if key[0] == "fresh" else empty(*shape, dtype=dtype)
        self.recipe.follow(tensors, kept)
        gradients: list[Tensor | None] = [None] * len(chain.inputs)
        for i, value in enumerate(chain.inputs):
            tensor = tensors.get(("gradient", i))
            if tensor is not None:
                gradients[i] = tensor.movedim(0, value.batch_axis) if value.batch_axis > 0 else tensor
        self._totals(tensors, inputs, layout.rows, gradients)
        states = range(len(chain.old))
        return (
            [g if g is None or g.dtype == t.dtype else g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True)],
            [tensors.get(("start", k)) for k in states],
            [tensors.get(("fresh", k)) for k in states],
        )

    def _totals(
        self, tensors: Mapping[Any, Tensor], inputs: Sequence[Tensor], rows: int, gradients: list[Tensor | None]
    ) -> None:
        """The gradients of what all rows share, from the sums and products over rows."""
        index = self.reads.index
        known: dict[int, dict[Value, Tensor]] = {i: {} for i in self.reached}
        for i, contraction, key, turned in self.totals:
            total = tensors[key]
            if contraction.op == "rowsum":
                total = total.view(contraction.shape)
            elif turned:
                total = total.t()
            known[i][contraction] = total if total.dtype == contraction.dtype else total.to(contraction.dtype)
        for i, value, key in self.shown:
            tensor = tensors[key]
            tensor = tensor if tensor.dtype == value.dtype else tensor.to(value.dtype)
            known[i][value] = tensor.movedim(0, value.batch_axis) if value.batch_axis > 0 else tensor
        for i in self.reached:
            found = known[i]
            missing = [g for v, g in self._gradients(i) if g is not None and not g.has_rows and g not in found]
            if missing:
                for local, value in self.chain.values_of(i).items():
                    if not value.has_rows:
                        found[local] = inputs[index[value]]
                interpreter.evaluate(missing, found, rows)
            for value, gradient in self._gradients(i):
                if gradient is not None and not gradient.has_rows:
                    before = gradients[index[value]]
                    gradients[index[value]] = found[gradient] if before is None else before + found[gradient]


def _has_kernel(backward: Backward) -> bool:
    kernel = backward.part.kernel
    return bool(kernel.outputs or kernel.sums or kernel.carries)


def _is_turned(k: int, m: int, wanted: bool, lanes: int) -> bool:
    """Whether a product over rows [K, M] is better computed as its transpose.

    It is if that is ``wanted`` anyway, unless then the left operand is the wide one; and where a vector is not filled.
    """
    if wanted and (m < _WIDE or k >= m):
        return not (k < lanes and k < m)
    return m < lanes and m < k


@functools.lru_cache(maxsize=256)
def _sum_of(terms: int, shape: tuple[int, ...], dtype: torch.dtype) -> Kernel:
    """The kernel that adds up rows."""
    values = [p.placeholder(f"term{i}", (p.BATCH, *shape), dtype) for i in range(terms)]
    total = functools.reduce(functools.partial(p.elementwise, "add"), values)
    return Kernel(tuple(values), (), (), (total,), (), dtype)


_nothing: dict[torch.dtype, Tensor] = {}


def _zeros(count: int, dtype: torch.dtype) -> Tensor:
    """At least so many zeros, which nobody writes to."""
    found = _nothing.get(dtype)
    if found is None or len(found) < count:
        found = _nothing[dtype] = torch.zeros(count, dtype=dtype)
    return found


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: Chain, layout: Layout, *tensors: Tensor) -> tuple[Tensor, ...]:
        count, states = len(chain.inputs), len(chain.old)
        needs = ctx.needs_input_grad[2:]
        recipe = chain.forward(layout, needs)
        inputs, starts, fresh = tensors[:count], tensors[count : count + states], tensors[count + states :]
        results, kept = recipe.follow(layout, inputs, starts, fresh)
        ctx.chain, ctx.layout, ctx.recipe = chain, layout, recipe
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(() if kept is None else (kept,)))
        ctx.given = len(tensors)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *from_above: Tensor | None) -> tuple[Any, ...]:
        chain, layout = ctx.chain, ctx.layout
        count = len(chain.inputs)
        tensors, kept = ctx.saved_tensors[: ctx.given], ctx.saved_tensors[ctx.given :]
        if torch.is_grad_enabled():
            return (None, None, *_by_interpreter(chain, layout, tensors, ctx.needs_input_grad[2:], from_above))
        recipe = chain.backward(ctx.recipe, layout, tuple(g is not None for g in from_above))
        gradients, to_starts, to_fresh = recipe.follow(layout, tensors[:count], from_above, kept[0] if kept else None)
        return (None, None, *gradients, *to_starts, *to_fresh)


def _by_interpreter(chain: Chain, layout: Layout, tensors: Any, needs: Any, from_above: Any) -> list[Tensor | None]:
    """The gradient as something that has a derivative itself."""
    count, states = len(chain.inputs), len(chain.old)
    with torch.enable_grad():
        # Stand-ins: the gradient of one must not take in what reaches it through another that is made of it.
        tensors = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        known = dict(zip(chain.inputs, tensors[:count], strict=True))
        finals = []
        for section, first in zip(chain.sections, chain.first_state, strict=True):
            starts = tensors[count + first :][: len(section.old)]
            fresh = tensors[count + states + first :][: len(section.old)]
            outputs, ends = run_section(section, layout, [known[v] for v in section.inputs], starts, fresh)
            known.update(zip(section.outputs, outputs, strict=True))
            finals += ends
        results = [*(known[v] for v in chain.outputs), *finals]
        pairs = [(o, g) for o, g in zip(results, from_above, strict=True) if g is not None and o.requires_grad]
        wanted = [t for t, need in zip(tensors, needs, strict=True) if need]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
            )
        )
    return [next(found) if need else None for need in needs]
