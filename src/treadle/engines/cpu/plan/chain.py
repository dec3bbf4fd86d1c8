"""Sections that follow each other, as one node of PyTorch's autograd: a recipe for each way through it.

What a section gives and another one reads never becomes a tensor of PyTorch's: it is a place in a block of memory. The
block that the backward pass reads is one tensor, the other one ends with the call.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.autograd import gradients_again
from treadle.engines.cpu.machine import scratch_memory
from treadle.engines.cpu.machine.alignment import unused, where_it_was
from treadle.engines.cpu.plan.backward import BackwardRecipe
from treadle.engines.cpu.plan.bound_forward import BoundForward
from treadle.engines.cpu.plan.forward import ForwardRecipe
from treadle.engines.cpu.plan.frame import Frame
from treadle.engines.cpu.plan.invariants import Invariants
from treadle.engines.cpu.plan.links import Links
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.decision import say_once
from treadle.engines.layout import Layout
from treadle.engines.second_try import with_second_try
from treadle.engines.step_by_step import run_section
from treadle.locks import MAKING
from treadle.torch_internals import is_batched

T = TypeVar("T")

_MOST_RECIPES, _MOST_BOUND = 48, 8
_MOST_TIMES = 16
"""How often a pass is bound again. Where parameters are new tensors in every call, it is of no use."""


@dataclasses.dataclass
class Recipes:
    """A forward pass, and the backward passes after it, which know where it keeps what.

    ``bound`` are forward passes bound to where parameters lie, by steps and rows, and how often that was elsewhere.
    """

    forward: ForwardRecipe
    backward: dict[Hashable, BackwardRecipe] = dataclasses.field(default_factory=dict)
    bound: dict[Hashable, tuple[BoundForward | None, int]] = dataclasses.field(default_factory=dict)

    def after(self, from_above: tuple[bool, ...]) -> BackwardRecipe:
        """The backward pass; ``from_above`` says of outputs and final states whether they have a gradient."""
        key = (from_above, torch.get_num_threads())
        return _found(self.backward, key, lambda: BackwardRecipe(self.forward, from_above))

    def bound_to(
        self, layout: Layout, invariants: Invariants, arguments: Sequence[Tensor], starts: Sequence[Tensor]
    ) -> BoundForward | None:
        """The forward pass, bound to where these arguments lie; None where that cannot be."""
        if layout.order is not None or layout.packed_resets is not None:
            return None
        key = layout.steps, layout.batch
        found, times = self.bound.get(key, (None, 0))
        if found is not None and found.fits(arguments):
            return found
        if times > _MOST_TIMES:
            return None
        if len(self.bound) >= _MOST_BOUND:
            self.bound.pop(next(iter(self.bound)), None)
        found = BoundForward.of(self.forward, invariants, layout, arguments, starts)
        self.bound[key] = found, times + 1
        return found


class Chain:
    """Sections that run one after another, see `Links`.

    Args:
        invariant: a section whose outputs they alone read: it is run before them.

    Attributes:
        given: what a run takes, its arguments.
        outputs: what a run gives.
    """

    def __init__(
        self,
        sections: Sequence[Section],
        compiled: Sequence[CompiledSection],
        visible: Iterable[Value],
        invariant: Section | None = None,
    ):
        self.links = Links(sections, compiled, visible)
        self.invariants = Invariants(self.links, invariant)
        self.given, self.outputs = self.invariants.arguments, self.links.outputs
        self._recipes: dict[Hashable, Recipes] = {}

    def run(
        self, layout: Layout, arguments: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs [N, ...], and the states after the last step of each row."""
        if torch.is_grad_enabled():
            everything = [*arguments, *starts, *fresh]
            if any(tensor.requires_grad for tensor in everything):
                results = list(_Node.apply(self, layout, *everything))  # pyright: ignore
            else:
                with torch.no_grad():
                    results = self._without_gradient(layout, arguments, starts, fresh)
        else:
            results = self._without_gradient(layout, arguments, starts, fresh)
        count = len(self.outputs)
        return results[:count], results[count:]

    def _without_gradient(
        self, layout: Layout, arguments: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> list[Tensor]:
        recipes = self.recipes(layout, None)
        bound = recipes.bound_to(layout, self.invariants, arguments, starts)
        if bound is not None:
            return bound.run(arguments, starts)
        return recipes.forward.follow(layout, self.invariants.inputs(arguments), starts, fresh)[0]

    def recipes(self, layout: Layout, needs: tuple[bool, ...] | None) -> Recipes:
        """The recipes for a layout; ``needs`` says of arguments, starts and fresh states who wants a gradient."""
        frame = Frame.of(layout)

        def make() -> Recipes:
            return Recipes(ForwardRecipe(self.links, frame, None if needs is None else self.invariants.needs(needs)))

        return _found(self._recipes, (needs, frame, torch.get_num_threads()), make)

    def backward_recipe(self, recipes: Recipes, from_above: tuple[bool, ...]) -> BackwardRecipe | None:
        """The backward pass; None if it cannot be compiled, which is no reason to end a training."""
        try:
            return recipes.after(from_above)
        except Exception as error:
            states = ", ".join(name.removeprefix("state/") for link in self.links for name in link.section.states)
            say_once(
                f"the backward pass over {states or 'a sequence'} runs in PyTorch, step by step: it cannot be compiled"
                f" ({type(error).__name__}: {error})"
            )
            return None


def _found(recipes: dict[Hashable, T], key: Hashable, make: Callable[[], T]) -> T:
    """The recipe of that key, made if there is none; of many, what was not used for the longest time is forgotten."""
    found = recipes.get(key)
    if found is not None and next(reversed(recipes), None) != key:
        recipes[key] = recipes.pop(key, found)
    if found is None:
        with MAKING:
            found = recipes.get(key)
            if found is None:
                found = make()
                if len(recipes) >= _MOST_RECIPES:
                    recipes.pop(next(iter(recipes)), None)
                recipes[key] = found
    return found


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: Chain, layout: Layout, *tensors: Tensor) -> tuple[Tensor, ...]:
        invariants = chain.invariants
        recipes = chain.recipes(layout, ctx.needs_input_grad[2:])
        arguments, starts, fresh = chain.links.divided(tensors)
        inputs = invariants.inputs(arguments)
        results, kept = recipes.forward.follow(layout, inputs, starts, fresh)
        ctx.chain, ctx.layout, ctx.recipes = chain, layout, recipes
        ctx.set_materialize_grads(False)
        computed = invariants.computed(inputs)
        ctx.save_for_backward(*tensors, *computed, *(() if kept is None else (kept,)))
        ctx.counts = len(tensors), len(computed)
        ctx.unused = 0 if kept is None else unused(kept)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *from_above: Tensor | None) -> tuple[Any, ...]:
        chain, layout, needs = ctx.chain, ctx.layout, ctx.needs_input_grad[2:]
        (count, others), saved = ctx.counts, ctx.saved_tensors
        tensors, computed = saved[:count], saved[count : count + others]
        kept = [where_it_was(block, ctx.unused) for block in saved[count + others :]]
        recipe = None
        if not torch.is_grad_enabled() and not any(g is not None and is_batched(g) for g in from_above):
            recipe = chain.backward_recipe(ctx.recipes, tuple(g is not None for g in from_above))
        if recipe is None:
            return (None, None, *_by_interpreter(chain, layout, tensors, needs, from_above))
        arguments, _, _ = chain.links.divided(tensors)

        def follow(recipe: BackwardRecipe = recipe) -> list[Tensor | None]:
            inputs = chain.invariants.inputs(arguments, computed)
            found = recipe.follow(layout, inputs, from_above, kept[0] if kept else None)
            of_arguments = chain.invariants.gradients(arguments, needs, found.inputs)
            return [*of_arguments, *found.starts, *found.fresh]

        return (None, None, *with_second_try(follow, scratch_memory.release))


def _by_interpreter(
    chain: Chain, layout: Layout, tensors: Sequence[Tensor], needs: Sequence[bool], from_above: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradient by PyTorch: it has a derivative itself, or there are many of them at once."""
    return gradients_again(lambda tensors: _interpret(chain, layout, tensors), tensors, needs, from_above)


def _interpret(chain: Chain, layout: Layout, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Outputs and final states, by PyTorch."""
    arguments, starts, fresh = chain.links.divided(tensors)
    known = dict(zip(chain.links.inputs, chain.invariants.inputs(arguments), strict=True))
    finals = []
    for link in chain.links:
        first, last = link.states.start, link.states.stop
        inputs = [known[v] for v in link.section.inputs]
        outputs, ends = run_section(link.section, layout, inputs, starts[first:last], fresh[first:last])
        known.update(zip(link.section.outputs, outputs, strict=True))
        finals += ends
    return [*(known[v] for v in chain.outputs), *finals]
