"""What a chain makes of parameters before its first step: sums of biases, transposed weights, normalised ones.

It belongs to the chain's node of autograd. Left to PyTorch, every such operation is a node of its own, and for short
sequences those take longer than the steps.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler.derivative import derive
from treadle.compiler.fission import Section
from treadle.compiler.interpreter import Line
from treadle.compiler.program import Value
from treadle.engines.cpu.plan.links import Links


class Invariants:
    """The step from the arguments of a chain, such as parameters, to the inputs of its links.

    Args:
        section: an invariant section whose outputs the links alone read; None if every input is an argument.

    Attributes:
        arguments: what a call of the chain takes.
        outputs: what of the links' inputs is computed here.
        lies_in: of each of the links' inputs, the argument whose memory it is, perhaps with its axes in another order;
            None where it is made.
        made_in: of each of the links' inputs that is made, which of the tensors of `made` it is.
    """

    def __init__(self, links: Links, section: Section | None):
        self.links, self.section = links, section
        self.arguments, self.outputs = links.inputs, ()
        self.lies_in: list[int | None] = list(range(len(links.inputs)))
        self.made_in: dict[int, int] = {}
        if section is None:
            return
        self.outputs = section.outputs
        others = [v for v in links.inputs if v not in self.outputs]
        self.arguments = tuple(dict.fromkeys([*others, *section.inputs]))
        self._sources = _sources(section)
        index = {value: i for i, value in enumerate(self.arguments)}
        self.lies_in = [index.get(_viewed(v, section)) for v in links.inputs]
        self._made = tuple(v for v, argument in zip(links.inputs, self.lies_in, strict=True) if argument is None)
        self.made_in = {links.index[v]: k for k, v in enumerate(self._made)}
        self._line_of_made = Line(self._made, section.inputs)
        self._line_of_views = Line(section.outputs, [*section.inputs, *self._made])
        self._backward = functools.lru_cache(maxsize=16)(functools.partial(_backward, section, self.arguments))

    def inputs(self, arguments: Sequence[Tensor], made: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The inputs of the links; ``made`` is what `made` has given, if it is still there."""
        if self.section is None:
            return list(arguments)
        known = dict(zip(self.arguments, arguments, strict=True))
        known.update(zip(self._made, self.made(arguments) if made is None else made, strict=True))
        self._line_of_views.run(known, 0)
        return [known[v] for v in self.links.inputs]

    def made(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """The links' inputs that lie in no argument."""
        if not self.made_in:
            return []
        known = dict(zip(self.arguments, arguments, strict=True))
        self._line_of_made.run(known, 0)
        return [known[v] for v in self._made]

    def needs(self, needs: Sequence[bool]) -> tuple[bool, ...]:
        """Which gradients the links have to give, if these of arguments, starts and fresh states are wanted."""
        if self.section is None:
            return tuple(needs)
        wanted = {v for v, need in zip(self.arguments, needs, strict=False) if need}
        of_inputs = [not wanted.isdisjoint(self._sources.get(v, (v,))) for v in self.links.inputs]
        return (*of_inputs, *needs[len(self.arguments) :])

    def gradients(
        self, arguments: Sequence[Tensor], needs: tuple[bool, ...], of_inputs: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The gradients of the arguments, from those of the links' inputs."""
        if self.section is None:
            return list(of_inputs)
        found = {v: g for v, g in zip(self.links.inputs, of_inputs, strict=True) if g is not None}
        from_above = [found.pop(v, None) for v in self.outputs]
        if any(gradient is not None for gradient in from_above):
            line, places, gradients = self._backward(needs)
            known = dict(zip(self.arguments, arguments, strict=True))
            for place, output, above in zip(places, self.outputs, from_above, strict=True):
                shape: Any = output.shape  # without rows
                zeros = torch.zeros(shape, dtype=output.dtype, device="cpu") if above is None else above
                known[place] = zeros
            line.run(known, 0)
            for value, gradient in gradients:
                found[value] = found[value] + known[gradient] if value in found else known[gradient]
        return [found.get(v) for v in self.arguments]


def _viewed(value: Value, section: Section) -> Value:
    """The input of a section that a value is, perhaps with its axes in another order; else the value."""
    first = value
    while first.op == "permute" and first not in section.inputs:
        first = first.inputs[0]
    return first if first in section.inputs else value


def _sources(section: Section) -> dict[Value, frozenset[Value]]:
    """Which inputs of a section each of its values is made of."""
    sources = {v: frozenset([v]) for v in section.inputs}
    for value in section.values():
        sources.setdefault(value, frozenset().union(*(sources.get(v, frozenset()) for v in value.inputs)))
    return sources


def _backward(
    section: Section, arguments: Sequence[Value], needs: Sequence[bool]
) -> tuple[Line, tuple[Value, ...], list[tuple[Value, Value]]]:
    """How gradients of a section's inputs are computed, what stands for those of its outputs, and what they are."""
    needed = {v for v, need in zip(arguments, needs, strict=False) if need and v.dtype.is_floating_point}
    wanted = tuple(v for v in section.inputs if v in needed)
    derivative = derive(section, wanted)
    gradients = [(v, g) for v, g in zip(wanted, derivative.gradients, strict=True) if g is not None]
    line = Line([g for _, g in gradients], [*section.inputs, *derivative.output_cotangents])
    return line, derivative.output_cotangents, gradients
