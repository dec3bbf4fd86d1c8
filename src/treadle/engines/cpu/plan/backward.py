"""The backward pass of a chain, written down: gradients of rows, and of what all rows share."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.plan.bound_pass import Passed
from treadle.engines.cpu.plan.forward import ForwardRecipe
from treadle.engines.cpu.plan.frame import Axis
from treadle.engines.cpu.plan.kernel import Arguments, Carry, compiled
from treadle.engines.cpu.plan.links import Link
from treadle.engines.cpu.plan.rows import Role, TensorKey, dense_rows, keys_of
from treadle.engines.cpu.plan.shared_gradients import Computed, SharedGradients, write_contractions
from treadle.engines.cpu.plan.slots import Block, Draft, Slot
from treadle.engines.layout import Layout
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Precision
from treadle.engines.passes.rows import contiguous, with_rows_in_place
from treadle.engines.passes.section_passes import DerivedPasses


class Gradients(NamedTuple):
    """Those of a chain's inputs, of states before the first step, and of states at resets; None where none flows."""

    inputs: list[Tensor | None]
    starts: list[Tensor | None]
    fresh: list[Tensor | None]


class BackwardRecipe:
    """The backward pass of a chain; ``from_above`` says of each output and final state whether it has a gradient.

    Attributes:
        passed: of each gradient from above, which one it is.
    """

    def __init__(self, forward: ForwardRecipe, from_above: Sequence[bool]):
        self.links = links = forward.links
        writer = _Writer(forward, from_above)
        self.recipe, self.supply = writer.recipe, writer.draft.supply
        self._zeros = _zeros(writer.zeros, links.dtype)
        keys, count = keys_of(Role.OUTPUT_GRADIENT, len(links.outputs)), len(links.outputs)
        self.passed = {key: Passed(i, links.outputs[i].batch_axis) for i, key in enumerate(keys) if from_above[i]}
        self.passed |= {TensorKey(Role.END_GRADIENT, k): Passed(count + k) for k in sorted(writer.ends)}
        self._inputs, self._starts, self._fresh = (
            [key if key in self.supply.written else None for key in keys_of(role, count)]
            for role, count in (
                (Role.INPUT_GRADIENT, len(links.inputs)),
                (Role.START_GRADIENT, links.states),
                (Role.FRESH_GRADIENT, links.states),
            )
        )
        self._shared = [SharedGradients(links, *one, writer.computed[one[0]]) for one in writer.reached.items()]

    def tensors(
        self, layout: Layout, inputs: Sequence[Tensor], from_above: Sequence[Tensor | None]
    ) -> dict[TensorKey, Tensor]:
        """What a call reads, and new memory for what it writes."""
        dtype, tensors = self.links.dtype, self.supply.tensors(layout, inputs)
        for key, (i, axis, *_) in self.passed.items():
            above: Any = from_above[i]
            tensors[key] = contiguous(above, dtype) if axis is None else dense_rows(above, axis, dtype)
        tensors[_ZEROS] = self._zeros
        for key in self._fresh:
            if key is not None:
                tensors[key].zero_()  # added to where rows are reset
        return tensors

    def gradients(self, tensors: Mapping[TensorKey, Tensor], inputs: Sequence[Tensor], rows: int) -> Gradients:
        """The gradients of a call on N rows, from its tensors."""
        starts, fresh = ([key and tensors[key] for key in keys] for keys in (self._starts, self._fresh))
        gradients = [
            key and with_rows_in_place(tensors[key], value)
            for key, value in zip(self._inputs, self.links.inputs, strict=True)
        ]
        for one in self._shared:
            one.add(gradients, tensors, inputs, rows)
        pairs = zip(gradients, inputs, strict=True)
        return Gradients([g if g is None or g.dtype == t.dtype else g.to(t.dtype) for g, t in pairs], starts, fresh)


class _Writer:
    """Writes the backward pass down.

    Attributes:
        ends: the states after the last step that have a gradient from above.
        cotangents: of values of the chain: the gradients that have come together so far.
        computed: of each link: what PyTorch makes gradients of.
        zeros: how many zeros are read.
    """

    def __init__(self, forward: ForwardRecipe, from_above: Sequence[bool]):
        self.forward, self.frame, links = forward, forward.frame, forward.links
        self.links, self.draft = links, Draft(links, self.frame, forward.runs)
        self.recipe = self.draft.recipe
        count = len(links.outputs)
        self.ends = {k for k in range(links.states) if from_above[count + k]}
        self.cotangents: dict[Value, list[Slot]] = {}
        for i, value in enumerate(links.outputs):
            if from_above[i]:
                self.cotangents[value] = [Slot(TensorKey(Role.OUTPUT_GRADIENT, i))]
        self.reached, self.readers = self._reached()
        self.computed: dict[Link, list[Computed]] = {}
        self.numbers = itertools.count()
        self.zeros = 1
        passes = {link: d.backward for link, d in self.reached.items() if not d.backward.is_empty}
        packed = self.draft.pack(passes)
        if self.draft.runs:
            self._split_gradients_from_above()
        for link, derivative in self.reached.items():
            self._link(link, derivative, packed.get(link, []))
        for value in self.readers:
            if value in links.index:
                self._collect(value)
        self.recipe.barrier()

    def _reached(self) -> tuple[dict[Link, DerivedPasses], dict[Value, int]]:
        """The links that a gradient reaches, and how many gradients each value gets from its readers."""
        links, readers = {}, {}
        for link, derivative in reversed(self.forward.derivatives.items()):
            has_gradient = any(v in self.cotangents or v in readers for v in link.section.outputs)
            if has_gradient or not self.ends.isdisjoint(link.states):
                links[link] = derivative
                for value, gradient in link.gradients(derivative):
                    if value.has_rows and gradient is not None:
                        readers[value] = readers.get(value, 0) + 1
        return links, readers

    def _some_zeros(self, count: int) -> TensorKey:
        self.zeros = max(self.zeros, count)
        return _ZEROS

    def _split_gradients_from_above(self) -> None:
        """Copy them to where each thread has its own."""
        for value, (source,) in list(self.cotangents.items()):
            slot = self.draft.room(value)
            self.draft.split(source, slot)
            self.cotangents[value] = [slot]
        self.recipe.barrier()

    def _link(self, link: Link, derivative: DerivedPasses, packed: Sequence[Number]) -> None:
        above = [self._sum(value) for value in link.section.outputs]
        slots = self._kept_slots(link) | dict(zip(derivative.program.output_cotangents, above, strict=True))
        carries = self._carries(link, derivative)
        own = self._output_slots(link, derivative, slots)
        sums = None
        if not derivative.backward.is_empty:
            sums = self.draft.run(link, derivative.backward, packed, slots, carries)
            self.recipe.barrier()
        self.computed[link] = write_contractions(self.draft, link, derivative, slots, sums, self.numbers)
        for value, gradient in link.gradients(derivative):
            if value.has_rows and gradient is not None:
                self.cotangents.setdefault(value, []).append(slots[gradient])
                self.draft.will_use(slots[gradient])
        for value in derivative.read_by_torch:
            self.computed[link].append(Computed(value, self._for_torch(link, value, slots)))
        for slot in (*own, *above):
            self.draft.has_used(slot)

    def _kept_slots(self, link: Link) -> dict[Value, Slot]:
        """Where the values of the forward pass are that the backward pass may read."""
        slots = {}
        for value, slot in self.forward.slots[link].items():
            if slot.where is Block.KEPT:
                slots[value] = slot
            elif not isinstance(slot.where, Block) and slot.where.role in (Role.ROWS, Role.INDICES):
                self.draft.supply.read(slot.where)
                slots[value] = slot
        return slots

    def _carries(self, link: Link, derivative: DerivedPasses) -> list[Carry]:
        """The gradients of states: where they start, at the last step, and where they end up."""
        new = functools.partial(self.draft.supply.new, axis=Axis.BATCH)
        carries, states = [], derivative.program.state_cotangents
        for k, state in zip(link.states, states, strict=True):
            has_gradient = k in self.ends
            count = self.frame.most_batch * state.row_numel
            above = TensorKey(Role.END_GRADIENT, k) if has_gradient else self._some_zeros(count)
            start = new(TensorKey(Role.START_GRADIENT, k), *state.row_shape)
            fresh = new(TensorKey(Role.FRESH_GRADIENT, k), *state.row_shape) if self.frame.has_resets else start
            carries.append(Carry(self.recipe.tensor(above)[0], start, fresh))
        if carries and not self.frame.is_whole:  # a row without steps gives back what it got
            for carry, state in zip(carries, states, strict=True):
                self.draft.copy_state(carry.end, carry.start, state)
            self.recipe.barrier()
        return carries

    def _output_slots(self, link: Link, derivative: DerivedPasses, slots: dict[Value, Slot]) -> list[Slot]:
        """Find room for what the backward pass writes; returns what of it is in scratch memory."""
        direct = {gradient: value for value, gradient in link.gradients(derivative) if self._is_only_gradient_of(value)}
        own = []
        for gradient in derivative.backward.outputs:
            if gradient in direct:
                value = direct[gradient]
                slots[gradient] = self.draft.new_tensor(self._gradient_key(value), gradient)
            else:
                slots[gradient] = self.draft.room(gradient)
                own.append(slots[gradient])
        return own

    def _is_only_gradient_of(self, value: Value) -> bool:
        """Whether an input gets a gradient from one link alone, which can write it to where it is given back."""
        return not self.draft.runs and value in self.links.index and self.readers.get(value) == 1

    def _gradient_key(self, value: Value) -> TensorKey:
        return TensorKey(Role.INPUT_GRADIENT, self.links.index[value])

    def _for_torch(self, link: Link, value: Value, slots: Mapping[Value, Slot]) -> TensorKey:
        """Rows as a tensor that PyTorch reads."""
        outside = link.inputs.get(value)
        if outside is not None and outside in self.links.index:
            return self.draft.supply.rows_of(outside, not (value.dtype.is_floating_point or value.dtype == torch.bool))
        key = TensorKey(Role.READ_BY_TORCH, next(self.numbers))
        self.draft.will_use(slots[value])
        self._write_out([slots[value]], key, value)
        return key

    def _sum(self, value: Value) -> Slot:
        """Where the sum of all gradients of an output is."""
        terms = self.cotangents.pop(value, [])
        if not terms:  # one row of zeros that stands for all
            return Slot(self._some_zeros(max(value.row_numel, 1)), 0, 0)
        return terms[0] if len(terms) == 1 else self._add(terms, self.draft.room(value), value)

    def _collect(self, value: Value) -> None:
        """The gradient of an input of the chain, as a tensor."""
        key, terms = self._gradient_key(value), self.cotangents[value]
        if terms[0].where != key:
            self._write_out(terms, key, value)

    def _write_out(self, terms: list[Slot], key: TensorKey, value: Value) -> None:
        """The sum of some rows as a tensor."""
        result = self.draft.new_tensor(key, value)
        if not self.draft.runs:
            self._add(terms, result, value)
            return
        total = terms[0] if len(terms) == 1 else self._add(terms, self.draft.room(value), value)
        self.recipe.barrier()
        self.draft.copy_out(total, result, value)

    def _add(self, terms: list[Slot], total: Slot, value: Value) -> Slot:
        """Add rows up."""
        recipe = self.recipe
        kernel = compiled(_sum_of(len(terms), value.row_shape, self.links.dtype))
        recipe.barrier()
        kernel.write_down(recipe, self.frame, Arguments([t.at(recipe) for t in terms], [], [], [total.at(recipe)]))
        for term in terms:
            self.draft.has_used(term)
        recipe.barrier()
        return total


@functools.lru_cache(maxsize=256)
def _sum_of(terms: int, shape: tuple[int, ...], dtype: torch.dtype) -> Kernel:
    """The kernel that adds up rows."""
    values = [p.placeholder(f"term{i}", (p.BATCH, *shape), dtype) for i in range(terms)]
    total = functools.reduce(functools.partial(p.elementwise, "add"), values)
    return Kernel(tuple(values), (), (), (total,), (), Precision(dtype))


_ZEROS = TensorKey(Role.ZEROS)
_known_zeros: dict[torch.dtype, Tensor] = {}


@torch.inference_mode(False)
def _zeros(count: int, dtype: torch.dtype) -> Tensor:
    """At least so many zeros, which nobody writes to."""
    found = _known_zeros.get(dtype)
    if found is None or len(found) < count:
        found = _known_zeros[dtype] = torch.zeros(count, dtype=dtype, device="cpu")
    return found
