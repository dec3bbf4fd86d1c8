"""The way back through a chain, written down: gradients of rows, and of what all rows share."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.engines.cpu.lower.precision import Operands, Precision
from treadle.engines.cpu.lower.schedule import Kernel
from treadle.engines.cpu.machine.arena import Number, Word
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.plan.forward import ForwardRecipe
from treadle.engines.cpu.plan.kernel import Sums, compiled
from treadle.engines.cpu.plan.rows import Packed, Reads, Slot, of_layout
from treadle.engines.cpu.plan.section import Backward, contiguous, dense_rows, part_of
from treadle.engines.cpu.routines import copies
from treadle.engines.cpu.routines.row_products import outer
from treadle.engines.cpu.routines.weight_panels import halve_rows
from treadle.engines.layout import Layout

if TYPE_CHECKING:
    from treadle.engines.cpu.plan.chain import Chain

__all__ = ["BackwardRecipe"]

_NARROW, _WIDE = 256, 512
"""Features: where the right operand of a product over rows is wide and the left one narrow, it is computed as it is."""


class BackwardRecipe:
    """The way back through a chain.

    Args:
        chain, forward, layout: what was done.
        given: of each output and final state, whether there is a gradient from above.

    Attributes:
        reached: the links that a gradient reaches, the last one first.
    """

    def __init__(self, chain: "Chain", forward: ForwardRecipe, layout: Layout, given: tuple[bool, ...]):
        self.chain, self.forward, self.layout = chain, forward, layout
        self.recipe = recipe = Recipe()
        self.reads = Reads(chain, recipe)
        self.size = chain.dtype.itemsize
        count = len(chain.outputs)
        self.ends = {k for k in range(len(chain.old)) if given[count + k]}
        self.split = forward.split
        self.cotangents = {v: [Slot(("above", i))] for i, v in enumerate(chain.outputs) if given[i]}
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
        packed = Packed(self.reads, parts)
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

    def _room(self, value: Value) -> Slot:
        numbers = max(value.row_numel, 1)
        size = self.layout.rows * numbers * self.size
        slot = Slot("scratch", self.recipe.scratch.room(size).plus, numbers)
        self.rooms[slot.key, slot.offset] = [size, 1]
        return slot

    def _will_read(self, slot: Slot) -> None:
        if slot.key == "scratch":
            self.rooms[slot.key, slot.offset][1] += 1

    def _has_read(self, slot: Slot) -> None:
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
            copies.split(
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
                copies.copy(recipe, carry[1], carry[0], p.numel(shape) * self.size)
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
                slots[value] = Slot(direct[value], 0, max(value.row_numel, 1))
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

    def _kept(self, i: int) -> dict[Value, Slot]:
        """Where the values of the forward pass are."""
        slots = {}
        for value, slot in self.forward.slots[i].items():
            if slot.key == "kept":
                slots[value] = slot
            elif slot.key in self.forward.reads.rows:
                self.reads.rows[slot.key] = self.forward.reads.rows[slot.key]
                slots[value] = slot
        return slots

    def _cotangent(self, value: Value) -> Slot:
        """Where the sum of all gradients of an output is."""
        terms = self.cotangents.pop(value, [])
        if not terms:  # one row of zeros that stands for all
            return Slot(self._zeros(max(value.row_numel, 1)), 0, 0)
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

    def _add(self, terms: list[Slot], key: Any, value: Value) -> None:
        """Rows as a tensor, the sum of several."""
        self.results[key] = (self.layout.rows, *value.row_shape)
        result = Slot(key, 0, max(value.row_numel, 1))
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
            copies.unsplit(recipe, *addresses, self.layout.steps, self.split, size, self.size)
        self._has_read(total)

    def _write_sum(self, terms: list[Slot], total: Slot, value: Value) -> None:
        recipe = self.recipe
        kernel = compiled(_sum_of(len(terms), value.row_shape, self.chain.dtype))
        recipe.barrier()
        kernel.write_down(recipe, self.layout, [t.at(recipe) for t in terms], [], [], [total.at(recipe)])
        for term in terms:
            self._has_read(term)
        recipe.barrier()

    def _contract(self, i: int, backward: Backward, slots: Mapping[Value, Slot], sums: Sums | None) -> None:
        """The products and the sums over all rows."""
        recipe, layout, dtype = self.recipe, self.layout, self.chain.dtype
        pairs = self.chain.links[i].precision.left is Operands.PAIRS
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
                copies.add_up(recipe, to, source, count, sums.stride // self.size, sums.terms, dtype)
                self.totals.append((i, contraction, key, False))
                continue
            operands = []
            for value in contraction.inputs:
                whole, start = part_of(value)
                address, stride = slots[whole].at(recipe)
                where, width = (address + start * self.size, stride), value.shape[1]
                if pairs:
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
            rows = (layout.rows + 1) // 2 if pairs else layout.rows
            # The gradient of a transposed weight is laid out like the weight: nobody has to turn it again.
            turned = _is_turned(k, m, contraction in backward.turned, host().lanes(self.size))
            if turned:
                (a, k), (g, m) = (g, m), (a, k)
            self.results[key] = (k, m)
            self.totals.append((i, contraction, key, turned))
            if k and m:
                outer(recipe, a, g, recipe.tensor(key)[0], (rows, k, m), dtype, pairs=pairs)
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
        tensors = of_layout(layout, self.recipe, self.split)
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
        for i, gradients_of, line, sources in self._shared:
            found = known[i]
            if line is not None:
                for local, j in sources:
                    found[local] = inputs[j]
                line.run(found, rows)
            for j, gradient in gradients_of:
                before = gradients[j]
                gradients[j] = found[gradient] if before is None else before + found[gradient]

    @functools.cached_property
    def _shared(self) -> list[tuple[int, list[tuple[int, Value]], interpreter.Line | None, list[tuple[Value, int]]]]:
        """Of each link: which gradients of what all rows share it gives, how they are made, and of which inputs."""
        index, result = self.reads.index, []
        for i in self.reached:
            there = {contraction for j, contraction, _, _ in self.totals if j == i}
            there |= {value for j, value, _ in self.shown if j == i}
            gradients = [(index[v], g) for v, g in self._gradients(i) if g is not None and not g.has_rows]
            missing = [g for _, g in gradients if g not in there]
            sources = [(local, index[value]) for local, value in self.chain.shared_by(i)]
            line = interpreter.Line(missing, [*there, *(local for local, _ in sources)]) if missing else None
            result.append((i, gradients, line, sources))
        return result


def _has_kernel(backward: Backward) -> bool:
    kernel = backward.part.kernel
    return bool(kernel.outputs or kernel.sums or kernel.carries)


def _is_turned(k: int, m: int, wanted: bool, lanes: int) -> bool:
    """Whether a product over rows [K, M] is better computed as its transpose.

    It is if that is ``wanted`` anyway, as PyTorch would turn it to add it to a weight's ``grad``, unless that is done
    sooner than what the product then takes longer; and where a vector is not filled.
    """
    if wanted and (m < _WIDE or k >= _NARROW):
        return not (k < lanes and k < m)
    return m < lanes and m < k


@functools.lru_cache(maxsize=256)
def _sum_of(terms: int, shape: tuple[int, ...], dtype: torch.dtype) -> Kernel:
    """The kernel that adds up rows."""
    values = [p.placeholder(f"term{i}", (p.BATCH, *shape), dtype) for i in range(terms)]
    total = functools.reduce(functools.partial(p.elementwise, "add"), values)
    return Kernel(tuple(values), (), (), (total,), (), Precision(dtype))


_nothing: dict[torch.dtype, Tensor] = {}


def _zeros(count: int, dtype: torch.dtype) -> Tensor:
    """At least so many zeros, which nobody writes to."""
    found = _nothing.get(dtype)
    if found is None or len(found) < count:
        found = _nothing[dtype] = torch.zeros(count, dtype=dtype)
    return found
