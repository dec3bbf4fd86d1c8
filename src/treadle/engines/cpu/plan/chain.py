"""Sections that follow each other, as one node of PyTorch's autograd: a recipe for each way through it.

What a section gives and another one reads never becomes a tensor of PyTorch's: it is a place in a block of memory. The
block that the backward pass reads is one tensor, the other one ends with the call.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.cpu.plan.backward import BackwardRecipe
from treadle.engines.cpu.plan.forward import ForwardRecipe
from treadle.engines.cpu.plan.invariants import Once
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.interpreter import run_section
from treadle.engines.layout import Layout

__all__ = ["Chain"]

_MOST_RECIPES = 16


class Chain:
    """Sections that run one after another.

    Args:
        sections: loops and parallel ones, of one precision.
        links: the compiled form of each.
        visible: which of the values that they give are read outside.
        once: what is computed before, and read by them alone.

    Attributes:
        inputs: what the sections read from outside.
        given: what a run takes, which instead of what is computed once has what that is made of.
        outputs: what a run gives.
    """

    def __init__(
        self,
        sections: Sequence[Section],
        links: Sequence[CompiledSection],
        visible: Iterable[Value],
        once: Once | None = None,
    ):
        self.sections, self.links, self.once = tuple(sections), tuple(links), once
        self.dtype = links[0].dtype
        made = {value for section in sections for value in section.outputs}
        visible = set(visible)
        self.inputs = tuple(dict.fromkeys(v for section in sections for v in section.inputs if v not in made))
        self.computed = () if once is None else tuple(v for v in once.outputs if v in self.inputs)
        self.given = tuple(
            dict.fromkeys([*(v for v in self.inputs if v not in self.computed), *(once.inputs if once else ())])
        )
        self.outputs = tuple(dict.fromkeys(v for section in sections for v in section.outputs if v in visible))
        self.states = tuple(name for section in sections for name in section.states)
        self.old = tuple(value for section in sections for value in section.old)
        self.new = tuple(value for section in sections for value in section.new)
        self.first_state = [sum(len(s.old) for s in sections[:i]) for i in range(len(sections))]
        self._recipes: dict[Any, Any] = {}

    def run(
        self, layout: Layout, given: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs [N, ...], and the states after the last step of each row."""
        everything = [*given, *starts, *fresh]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in everything):
            results = list(_Node.apply(self, layout, *everything))  # pyright: ignore
        else:
            with torch.no_grad():
                results, _ = self.forward(layout, None).follow(layout, self.completed(given), starts, fresh)
        count = len(self.outputs)
        return results[:count], results[count:]

    def completed(self, given: Sequence[Tensor], made: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The inputs, from what a run takes; ``made`` is what was computed once, if it was."""
        if self.once is None:
            return list(given)
        known = dict(zip(self.given, given, strict=True))
        if made is None:
            self.once.forward(known)
        else:
            known.update(zip(self.computed, made, strict=True))
        return [known[v] for v in self.inputs]

    def made(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Of the inputs, what was computed once."""
        known = dict(zip(self.inputs, inputs, strict=True)) if self.computed else {}
        return [known[v] for v in self.computed]

    def needs(self, given: Sequence[bool]) -> tuple[bool, ...]:
        """Which gradients of inputs, starts and fresh states are wanted, if these of what a run takes are."""
        if self.once is None:
            return tuple(given)
        wanted = {v for v, need in zip(self.given, given, strict=False) if need}
        made_of = self.once.made_of
        own = [v in wanted or not wanted.isdisjoint(made_of.get(v, ())) for v in self.inputs]
        return (*own, *given[len(self.given) :])

    def handed_back(
        self, given: Sequence[Tensor], needs: Sequence[bool], gradients: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The gradients of what a run takes, from those of the inputs."""
        if self.once is None:
            return list(gradients)
        found = {v: g for v, g in zip(self.inputs, gradients, strict=True) if g is not None}
        above = [found.pop(v, None) for v in self.once.outputs]
        if any(gradient is not None for gradient in above):
            floats = [v.dtype.is_floating_point for v in self.given]
            wanted = {v for v, need, is_float in zip(self.given, needs, floats, strict=False) if need and is_float}
            known = dict(zip(self.given, given, strict=True))
            more = self.once.backward(known, [v for v in self.once.inputs if v in wanted], above)
            for value, gradient in more.items():
                found[value] = found[value] + gradient if value in found else gradient
        return [found.get(v) for v in self.given]

    def forward(self, layout: Layout, needs: tuple[bool, ...] | None) -> ForwardRecipe:
        """The way forwards; ``needs`` says of inputs, starts and fresh states whether gradients are wanted."""
        key = (needs, layout.key, torch.get_num_threads())
        return _found(self._recipes, key, lambda: ForwardRecipe(self, layout, needs))

    def backward(self, forward: ForwardRecipe, layout: Layout, given: tuple[bool, ...]) -> BackwardRecipe:
        """The way back; ``given`` says of outputs and final states whether there is a gradient from above."""
        make = lambda: BackwardRecipe(self, forward, layout, given)  # noqa: E731
        return _found(forward.backwards, (given, torch.get_num_threads()), make)

    def values_of(self, number: int) -> dict[Value, Value]:
        """Of a link: what its own inputs are in the chain."""
        return dict(zip(self.links[number].section.inputs, self.sections[number].inputs, strict=True))

    def shared_by(self, number: int) -> list[tuple[Value, Value]]:
        """Of a link: its own inputs that have no rows, and what they are in the chain."""
        return [(local, value) for local, value in self.values_of(number).items() if not value.has_rows]


def _found(recipes: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """The recipe of that key, made if there is none; the oldest one is forgotten where there are many."""
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
        count, states = len(chain.given), len(chain.old)
        recipe = chain.forward(layout, chain.needs(ctx.needs_input_grad[2:]))
        given, starts, fresh = tensors[:count], tensors[count : count + states], tensors[count + states :]
        inputs = chain.completed(given)
        results, kept = recipe.follow(layout, inputs, starts, fresh)
        ctx.chain, ctx.layout, ctx.recipe = chain, layout, recipe
        ctx.set_materialize_grads(False)
        made = chain.made(inputs)
        ctx.save_for_backward(*tensors, *made, *(() if kept is None else (kept,)))
        ctx.counts = len(tensors), len(made)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *from_above: Tensor | None) -> tuple[Any, ...]:
        chain, layout, needs = ctx.chain, ctx.layout, ctx.needs_input_grad[2:]
        (count, others), saved = ctx.counts, ctx.saved_tensors
        tensors, made, kept = saved[:count], saved[count : count + others], saved[count + others :]
        if torch.is_grad_enabled():
            return (None, None, *_by_interpreter(chain, layout, tensors, needs, from_above))
        recipe = chain.backward(ctx.recipe, layout, tuple(g is not None for g in from_above))
        given = tensors[: len(chain.given)]
        inputs = chain.completed(given, made)
        gradients, to_starts, to_fresh = recipe.follow(layout, inputs, from_above, kept[0] if kept else None)
        return (None, None, *chain.handed_back(given, needs, gradients), *to_starts, *to_fresh)


def _by_interpreter(chain: Chain, layout: Layout, tensors: Any, needs: Any, from_above: Any) -> list[Tensor | None]:
    """The gradient as something that has a derivative itself."""
    count, states = len(chain.given), len(chain.old)
    with torch.enable_grad():
        # Stand-ins: the gradient of one must not take in what reaches it through another that is made of it.
        tensors = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        known = dict(zip(chain.inputs, chain.completed(tensors[:count]), strict=True))
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
