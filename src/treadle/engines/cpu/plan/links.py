"""A section in a chain: its compiled form, and what the values of that are in the chain."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from treadle.caches import kept_property
from treadle.compiler.fission import Section
from treadle.compiler.interpreter import Line
from treadle.compiler.program import Value
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.passes.section_passes import DerivedPasses

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
    """A section in a chain. What a value is called depends on who asks: the section *in the chain*, or its *own* one.

    ``first_state`` is how many states the links before it have.
    """

    section: Section
    compiled: CompiledSection
    first_state: int

    @property
    def own(self) -> Section:
        return self.compiled.section

    @kept_property
    def inputs(self) -> Mapping[Value, Value]:
        """What its own inputs are in the chain."""
        return dict(zip(self.own.inputs, self.section.inputs, strict=True))

    @kept_property
    def outputs(self) -> Mapping[Value, Value]:
        """What its own outputs are in the chain."""
        return dict(zip(self.own.outputs, self.section.outputs, strict=True))

    @property
    def states(self) -> range:
        """Which of the chain's states it has."""
        return range(self.first_state, self.first_state + len(self.section.old))

    def gradients(self, derivative: DerivedPasses) -> list[tuple[Value, Value | None]]:
        """Of the inputs whose gradients are wanted: the value in the chain, and the link's own gradient of it."""
        pairs = zip(derivative.wanted, derivative.program.gradients, strict=True)
        return [(self.inputs[value], gradient) for value, gradient in pairs]


class Links:
    """Sections of one precision that follow each other, and who reads what of whom; ``visible`` ones are read outside.

    Attributes:
        inputs: what they read from outside.
        index: which of the inputs a value is.
        outputs: what is visible of their results.
        states: how many they have.
    """

    def __init__(self, sections: Sequence[Section], compiled: Sequence[CompiledSection], visible: Iterable[Value]):
        self.dtype = compiled[0].dtype
        self._links: list[Link] = []
        self.states = 0
        for section, one in zip(sections, compiled, strict=True):
            self._links.append(Link(section, one, self.states))
            self.states += len(section.old)
        results = dict.fromkeys(v for section in sections for v in section.outputs)
        self.inputs = tuple(dict.fromkeys(v for section in sections for v in section.inputs if v not in results))
        self.index = {value: i for i, value in enumerate(self.inputs)}
        visible = set(visible)
        self.outputs = tuple(v for v in results if v in visible)

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links)

    def derivatives(self, needs: Sequence[bool]) -> dict[Link, DerivedPasses]:
        """The links through which a gradient flows, and the derivative of each.

        Args:
            needs: of inputs, then of states before the first step, then of those at resets: whether gradients are
                wanted.
        """
        inputs, starts, fresh = self.divided(needs)
        needed = {v for v, need in zip(self.inputs, inputs, strict=True) if need and v.dtype.is_floating_point}
        found = {}
        for link in self:
            wanted = tuple(v in needed for v in link.section.inputs)
            if any(wanted) or any(starts[k] or fresh[k] for k in link.states):
                found[link] = link.compiled.derivative(wanted)
                needed |= {v for v in link.section.outputs if v.dtype.is_floating_point}
        return found

    def divided(self, everything: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """What belongs to inputs, to states before the first step, and to those at resets."""
        first = len(everything) - 2 * self.states
        return everything[:first], everything[first : first + self.states], everything[first + self.states :]


class SharedValues:
    """What PyTorch makes of a link's inputs without rows, and of what is ``known``, before or after its kernel."""

    def __init__(self, links: Links, link: Link, values: Iterable[Value], known: Collection[Value] = ()):
        self._sources = [(own, links.index[value]) for own, value in link.inputs.items() if not value.has_rows]
        self._line = Line(values, [*known, *(own for own, _ in self._sources)])

    def compute(self, inputs: Sequence[Tensor], known: dict[Value, Tensor], rows: int = 0) -> None:
        """Compute them from the inputs of the chain, into ``known``."""
        for own, i in self._sources:
            known[own] = inputs[i]
        self._line.run(known, rows)
