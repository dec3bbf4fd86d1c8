"""What becomes of the sections of a plan: where they run, what they compute, who runs them, and what that keeps."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.compiler.linearity import recurrence
from treadle.compiler.program import Value
from treadle.compiler.walk import preorder
from treadle.engines import Engine, Refusal
from treadle.engines.engine import Taken
from treadle.engines.network import Network
from treadle.engines.stages import staged, taken
from treadle.insight.explanation import ExplainedSection, Kept
from treadle.insight.value_names import FUNCTIONS, ValueNames, called, grouped, layers

_KINDS = {
    Kind.INVARIANT: "once",
    Kind.PARALLEL: "all steps",
    Kind.OPAQUE: "all steps",
    Kind.LOOP: "loop",
    Kind.SHIFT: "shifted",
}
_FREE = p.VIEWS | {"full", "cat"}


class PlanReader:
    """Reads what becomes of a network's sections, on an engine (None if nothing runs it).

    Products multiply in another precision than that of the weights, if one is given; ``learned`` says whether the
    initial state has gradients, ``x_needs_grad`` whether the input has.
    """

    def __init__(
        self, network: Network, engine: Engine | None, products: torch.dtype | None, learned: bool, x_needs_grad: bool
    ):
        self.network, self.engine, self.products, self.learned = network, engine, products, learned
        self.plan = plan = network.plan(False, engine is None or engine.takes_in)
        self.program = plan.program
        self.order = {v: i for i, v in enumerate(self.program.values())}
        self.names = ValueNames(plan)
        # Which values have a gradient, as far as is known before the section that is being read.
        self.needs = {v: tensor.requires_grad for v, tensor in network.constants().items()}
        self.needs |= dict.fromkeys(plan.random, False) | {self.program.inputs["x"]: x_needs_grad}
        self.counted: set[Any] = set()

    def sections(self) -> Iterator[ExplainedSection]:
        all_sections = self.plan.sections
        makers = {v: i for i, s in enumerate(all_sections) for v in (*s.outputs, *s.new)}
        makers |= {v: i for i, s in enumerate(all_sections) for v in s.old}
        reads = [{makers[v] for v in s.inputs if v in makers} - {i} for i, s in enumerate(all_sections)]
        readers = [[j for j, read in enumerate(reads) if i in read] for i in range(len(all_sections))]
        for i, section in enumerate(all_sections):
            loops = [] if section.kind is Kind.INVARIANT else self._loops_beyond(i, readers)
            above = [] if loops or section.kind is Kind.INVARIANT else self._loops_beyond(i, reads)
            yield self._explained(i, section, loops, above[-1] if above else "")

    def _loops_beyond(self, start: int, edges: Sequence[Iterable[int]]) -> list[str]:
        """The loops that are reached from a section without passing through another loop."""
        all_sections = self.plan.sections
        if all_sections[start].kind in (Kind.LOOP, Kind.SHIFT):
            return []
        met = preorder([start], lambda i: () if all_sections[i].kind is Kind.LOOP else tuple(edges[i]))
        found = {i for i in met if all_sections[i].kind is Kind.LOOP}
        alone = sum(section.kind is Kind.LOOP for section in all_sections) == 1
        return [
            ", ".join(layers(all_sections[i].states)) or ("the loop" if alone else grouped(all_sections[i].states))
            for i in sorted(found)
        ]

    def _explained(self, i: int, section: Section, before: list[str], after: str) -> ExplainedSection:
        values = sorted(section.values(), key=lambda v: self.order[v])
        operations = [v for v in values if v.op not in _FREE]
        products = sorted((v for v in values if v.op == "dot"), key=self.names.first_parameter)
        norms, inside = self._norms(values)
        functions = collections.Counter(v.op for v in operations if v.op in FUNCTIONS and v not in inside)
        engine, reason, kept = self._run(i, section)
        name = self.names.name
        return ExplainedSection(
            _KINDS[section.kind],
            tuple(state.removeprefix("state/") for state in section.states),
            layers(section.states),
            tuple(before),
            after,
            len(operations),
            tuple(" @ ".join(map(name, v.inputs)) for v in products),
            norms,
            dict(functions),
            tuple(f"{called(v)}({', '.join(map(name, v.inputs))})" for v in operations if v.op == "opaque"),
            sum(v.row_numel * v.inputs[1].shape[0] for v in products),
            kept,
            engine,
            reason,
            self.names.shown(section),
            str(recurrence(section)) if section.kind is Kind.LOOP else "",
            self._details(section),
        )

    def _details(self, section: Section) -> tuple[str, ...]:
        """What the engine says of its form of a section."""
        own = None if self.engine is None else taken(self.network, self.engine, section, self.products)
        return () if self.engine is None or own is None or isinstance(own, Refusal) else self.engine.details(own)

    # Who runs a section, and what that keeps.

    def _run(self, i: int, section: Section) -> tuple[str, str, tuple[Kept, ...] | None]:
        """The engine, why that and no other, and what is kept."""
        if section.kind is Kind.SHIFT:
            for old, new in zip(section.old, section.new, strict=True):
                self.needs[old] = self.needs.get(new, False)
        elif section.kind is Kind.INVARIANT:
            for value in section.values():
                self.needs[value] = any(self.needs.get(v, False) for v in value.inputs)
        engine = self.engine
        otherwise = "PyTorch" if engine is None or engine.by_program else "Python"
        if section.kind in (Kind.SHIFT, Kind.INVARIANT):
            return otherwise, "", ()
        active = (self.learned and bool(section.states)) or any(self.needs.get(v, False) for v in section.inputs)
        for value in (*section.outputs, *section.old, *section.new):
            self.needs[value] = active and value.dtype.is_floating_point
        own = None if engine is None else taken(self.network, engine, section, self.products)
        if engine is not None and own is not None and not isinstance(own, Refusal):
            return engine.name, "", tuple(self._kept(i, section, engine, own)) if active else ()
        reason = str(own or "")
        if engine is not None and engine.form and section.kind is Kind.OPAQUE:
            opaque = [v for v in section.values() if v.op == "opaque"]
            reason = ", ".join(
                sorted({f"{section.lines.get(v)}: {v.call.function} has no {engine.form} here" for v in opaque})
            )
        return otherwise, reason, None if active else ()

    def _kept(self, i: int, section: Section, engine: Engine, own: Taken) -> Iterator[Kept]:
        """What an engine's form of the section keeps, and no earlier section does."""
        wanted = tuple(self.needs.get(v, False) and v.dtype.is_floating_point for v in section.inputs)
        local, keeps = own.section, own.kept(wanted)
        known = dict(zip(local.inputs, section.inputs, strict=True))
        known |= dict(zip(local.outputs, section.outputs, strict=True))
        known |= dict(zip(local.new, section.new, strict=True))
        # The states before each step are those after it, one step on, in the same memory; unless two are the same.
        used: set[Value] = set()
        for old, new in zip(local.old, section.new, strict=True):
            if old in keeps:
                known[old] = new if new not in used else self.program.inputs[section.states[local.old.index(old)]]
                used.add(new)
        # All that comes from outside of the node of autograd is kept, so that a second derivative can be taken.
        runners = staged(self.network, engine, self.products, False).runners
        together = next((sections for sections, _ in runners if section in sections), ())
        made = {v for other in together for v in other.outputs}
        outside = [inner for inner, v in zip(local.inputs, section.inputs, strict=True) if v.has_rows and v not in made]
        for value in (*outside, *keeps):
            whole = known.get(value)
            # What a node keeps for itself is another copy than what it gives to the next one.
            key = (value in outside, (i, value) if whole is None else whole)
            if key not in self.counted:
                self.counted.add(key)
                name = f"{value.op} ({local.lines.get(value)})" if whole is None else self.names.name(whole)
                # The engine keeps booleans as numbers; what it is given stays as it is.
                itemsize = value.dtype.itemsize if value in outside else own.dtype.itemsize
                yield Kept(name, value.row_numel * itemsize)

    def _norms(self, values: list[Value]) -> tuple[tuple[str, ...], set[Value]]:
        """Layer normalisations, by name, and the roots in them that are not counted again."""
        names, inside, here = [], set(), set(values)
        for root in values:
            if root.op != "rsqrt" or not any(v.op == "sum" for v in _same_size_above(root)):
                continue
            scaled = _reader_of(root, here)
            gained = scaled and _reader_of(scaled, here)
            others = [_viewed(v) for v in (gained.inputs if gained else ())]
            gain = next((self.names.names[v] for v in others if v in self.names.names and not v.has_rows), "")
            names.append(gain.rpartition(".")[0] or "without a name")
            inside.add(root)
        return tuple(names), inside


def _viewed(value: Value) -> Value:
    while value.op in p.VIEWS:
        value = value.inputs[0]
    return value


def _reader_of(value: Value, values: set[Value]) -> Value | None:
    """The product that a value is a factor of."""
    return next((v for v in values if v.op == "mul" and any(_viewed(a) is value for a in v.inputs)), None)


def _same_size_above(value: Value) -> Iterator[Value]:
    """What a statistic of a row is made of, back to the first thing that is larger."""

    def operands(one: Value) -> list[Value]:
        return [] if one.op == "sum" else [v for v in one.inputs if v.row_numel == value.row_numel]

    return preorder([value], operands)
