"""What a live step computes with, in memory all the time: packed weights, the state in place; and blocks of steps."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.program import Value
from treadle.engines.cpu.machine.alignment import address, begin
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.frame import Frame
from treadle.engines.cpu.plan.kernel import Arguments, Carry, Rows
from treadle.engines.cpu.plan.rows import Role, TensorKey, keys_of, tensors_of_layout
from treadle.engines.cpu.routines.int8_panels import int8_panels
from treadle.engines.layout import Layout
from treadle.engines.live_input import LiveInput
from treadle.engines.passes.int8 import Int8Matrix
from treadle.engines.passes.rows import contiguous, with_signs
from treadle.engines.passes.section_passes import Pass

_MOST_BLOCKS = 16
_X, _Y = TensorKey(Role.ROWS), TensorKey(Role.OUTPUT)


class KernelWeights:
    """What all runs of a kernel with the same weights read: values without rows, packed matrices.

    Args:
        one: the pass that is the kernel.
        weights: the inputs without rows. What is packed is a copy; values that are read as they are may be these.
        int8: the matrices that the kernel reads as int8.
    """

    def __init__(self, one: Pass, weights: Mapping[Value, Tensor], int8: Mapping[Value, Int8Matrix]):
        self.one, self.dtype = one, one.owner.dtype
        known = dict(weights)
        interpreter.evaluate((*one.shared, *one.matrices), known, 0)
        self.invariants = [contiguous(known[v], self.dtype) for v in one.shared]
        self._packed, self.packed = pack(one, known, int8)

    def on(self, streams: Sequence[Number], outputs: Sequence[Number], states: Sequence[Number]) -> Arguments:
        """The arguments of the kernel for dense rows, and states, at these addresses.

        A row's state is read before its first step and written after its last one: that is the same memory.
        """
        return Arguments(
            [Rows(place, max(v.row_numel, 1)) for place, v in zip(streams, self.one.streams, strict=True)],
            [address(tensor) for tensor in self.invariants],
            self.packed,
            [Rows(place, max(v.row_numel, 1)) for place, v in zip(outputs, self.one.outputs, strict=True)],
            [Carry(place, place, place) for place in states],
        )


class LiveWeights(KernelWeights):
    """Those of a network's whole step: a kernel that reads the input ``x`` alone, beside the state."""

    def __init__(self, one: Pass, x: Value, weights: Mapping[Value, Tensor], int8: Mapping[Value, Int8Matrix]):
        super().__init__(one, weights, int8)
        self.x = x
        (self.y,) = one.outputs
        self.x_type = self.dtype if x.dtype.is_floating_point else torch.int64
        self.input = LiveInput(x, one.owner.section.values())

    def arguments(self, x: Number, y: Number, states: Sequence[Number]) -> Arguments:
        """The arguments of the kernel for rows and states at these addresses."""
        return self.on([x for _ in self.one.streams], [y], states)

    def states(self, rows: int) -> list[Tensor]:
        """Memory for the states of so many rows, [rows, ...] each: zeros."""
        olds = (old for old, _ in self.one.owner.carries)
        return [torch.zeros(rows, *old.row_shape, dtype=self.dtype, device="cpu") for old in olds]


@dataclasses.dataclass(frozen=True, eq=False)
class LiveOperands:
    """What a live step computes with: weights, and [B, ...] of each state."""

    weights: LiveWeights
    state: Sequence[Tensor]


def pack(one: Pass, known: Mapping[Value, Tensor], int8: Mapping[Value, Int8Matrix]) -> tuple[list[Tensor], list[int]]:
    """The right operands of all products as the kernel wants them: the memory, and where each is."""
    kernel, recipe = one.compiled, Recipe()
    recipe.scratch = recipe.kept  # it stays, for as long as the weights do
    keys = {TensorKey(Role.MATRIX, i): with_signs(known[w]) for i, (w, _) in enumerate(kernel.operands)}
    packed = kernel.pack(recipe, [recipe.tensor(key) for key in keys])
    recipe.barrier()
    packed = kernel.pair_up(recipe, packed)
    kept = recipe.follow(keys)
    first = 0 if kept is None else begin(kept)
    places = iter([first + place.plus for place in packed])  # pyright: ignore
    panels = [int8_panels(int8[w], packing) if w in int8 else None for w, packing in kernel.matrices]
    where = [next(places) if one is None else begin(one) for one in panels]
    return [one for one in (kept, *panels) if one is not None], where


class StepBlocks:
    """Blocks of steps, by recipes that are written once for each size."""

    def __init__(self, operands: LiveOperands):
        self.operands = operands
        self._states = keys_of(Role.START, len(operands.state))
        self._recipes: dict[tuple[Frame, int], Recipe] = {}

    def run(self, layout: Layout, xs: Tensor, ys: Tensor) -> None:
        """All steps on [N, ...], into ``ys``; the state moves on."""
        recipe = self._recipe(layout)
        tensors = tensors_of_layout(layout, recipe.tensors, 0)
        states = dict(zip(self._states, self.operands.state, strict=True))
        recipe.follow({**tensors, _X: xs, _Y: ys, **states}, about=layout)

    def _recipe(self, layout: Layout) -> Recipe:
        frame = Frame.of(layout)
        key = frame, torch.get_num_threads()
        found = self._recipes.get(key)
        if found is None:
            found = Recipe()
            x, y, *states = (found.tensor(key)[0] for key in (_X, _Y, *self._states))
            weights = self.operands.weights
            weights.one.compiled.write_down(found, frame, weights.arguments(x, y, states))
            if len(self._recipes) >= _MOST_BLOCKS:
                self._recipes.pop(next(iter(self._recipes)))
            self._recipes[key] = found
        return found
