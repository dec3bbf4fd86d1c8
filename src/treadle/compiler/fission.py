"""What has to happen one step after another, and what does not.

A step reads the old state and gives the new one. Which new component depends on which old one is a graph; its strongly
connected components are the loops: nothing smaller can run over a whole sequence at once. Everything else is taken out
of them. What a loop needs from outside is *hoisted*: computed for all steps before it, in one go; all but what would
only take memory there. What no state depends on is *sunk*: computed for all steps after it. A component that does not
depend on itself, such as a delayed output, is no loop at all but a *shifted* sequence. What depends on neither the
input nor the state is *invariant*: computed once a call.

So a stack falls apart into one loop a layer, and a top-down connection ties layers into one loop, and nobody says so.
"""

import collections
import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping

from treadle.compiler import program as p
from treadle.compiler.program import Program, Value
from treadle.compiler.walk import preorder


class Kind(enum.StrEnum):
    """How a section runs over the sequence."""

    INVARIANT = "invariant"
    """Once a call."""
    PARALLEL = "parallel"
    """All steps at once."""
    OPAQUE = "opaque"
    """The same, by operations that the compiler does not look into."""
    LOOP = "loop"
    """One step after another."""
    SHIFT = "shift"
    """Not at all: what it gives is another sequence, a step later."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a step that runs over the whole sequence before the next part begins.

    It reads ``inputs`` from other sections, from the input and the parameters; others read ``outputs``. A loop or a
    shift also has components of the state: their names, and their values before and after a step.
    """

    kind: Kind
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    states: tuple[str, ...] = ()
    old: tuple[Value, ...] = ()
    new: tuple[Value, ...] = ()
    lines: Mapping[Value, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """Of values of the program that it is a part of, the line that they come from."""

    def values(self) -> list[Value]:
        """What is computed here, operands first."""
        return p.between(self.inputs + self.old, self.outputs + self.new)

    def local(self) -> "Section":
        """The same, on placeholders ``in0`` and ``old0`` and so on: nothing of it knows where its inputs come from.

        Layers that are alike have the same local section, so they share their kernels.
        """
        new: dict[Value, Value] = {}
        for name, values in (("in", self.inputs), ("old", self.old)):
            new |= {v: p.placeholder(f"{name}{i}", v.shape, v.dtype) for i, v in enumerate(values)}
        inputs, old = tuple(new[v] for v in self.inputs), tuple(new[v] for v in self.old)
        lines = dict(self.lines)
        built = p.rebuild((*self.outputs, *self.new), new, lines)
        outputs, after = tuple(built[v] for v in self.outputs), tuple(built[v] for v in self.new)
        return Section(self.kind, inputs, outputs, self.states, old, after, lines)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step, taken apart into sections, in the order in which they run."""

    program: Program
    sections: tuple[Section, ...]
    random: tuple[Value, ...]
    """Drawn from torch's generator, step by step in the order of the program, before everything else."""
    sunk: frozenset[Value]
    """States of loops whose values before each step are read after the loop."""


def plan(program: Program, keep_states: bool = False, take_in: bool = True) -> Plan:
    """Take a step apart: ``"x"``, ``"state/NAME"`` and what all rows share give ``"y"`` and ``"state/NAME"``.

    With ``keep_states``, every component is wanted at every step. With ``take_in``, what lies between a product and one
    loop runs in the loop: that spares memory, but takes time at every step.
    """
    for _ in range(2):  # products that were split give sums, which are regrouped the second time
        program = _regroup(program, _Analysis(program))
    analysis = _Analysis(program)
    if take_in:
        analysis.take_in()
    sections = tuple(analysis.sections(keep_states))
    wanted = {value for name, value in program.outputs.items() if name == "y" or keep_states}
    reads = {value for section in sections for value in section.inputs} | wanted
    loops = {value for section in sections if section.kind is Kind.LOOP for value in section.old}
    return Plan(program, sections, analysis.random, frozenset(loops & reads))


class _Analysis:
    """Where each value of a program belongs."""

    def __init__(self, program: Program):
        self.program = program
        self.order = program.values()
        self.old = {name: value for name, value in program.inputs.items() if name.startswith("state/")}
        self.new = {name: program.outputs[name] for name in self.old}
        drawn = [v for v in self.order if v.draw is not None]
        self.random = tuple(sorted(drawn, key=lambda value: value.draw or 0))  # as the step's own Python draws
        self.depends = self._dependencies()
        edges = {name: self.depends[self.new[name]] for name in self.old}
        self.units = _strong_components(edges)
        self.is_loop = [len(unit) != 1 or unit[0] in edges[unit[0]] for unit in self.units]
        self.unit_of = {name: index for index, unit in enumerate(self.units) for name in unit}
        self.loop_of = self._loops()
        self.place = self._places()

    def _dependencies(self) -> dict[Value, frozenset[str]]:
        depends: dict[Value, frozenset[str]] = {}
        names = {value: name for name, value in self.old.items()}
        for value in self.order:
            own = frozenset((names[value],)) if value in names else frozenset()
            depends[value] = own.union(*(depends[operand] for operand in value.inputs))
        for value in self.old.values():
            depends.setdefault(value, frozenset((value.name,)))
        return depends

    def _loops(self) -> dict[Value, int]:
        """The loop of each value that is in one: it depends on the loop's old state, and its new state on it."""
        loop_of: dict[Value, int] = {}
        for index, unit in enumerate(self.units):
            if self.is_loop[index]:
                for value in p.ordered(self.new[name] for name in unit):
                    if value.op != "input" and not self.depends[value].isdisjoint(unit):
                        loop_of[value] = index
        return loop_of

    def take_in(self) -> None:
        """Take into a loop what lies between a product and nothing but that loop, and is more than a sum.

        To normalise a product, say, before the loop takes one more value of the product's size in memory, and the
        derivative reads the product anyway: within the loop only the product crosses its border, there and back.
        """
        readers: dict[Value, list[Value]] = collections.defaultdict(list)
        for value in self.order:
            for operand in value.inputs:
                readers[operand].append(value)
        outputs = set(self.program.outputs.values())
        between: dict[Value, int] = {}
        for value in reversed(self.order):
            loops = {self.loop_of.get(reader, between.get(reader, -1)) for reader in readers.get(value, ())}
            movable = value.op in p.ELEMENTWISE or value.op in p.REDUCTIONS or value.op in p.VIEWS
            fixed = value in self.loop_of or value in outputs or not value.has_rows
            if movable and not fixed and len(loops) == 1 and -1 not in loops:
                between[value] = loops.pop()
        for group in _connected(between):
            before = dict.fromkeys(v for value in group for v in value.inputs if v.has_rows and v not in between)
            crossing = [value for value in group if any(reader in self.loop_of for reader in readers[value])]
            if (
                all(v.op == "dot" for v in before)
                and sum(v.row_numel for v in before) <= sum(v.row_numel for v in crossing)
                and any(_is_curved(value) for value in group)
            ):
                self.loop_of.update((value, between[value]) for value in group)

    def _places(self) -> dict[Value, tuple[int, int]]:
        """(stage, level) of each value outside loops: it runs before the unit of that number; (-1, 0) if invariant.

        Levels alternate within a stage: even ones are what the compiler knows, odd ones are opaque.
        """
        place: dict[Value, tuple[int, int]] = {}
        random = set(self.random)
        for value in [*self.old.values(), *self.order]:
            if value.name.startswith("state/"):
                place[value] = (self.unit_of[value.name] + 1, 0)
            elif value.op == "input":
                place[value] = (0, 0) if value.has_rows else (-1, 0)
            elif value in random:
                place[value] = (0, 0)
            elif value in self.loop_of:
                place[value] = (self.loop_of[value] + 1, 0)
            else:
                stage, level = max((place[operand] for operand in value.inputs), default=(-1, 0))
                if stage < 0 and value.has_rows:
                    stage = 0
                if stage >= 0:
                    level += (level % 2 == 0) == (value.op == "opaque")
                place[value] = (stage, level)
        return place

    def rank(self, value: Value) -> int:
        """Later for what can be computed later; what is in the loop is last."""
        if value in self.loop_of:
            return 2 * self.loop_of[value] + 1
        return 2 * self.place[value][0]

    def sections(self, keep_states: bool) -> list[Section]:
        """All sections in order, each with what crosses its borders."""
        home: dict[Value, tuple[int, int, int]] = {}
        members: dict[tuple[int, int, int], list[Value]] = {}
        given = set(self.random) | set(self.program.inputs.values())
        for value in self.order:
            if value in given:
                continue
            # Sorted: sections before unit k are (k, 0, level), unit k itself is (k, 1, 0).
            stage, level = self.place[value]
            home[value] = key = (self.loop_of[value], 1, 0) if value in self.loop_of else (stage, 0, level)
            members.setdefault(key, []).append(value)
        for index in range(len(self.units)):
            members.setdefault((index, 1, 0), [])
        final = {self.program.outputs["y"]}
        read_late = {name for name, value in self.old.items() if self._read_outside(name, value, home)}
        needs: dict[tuple[int, int, int], set[Value]] = {}

        def is_free(value: Value) -> bool:
            """A view or a number costs nothing where it is read; a view's whole is what crosses the border."""
            view = value.op in p.VIEWS - p.GRADIENT_PATHS and value.has_rows
            return (view or (value.op == "full" and not value.has_rows)) and value not in final

        def find_needs() -> set[str]:
            """Find what each section reads; returns the components that others than their own loop read."""
            for index, unit in enumerate(self.units):
                late = keep_states or not self.is_loop[index]
                final.update(self.new[name] for name in unit if late or name in read_late)
            for key, mine in members.items():
                unit = self.units[key[0]] if key[1] == 1 else ()
                roots = [operand for value in mine for operand in value.inputs] + [self.new[name] for name in unit]
                known = {*mine, *(self.old[name] for name in unit)}
                met = preorder(roots, lambda value: value.inputs if is_free(value) else (), known)
                needs[key] = {value for value in met if not is_free(value)}
            return {
                name
                for name, value in self.old.items()
                if any(value in read and key != (self.unit_of[name], 1, 0) for key, read in needs.items())
            }

        # A view that is at home in a loop may be read after it, and so is what it is a view of.
        while not (found := find_needs()) <= read_late:
            read_late |= found
        wanted = final.union(*needs.values())
        order = {value: i for i, value in enumerate(self.order)}
        result, lines = [], self.program.lines
        for key in sorted(members):
            unit = self.units[key[0]] if key[1] == 1 else ()
            old, new = tuple(self.old[n] for n in unit), tuple(self.new[n] for n in unit)
            if unit and not self.is_loop[key[0]]:
                result.append(Section(Kind.SHIFT, new, old, unit, old, new, lines))
                continue
            # A component that a step hands on as it is: what it is after the step is what it was before.
            handed_on = dict.fromkeys(value for value in new if value in old and value in wanted)
            outputs = (*handed_on, *(v for v in members[key] if v in wanted))
            # Inputs first, then in the order of the program: the same order whenever the same step is planned.
            reads = tuple(sorted(needs[key], key=lambda v: (v.op != "input", order.get(v, -1), v.name)))
            outside = Kind.INVARIANT if key[0] < 0 else Kind.OPAQUE if key[2] % 2 else Kind.PARALLEL
            if unit or outputs:
                result.append(Section(Kind.LOOP if unit else outside, reads, outputs, unit, old, new, lines))
        return result

    def _read_outside(self, name: str, value: Value, home: Mapping[Value, tuple[int, int, int]]) -> bool:
        """Whether an old component is read by anything but its own loop."""
        unit = (self.unit_of[name], 1, 0)
        return (
            self.program.outputs["y"] is value
            or any(new is value and self.unit_of[n] != unit[0] for n, new in self.new.items())
            or any(value in reader.inputs and key != unit for reader, key in home.items())
        )


def _regroup(program: Program, analysis: _Analysis) -> Program:
    """Sums with the terms in the order in which they can be known: ``x W + (h U + b)`` becomes ``(b + x W) + h U``.

    What does not depend on the loop is then one value outside it.
    """
    uses = collections.Counter(operand for value in analysis.order for operand in value.inputs)
    uses.update(program.outputs.values())

    inner = {v for sum_ in analysis.order if sum_.op == "add" for v in sum_.inputs if v.op == "add" and uses[v] == 1}

    def terms(value: Value) -> list[Value]:
        found, waiting = [], [value]
        while waiting:
            part = waiting.pop()
            if part is value or part in inner:
                waiting.extend(reversed(part.inputs))
            else:
                found.append(part)  # one that is added twice, twice
        return found

    new: dict[Value, Value] = {}
    lines = dict(program.lines)
    for value in analysis.order:
        if value in inner:
            continue  # what it is part of takes it apart
        with p.noting(lines, lambda value=value: lines.get(value, "")):
            regrouped = _regrouped(value, terms, analysis, new, lines)
        if regrouped is None:
            p.rebuild_into(new, [value], lines)
        else:
            new[value] = regrouped
    outputs = {name: new[value] for name, value in program.outputs.items()}
    return Program(program.inputs, outputs, lines, tuple(new[value] for value in program.unread))


def _regrouped(
    value: Value,
    terms: Callable[[Value], list[Value]],
    analysis: _Analysis,
    new: dict[Value, Value],
    lines: dict[Value, str],
) -> Value | None:
    """A sum or a product in parts, each known at its own time; None if it stays as it is."""
    if value.op == "add":
        parts = sorted(terms(value), key=analysis.rank)
        if len(parts) > 2 and len({analysis.rank(part) for part in parts}) > 1 and value.dtype.is_floating_point:
            p.rebuild_into(new, parts, lines)
            total = new[parts[0]]
            for part in parts[1:]:
                total = p.elementwise("add", total, new[part])
            return p.expand(total, value.shape)
    if value.op == "dot" and value.inputs[0].op == "cat":
        split = _split_product(value, analysis)
        if split is not None:
            p.rebuild_into(new, [split], lines)
            return new[split]
    return None


def _split_product(value: Value, analysis: _Analysis) -> Value | None:
    """``[a, b] W`` as ``a W_a + b W_b`` where ``a`` is known before ``b``: each part of the product in its place."""
    whole, w = value.inputs
    parts = whole.inputs
    if whole.axis != len(value.shape) - 1 or len({analysis.rank(part) for part in parts}) == 1:
        return None
    groups: dict[int, list[tuple[Value, Value]]] = {}
    start = 0
    for part in parts:
        stop = start + part.shape[-1]
        groups.setdefault(analysis.rank(part), []).append((part, p.slice_(w, 0, start, stop)))
        start = stop
    total, axis = None, len(value.shape) - 1
    for _, group in sorted(groups.items()):
        one = p.dot(p.cat([part for part, _ in group], axis), p.cat([rows for _, rows in group], 0))
        total = one if total is None else p.elementwise("add", total, one)
    return total


def _connected(values: Iterable[Value]) -> list[list[Value]]:
    """Groups of values that read each other, in no particular direction."""
    group_of: dict[Value, list[Value]] = {value: [value] for value in values}
    for value in group_of:
        for operand in value.inputs:
            if operand in group_of and group_of[operand] is not group_of[value]:
                mine, other = group_of[value], group_of[operand]
                mine.extend(other)
                for v in other:
                    group_of[v] = mine
    return list({id(group): group for group in group_of.values()}.values())


def _is_curved(value: Value) -> bool:
    """Whether the derivative of an operation reads values of the forward pass."""
    product = value.op == "mul" and all(operand.has_rows for operand in value.inputs)
    return product or value.op in p.EXPENSIVE or value.op == "amax"


def _strong_components(depends: Mapping[str, frozenset[str]]) -> list[tuple[str, ...]]:
    """Tarjan's algorithm; a component comes after those that it depends on."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result: list[tuple[str, ...]] = []
    for root in depends:
        waiting = [] if root in index else [(root, iter(sorted(depends[root])))]
        while waiting:  # a long delay is a long chain, which would be too deep for recursion
            name, others = waiting[-1]
            if name not in index:
                index[name] = low[name] = len(index)
                stack.append(name)
            for other in others:
                if other not in index:
                    waiting.append((other, iter(sorted(depends[other]))))
                    break
                if other in stack:
                    low[name] = min(low[name], index[other])
            else:
                waiting.pop()
                if waiting:
                    low[waiting[-1][0]] = min(low[waiting[-1][0]], low[name])
                if low[name] == index[name]:
                    position = stack.index(name)
                    found = set(stack[position:])
                    del stack[position:]
                    result.append(tuple(n for n in depends if n in found))
    return result
