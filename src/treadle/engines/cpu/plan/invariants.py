"""What a chain makes of parameters before its first step: sums of biases, transposed weights, normalised ones.

It belongs to the chain's node of autograd. Left to PyTorch, every such operation is a node of its own, and for short
sequences those take longer than the steps.
"""

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from treadle.compiler.derivative import derive
from treadle.compiler.fission import Section
from treadle.compiler.interpreter import Line
from treadle.compiler.program import Value

__all__ = ["Once"]


class Once:
    """An invariant section.

    Args:
        section: what is computed, of values without rows.

    Attributes:
        inputs, outputs: the section's.
    """

    def __init__(self, section: Section):
        self.section, self.inputs, self.outputs = section, section.inputs, section.outputs
        self._line = Line(section.outputs, section.inputs)
        made_of: dict[Value, frozenset[Value]] = {v: frozenset([v]) for v in section.inputs}
        for value in section.values():
            made_of.setdefault(value, frozenset().union(*(made_of.get(v, frozenset()) for v in value.inputs)))
        self.made_of = made_of
        self._backward = functools.lru_cache(maxsize=16)(self._derived)

    def forward(self, known: dict[Value, Tensor]) -> None:
        """Compute the outputs, into ``known``."""
        self._line.run(known, 0)

    def backward(
        self, known: dict[Value, Tensor], wanted: Iterable[Value], from_above: Sequence[Tensor | None]
    ) -> dict[Value, Tensor]:
        """The gradients of the inputs that are wanted, from those of the outputs."""
        wanted = tuple(wanted)
        line, cotangents, gradients = self._backward(wanted)
        known = {v: known[v] for v in self.inputs}
        for place, output, above in zip(cotangents, self.outputs, from_above, strict=True):
            known[place] = torch.zeros(output.shape, dtype=output.dtype) if above is None else above
        line.run(known, 0)
        return {v: known[g] for v, g in zip(wanted, gradients, strict=True) if g is not None}

    def _derived(self, wanted: tuple[Value, ...]) -> tuple[Line, tuple[Value, ...], tuple[Value | None, ...]]:
        derivative = derive(self.section, wanted)
        places, gradients = derivative.output_cotangents, derivative.gradients
        return Line([g for g in gradients if g is not None], [*self.inputs, *places]), places, gradients
