"""Sections that follow each other, as one node of PyTorch's autograd: a recipe for each way through it.

What a section gives and another one reads never becomes a tensor of PyTorch's: it is a place in a block of memory. The
block that the backward pass reads is one tensor, the other one ends with the call.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.autograd import gradients_again
from treadle.engines.cpu.machine import scratch_memory
from treadle.engines.cpu.machine.alignment import unused, where_it_was
from treadle.engines.cpu.plan.backward import BackwardRecipe
from treadle.engines.cpu.plan.bound_backward import BoundBackward
from treadle.engines.cpu.plan.bound_forward import BoundForward
from treadle.engines.cpu.plan.bound_pass import Bindings
from treadle.engines.cpu.plan.call_form import CallForm
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

_MOST_RECIPES = 48


class Given(NamedTuple):
    """What a call is given: arguments, the states before the first step, and those at resets."""

    arguments: Sequence[Tensor]
    starts: Sequence[Tensor]
    fresh: Sequence[Tensor]


@dataclasses.dataclass
class Recipes:
    """A forward pass, and the backward passes after it, which know where it keeps what.

    ``bound`` are forward passes bound to where parameters lie.
    """

    forward: ForwardRecipe
    backward: "dict[Hashable, Backward]" = dataclasses.field(default_factory=dict)
    bound: Bindings[BoundForward] = dataclasses.field(default_factory=Bindings)

    def after(self, from_above: tuple[bool, ...]) -> "Backward":
        """The backward pass; ``from_above`` says of outputs and final states whether they have a gradient."""
        key = (from_above, torch.get_num_threads())
        return _found(self.backward, key, lambda: Backward(BackwardRecipe(self.forward, from_above)))

    def run(
        self, invariants: Invariants, form: CallForm, given: Given
    ) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
        """Outputs and final states, what is made of the arguments, and the memory that the backward pass reads."""
        arguments, starts, fresh = given
        bound = self.bound.find(form)
        if bound is None or not bound.fits(arguments):
            make = functools.partial(BoundForward.of, self.forward, invariants, form, arguments, starts)
            bound = self.bound.bind(form, make)
        made = invariants.made(arguments)
        if bound is not None:
            results, kept = bound.run(arguments, starts, made)
        else:
            inputs = invariants.inputs(form.flat(arguments, invariants.arguments), made)
            results, kept = self.forward.follow(form.layout, inputs, starts, fresh)
            outputs = self.forward.links.outputs
            results = [*form.as_passed(results[: len(outputs)], outputs), *form.grouped(results[len(outputs) :])]
        return results, made, kept


@dataclasses.dataclass
class Backward:
    """A backward pass; ``bound`` is the same, bound to where parameters lie."""

    recipe: BackwardRecipe
    bound: Bindings[BoundBackward] = dataclasses.field(default_factory=Bindings)

    def run(
        self, invariants: Invariants, form: CallForm, arguments: Sequence[Tensor], needs: tuple[bool, ...],
        from_above: Sequence[Tensor | None], made: Sequence[Tensor], kept: Tensor | None,
    ) -> list[Tensor | None]:  # fmt: skip
        """The gradients of arguments, starts and fresh states, as far as they are needed."""
        bound = self.bound.find(form)
        if bound is not None and bound.fits(arguments):
            return bound.run(arguments, from_above, made, kept)
        recipe, values, layout, links = self.recipe, invariants.arguments, form.layout, self.recipe.links
        arguments, count = form.flat(arguments, values), len(links.outputs)
        inputs = invariants.inputs(arguments, made)
        above = [*form.flat(from_above[:count], links.outputs), *form.each(from_above[count:], links.states)]
        tensors = recipe.tensors(layout, inputs, above)
        recipe.recipe.follow(tensors, kept, layout)
        found = recipe.gradients(tensors, inputs, layout.rows)
        of_arguments = form.as_passed(invariants.gradients(arguments, needs, found.inputs), values)
        every = zip([*of_arguments, *found.starts, *found.fresh], needs, strict=True)
        gradients = [gradient if need else None for gradient, need in every]
        self.bound.bind(form, lambda: BoundBackward.of(recipe, invariants, form, arguments, tensors, gradients))
        return gradients


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
        return self._run(CallForm(layout), Given(arguments, starts, fresh))

    def run_by_step(
        self,
        layout: Layout,
        arguments: Sequence[Tensor],
        starts: Sequence[Tensor],
        groups: tuple[tuple[int, ...], ...] = (),
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The same of rows that all have all steps and are never reset, as [T, B, ...] before and after.

        Where there are ``groups``, the states of each are given back as one tensor, [L, B, ...].
        """
        return self._run(CallForm(layout, True, groups), Given(arguments, starts, starts))

    def _run(self, form: CallForm, given: Given) -> tuple[list[Tensor], list[Tensor]]:
        if torch.is_grad_enabled():
            everything = [*given.arguments, *given.starts]
            if given.fresh is not given.starts:
                everything += given.fresh
            if any(tensor.requires_grad for tensor in everything):
                results = list(_Node.apply(self, form, *everything))  # pyright: ignore
            else:
                with torch.no_grad():
                    results = self._without_gradient(form, given)
        else:
            results = self._without_gradient(form, given)
        count = len(self.outputs)
        return results[:count], results[count:]

    def _without_gradient(self, form: CallForm, given: Given) -> list[Tensor]:
        return self.recipes(form.layout, None).run(self.invariants, form, given)[0]

    def given_in(self, tensors: Sequence[T]) -> "tuple[Sequence[T], Sequence[T], Sequence[T]]":
        """What belongs to arguments, starts and fresh states; these are the starts where they are not passed again."""
        first = len(self.given)
        last = first + self.links.states
        starts = tensors[first:last]
        return tensors[:first], starts, tensors[last:] or starts

    def recipes(self, layout: Layout, needs: tuple[bool, ...] | None) -> Recipes:
        """The recipes for a layout; ``needs`` says of arguments, starts and fresh states who wants a gradient."""
        frame = Frame.of(layout)

        def make() -> Recipes:
            return Recipes(ForwardRecipe(self.links, frame, None if needs is None else self.invariants.needs(needs)))

        return _found(self._recipes, (needs, frame, torch.get_num_threads()), make)

    def backward(self, recipes: Recipes, from_above: tuple[bool, ...]) -> Backward | None:
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
    def forward(ctx: Any, chain: Chain, form: CallForm, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.needs = needs = tuple(itertools.chain(*chain.given_in(ctx.needs_input_grad[2:])))
        recipes = chain.recipes(form.layout, needs)
        results, made, kept = recipes.run(chain.invariants, form, Given(*chain.given_in(tensors)))
        ctx.chain, ctx.form, ctx.recipes = chain, form, recipes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *made, *(() if kept is None else (kept,)))
        ctx.counts = len(tensors), len(made)
        ctx.unused = 0 if kept is None else unused(kept)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *from_above: Tensor | None) -> tuple[Any, ...]:
        chain, form = ctx.chain, ctx.form
        (count, others), saved = ctx.counts, ctx.saved_tensors
        tensors, made = saved[:count], saved[count : count + others]
        kept = [where_it_was(block, ctx.unused) for block in saved[count + others :]]
        found = None
        if not torch.is_grad_enabled() and not any(g is not None and is_batched(g) for g in from_above):
            count_of_outputs = len(chain.outputs)
            ends = form.each(from_above[count_of_outputs:], chain.links.states)
            found = chain.backward(ctx.recipes, tuple(g is not None for g in (*from_above[:count_of_outputs], *ends)))
        if found is None:
            return (None, None, *_by_interpreter(chain, form, tensors, ctx.needs_input_grad[2:], from_above))
        arguments, _, _ = chain.given_in(tensors)
        given = chain.invariants, form, arguments, ctx.needs, from_above, made, kept[0] if kept else None
        gradients = with_second_try(functools.partial(found.run, *given), scratch_memory.release)
        return (None, None, *gradients[:count])


def _by_interpreter(
    chain: Chain, form: CallForm, tensors: Sequence[Tensor], needs: Sequence[bool], from_above: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradient by PyTorch: it has a derivative itself, or there are many of them at once."""
    return gradients_again(lambda tensors: _interpret(chain, form, tensors), tensors, needs, from_above)


def _interpret(chain: Chain, form: CallForm, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Outputs and final states, by PyTorch."""
    arguments, starts, fresh = chain.given_in(tensors)
    arguments = form.flat(arguments, chain.given)
    known = dict(zip(chain.links.inputs, chain.invariants.inputs(arguments), strict=True))
    finals = []
    for link in chain.links:
        first, last = link.states.start, link.states.stop
        inputs = [known[v] for v in link.section.inputs]
        outputs, ends = run_section(link.section, form.layout, inputs, starts[first:last], fresh[first:last])
        known.update(zip(link.section.outputs, outputs, strict=True))
        finals += ends
    return [*form.as_passed([known[v] for v in chain.outputs], chain.outputs), *form.grouped(finals)]
