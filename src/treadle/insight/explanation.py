"""What the compiler did to a network: its loops and the rest, what is kept for the way back, who runs it, and why."""

import collections
import dataclasses
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle import engines
from treadle import state as states
from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Plan, Section
from treadle.compiler.program import EXPENSIVE, Program, Value
from treadle.compiler.walk import preorder
from treadle.engines import cpu
from treadle.engines.network import Network, network_of
from treadle.errors import ShapeError, TraceError

__all__ = ["ExplainedSection", "Explanation", "Kept", "explain"]

_KINDS = {
    Kind.INVARIANT: "once",
    Kind.PARALLEL: "all steps",
    Kind.OPAQUE: "all steps",
    Kind.LOOP: "loop",
    Kind.SHIFT: "shifted",
}
_FREE = p.VIEWS | {"full", "cat"}
_NAMED = EXPENSIVE - {"div", "reciprocal"} | {"amax"}
_MOST_PRODUCTS = 3
_WIDTH, _LEAST_ROOM = 120, 40


@dataclasses.dataclass(frozen=True)
class Kept:
    """What stays in memory between the forward and the backward pass.

    Args:
        name: what it is.
        size: its bytes for one row at one step.
    """

    name: str
    size: int


@dataclasses.dataclass(frozen=True)
class ExplainedSection:
    """A part of the step that runs over the whole sequence before the next part begins.

    Args:
        kind: ``"once"`` (a call; it depends on parameters alone), ``"all steps"`` (all at once), ``"loop"`` (one step
            after another), or ``"shifted"`` (a sequence moved by one step: a delayed output is no loop).
        states: of a loop or a shift: what goes from step to step, ``"layer0/h"``.
        layers: the layers that these belong to; empty for a single cell.
        before: the loops that it was hoisted out of, by their layers: they read it, so it comes before them.
        after: the loop that it was sunk below, by its layers: it reads what that gives, and no loop reads it.
        operations: how many, views not counted.
        products: those with a matrix, ``"x @ layer0.weight_ih"``.
        norms: layer normalisations, by the name of the module.
        functions: how often each function is taken that is dear to compute.
        others: operations that the compiler does not look into.
        multiply_adds: in the products, for one row at one step.
        kept: what it keeps for the backward pass beyond what earlier sections keep; None where that is PyTorch's own
            business.
        engine: what runs it: ``"cpu"``, ``"PyTorch"``, or ``"Python"`` where the program is not used at all.
        reason: why that is not ``"cpu"``; empty where nothing else was to be expected.
        program: what it computes.
    """

    kind: str
    states: tuple[str, ...]
    layers: tuple[str, ...]
    before: tuple[str, ...]
    after: str
    operations: int
    products: tuple[str, ...]
    norms: tuple[str, ...]
    functions: Mapping[str, int]
    others: tuple[str, ...]
    multiply_adds: int
    kept: tuple[Kept, ...] | None
    engine: str
    reason: str
    program: Program

    @property
    def kept_bytes(self) -> int | None:
        """Bytes kept for the backward pass, for one row at one step."""
        return None if self.kept is None else sum(one.size for one in self.kept)

    @property
    def place(self) -> str:
        """Of a loop, what it carries; of all else, before or after which loop it runs."""
        if self.states:
            return _grouped(self.states)
        if self.before:
            return f"before {', '.join(self.before)}"
        return f"after {self.after}" if self.after else ""

    @property
    def contents(self) -> tuple[str, ...]:
        """What it does, in a few words each."""
        products = list(self.products[:_MOST_PRODUCTS])
        if len(self.products) > _MOST_PRODUCTS:
            products.append(f"{len(self.products) - _MOST_PRODUCTS} more products")
        norms = [f"{count} norms" if count > 1 else f"norm {self.norms[0]}" for count in [len(self.norms)] if count]
        ranked = sorted(self.functions.items(), key=lambda item: -item[1])
        functions = [f"{count} {name}" if count > 1 else name for name, count in ranked]
        if self.kind == "shifted":
            return ("the sequence, one step later",)
        what = "pointwise operations" if self.operations else "views"
        usual = f"{what} of parameters" if self.kind == "once" else what
        return (*products, *norms, *functions, *self.others) or (usual,)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found out; printed, a table.

    Args:
        network: what it is about.
        engine: what runs it: ``"cpu"`` (machine code), ``"interpreter"`` (its program in PyTorch), ``"reference"`` (its
            own Python, step by step), ``"torch.nn"`` (PyTorch's fused kernels, in a drop-in), or ``""`` if the engine
            that was asked for by name refuses.
        reason: why that is not ``"cpu"``, or why the engine refuses; empty if there is nothing to say.
        sections: the parts of a step, in the order in which they run; none where there is no program.
        random: what is drawn from PyTorch's generator before everything else, step by step.
    """

    network: str
    engine: str
    reason: str = ""
    sections: tuple[ExplainedSection, ...] = ()
    random: tuple[str, ...] = ()

    @property
    def loops(self) -> tuple[ExplainedSection, ...]:
        """The sections that run one step after another."""
        return tuple(section for section in self.sections if section.kind == "loop")

    @property
    def multiply_adds(self) -> int:
        """In products with matrices, forwards, for one row at one step."""
        return sum(section.multiply_adds for section in self.sections)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept for the backward pass, for one row at one step, where the compiler decides about them."""
        return sum(section.kept_bytes or 0 for section in self.sections)

    def programs(self, sources: bool = True) -> str:
        """The program of each section as text, one operation a line.

        Args:
            sources: whether to note the line of Python that each operation comes from.
        """
        parts = []
        for number, section in enumerate(self.sections, 1):
            title = f"{number}  {section.kind} {section.place}".rstrip()
            parts.append(f"{title}\n{'-' * len(title)}\n{p.show(section.program, sources)}")
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        left = sum(loop.engine != "cpu" for loop in self.loops)
        by_machine = any(section.engine == "cpu" for section in self.sections)
        how = {
            "cpu": "runs as machine code" if by_machine else "runs by its program, in PyTorch",
            "interpreter": "runs by its program, in PyTorch, operation by operation",
            "reference": "runs step by step in Python",
            "torch.nn": "runs on PyTorch's fused kernels",
            "": "does not run",
        }[self.engine]
        loops = {0: "no loop", 1: "1 loop"}.get(len(self.loops), f"{len(self.loops)} loops")
        if by_machine and left:
            loops += f", {left} of them not as machine code" if len(self.loops) > 1 else ", not as machine code"
        if self.engine == "cpu":
            yield f"{self.network} {how}: {loops}"
        else:
            yield f"{self.network} {how}" + (f": {self.reason}" if self.reason else "")
        if not self.sections:
            return
        if self.engine != "cpu":
            yield f"What the compiler makes of it: {loops}"
        yield ""
        yield from self._table()
        if self.random:
            yield ""
            yield f"drawn before all else, step by step: {', '.join(self.random)}"
        reasons = [(number, section.reason) for number, section in enumerate(self.sections, 1) if section.reason]
        if reasons:
            yield ""
            yield from (f"part {number} is left to PyTorch: {reason}" for number, reason in reasons)

    def _table(self) -> Iterator[str]:
        rows = [("", "part", "", "ops", "mul-adds", "kept", "runs on", "what")]
        for number, section in enumerate(self.sections, 1):
            kept = "?" if section.kept_bytes is None else f"{section.kept_bytes:,} B"
            adds = f"{section.multiply_adds:,}"
            # What belongs together is not broken between lines.
            what = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in section.contents)
            operations = str(section.operations)
            rows.append((str(number), section.kind, section.place, operations, adds, kept, section.engine, what))
        unknown = any(section.kept is None for section in self.sections)
        kept = f"{self.kept_bytes:,} B{' + ?' if unknown else ''}" if self.kept_bytes or not unknown else "?"
        operations = sum(section.operations for section in self.sections)
        rows.append(("", "one row, one step", "", str(operations), f"{self.multiply_adds:,}", kept, "", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        for row in rows:
            cells = [
                cell.rjust(width) if column in (0, 3, 4, 5) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=False))
            ]
            start = "  ".join([*cells, ""])
            room = max(_WIDTH - len(start), _LEAST_ROOM)
            lines = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
            for line in lines:
                yield (start + line.replace("\N{NO-BREAK SPACE}", " ")).rstrip()
                start = " " * len(start)


def explain(rnn: Any, x: Tensor | None = None) -> Explanation:
    """Say what the compiler does with a network: its loops, what is hoisted out of them, who runs each part, and why.

    Nothing is computed and nothing compiled. The network is taken as it is now: in training mode with its dropout,
    where its parameters are, with the hooks that it has.

    Args:
        rnn: a `treadle.Recurrent`, or a drop-in such as `treadle.LSTM`.
        x: a sequence such as the network will get, [B, T, ...] or [T, B, ...] as it takes them; needed only where the
            cell does not say what it reads (``input_size``), or where gradients with respect to the input count.

    Returns:
        An `Explanation`; ``print`` it.

    Raises:
        TypeError: ``rnn`` is neither.
        ShapeError: the cell does not say what it reads, and no ``x`` was passed.

    Example:
        >>> import treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.LSTMCell(5, 5)]))
        >>> for section in td.explain(rnn).sections:
        ...     print(f"{section.kind:<10} {section.place:<14} {', '.join(section.products)}".rstrip())
        once
        all steps  before layer0  x @ layer0.weight_ih.T
        loop       layer0 h c     layer0.h(t-1) @ layer0.weight_hh.T
        all steps  before layer1  layer0.h(t) @ layer1.weight_ih.T
        loop       layer1 h c     layer1.h(t-1) @ layer1.weight_hh.T
    """
    name = type(rnn).__name__
    if hasattr(rnn, "recurrent"):
        fused = rnn.why_not_fused(_long(rnn) if x is None else x) is None
        if fused or rnn.bidirectional:
            text = "" if fused else "each layer and direction by itself; explain td.Recurrent(cell) for one of them"
            return Explanation(name, "torch.nn" if fused else "reference", text)
        rnn = rnn.recurrent()
    elif not hasattr(rnn, "cell") or not hasattr(rnn, "check_input"):
        raise TypeError(f"explain takes a Recurrent or a drop-in, but was given a {name}: pass td.Recurrent(cell)")
    cell = rnn.cell
    name = f"{name}({type(cell).__name__})" if name == "Recurrent" else name
    xs = _example(rnn) if x is None else _checked(rnn, x)
    state = states.initial_state(rnn, xs[0])
    on_cpu = engines._why_not_cpu(xs)
    reason = engines._why_not(cell, xs, state, None) or ""
    network = None
    if not reason:
        try:
            network = network_of(cell, xs[0], state)
        except TraceError as error:
            reason = str(error)
    reason = reason or (rnn.engine in ("auto", "cpu") and on_cpu) or ""
    engine = rnn.engine
    if engine == "auto":
        engine = "reference" if reason else "cpu"
    elif engine == "reference":
        reason = "engine='reference' was asked for"
    elif engine == "interpreter":
        reason = f"engine 'interpreter' refuses: {reason}" if reason else "engine='interpreter' was asked for"
        engine = "" if network is None else engine
    elif network is not None and not reason:
        left_out = network.left_out(cpu.CPU, False)
        reason = "".join(f"engine 'cpu' refuses the loop over {names}: {why}" for names, why in left_out[:1])
        engine = "" if left_out else engine
    else:
        reason, engine = f"engine 'cpu' refuses: {reason}", ""
    if network is None:
        return Explanation(name, engine, reason)
    plan = network.plan(False)
    sections = _Reader(network, plan, engine, rnn.learn_initial_state, xs.requires_grad).sections()
    random = tuple(f"{_opaque_name(v)} {p.show_shape(v.shape)}" for v in plan.random)
    return Explanation(name, engine, reason, tuple(sections), random)


def _example(rnn: Any) -> Tensor:
    """A sequence [T, B, ...] such as the network reads."""
    size = rnn.input_size
    if size is None:
        raise ShapeError(
            f"{type(rnn.cell).__name__} does not say what it reads (it has no input_size): pass a sequence too,"
            " td.explain(rnn, x)"
        )
    row = (size,) if isinstance(size, int) else tuple(size)
    weight = next((w for w in rnn.cell.parameters() if w.is_floating_point()), torch.empty(0))
    return torch.zeros(1, 2, *row, dtype=weight.dtype if row else torch.long, device=weight.device)


def _long(rnn: Any) -> Tensor:
    """A sequence for a drop-in that is long and takes no memory: how a short one runs says little."""
    weight = next(iter(rnn.parameters()))
    return weight.new_zeros(1).expand(10_000, 10_000, rnn.input_size)


def _checked(rnn: Any, x: Tensor) -> Tensor:
    rnn.check_input(x, 2, "sequence")
    return x.transpose(0, 1) if rnn.batch_first else x


class _Reader:
    """Reads a plan."""

    def __init__(self, network: Network, plan: Plan, engine: str, learned: bool, x_needs_grad: bool):
        self.network, self.plan, self.engine, self.learned = network, plan, engine, learned
        self.program = plan.program
        self.order = {v: i for i, v in enumerate(self.program.values())}
        self.names = self._names()
        constants = network.constants()
        # Which values have a gradient, as far as is known before the section that is being read.
        self.needs = {v: tensor.requires_grad for v, tensor in constants.items()}
        self.needs |= dict.fromkeys(plan.random, False) | {self.program.inputs["x"]: x_needs_grad}
        self.counted: set[Any] = set()

    def _names(self) -> dict[Value, str]:
        """Names of what crosses from section to section."""
        names = {}
        for number, section in enumerate(self.plan.sections, 1):
            crossing = [v for v in section.outputs if section.kind is not Kind.INVARIANT or v.op not in p.VIEWS]
            names |= {v: f"part{number}.{i}" for i, v in enumerate(crossing)}
        names |= {v: f"random{i}" for i, v in enumerate(self.plan.random)}
        names[self.program.outputs["y"]] = "y(t)"
        for name, value in reversed(list(self.program.inputs.items())):
            if name.startswith("state/"):
                names[value] = _dotted(name, late=True)
                if ".delayed/" not in name:
                    names[self.program.outputs[name]] = _dotted(name, late=False)
            else:
                names[value] = name.removeprefix("parameter/")
        names[self.program.inputs["x"]] = "x"
        return names

    def sections(self) -> Iterator[ExplainedSection]:
        """All of them, in order."""
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
            ", ".join(_layers(all_sections[i].states)) or ("the loop" if alone else _grouped(all_sections[i].states))
            for i in sorted(found)
        ]

    def _explained(self, i: int, section: Section, before: list[str], after: str) -> ExplainedSection:
        values = sorted(section.values(), key=lambda v: self.order[v])
        operations = [v for v in values if v.op not in _FREE]
        products = sorted((v for v in values if v.op == "dot"), key=self._first_parameter)
        norms, inside = self._norms(values)
        functions = collections.Counter(v.op for v in operations if v.op in _NAMED and v not in inside)
        engine, reason, kept = self._run(i, section)
        return ExplainedSection(
            _KINDS[section.kind],
            tuple(name.removeprefix("state/") for name in section.states),
            _layers(section.states),
            tuple(before),
            after,
            len(operations),
            tuple(self._product(v) for v in products),
            norms,
            dict(functions),
            tuple(self._opaque(v) for v in operations if v.op == "opaque"),
            sum(v.row_numel * v.inputs[1].shape[0] for v in products),
            kept,
            engine,
            reason,
            self._shown(section),
        )

    # Who runs a section, and what that keeps.

    def _run(self, i: int, section: Section) -> tuple[str, str, tuple[Kept, ...] | None]:
        """The engine, why that and no other, and what is kept."""
        if section.kind is Kind.SHIFT:
            for old, new in zip(section.old, section.new, strict=True):
                self.needs[old] = self.needs.get(new, False)
        elif section.kind is Kind.INVARIANT:
            for value in section.values():
                self.needs[value] = any(self.needs.get(v, False) for v in value.inputs)
        if section.kind in (Kind.SHIFT, Kind.INVARIANT):
            return ("Python" if self.engine == "reference" else "PyTorch"), "", ()
        runner, reason = None, ""
        if self.engine == "cpu" and section.kind is not Kind.OPAQUE:
            runner = self.network.runner(cpu.CPU, section)
            reason = runner if isinstance(runner, str) else ""
        elif self.engine == "cpu":
            said = {
                f"{v.source}: {v.call.function} has no machine code here" for v in section.values() if v.op == "opaque"
            }
            reason = ", ".join(sorted(said))
        active = self.learned and bool(section.states)
        active = active or any(self.needs.get(v, False) for v in section.inputs)
        for value in (*section.outputs, *section.old, *section.new):
            self.needs[value] = active and value.dtype.is_floating_point
        if runner is not None and not reason:
            return "cpu", "", tuple(self._kept(i, section, runner)) if active else ()
        name = "Python" if self.engine == "reference" else "PyTorch"
        return name, reason, None if active else ()

    def _kept(self, i: int, section: Section, compiled: Any) -> Iterator[Kept]:
        """What the compiled section keeps, and no earlier section does."""
        wanted = tuple(self.needs.get(v, False) and v.dtype.is_floating_point for v in section.inputs)
        local = compiled.section
        keeps = compiled.derivative(wanted).keeps
        known = dict(zip(local.inputs, section.inputs, strict=True))
        known |= dict(zip(local.outputs, section.outputs, strict=True))
        known |= dict(zip(local.new, section.new, strict=True))
        # The states before each step are those after it, one step on, in the same memory; unless two are the same.
        taken: set[Value] = set()
        for old, new in zip(local.old, section.new, strict=True):
            if old in keeps:
                known[old] = new if new not in taken else self.program.inputs[section.states[local.old.index(old)]]
                taken.add(new)
        # All that comes from outside of the node of autograd is kept, so that a second derivative can be taken.
        stages = self.network.stages(cpu.CPU, False)
        together = next((sections for sections, _ in stages if section in sections), ())
        made = {v for other in together for v in other.outputs}
        outside = [own for own, v in zip(local.inputs, section.inputs, strict=True) if v.has_rows and v not in made]
        for value in (*outside, *keeps):
            whole = known.get(value)
            # What a node keeps for itself is another copy than what it gives to the next one.
            key = (value in outside, (i, value) if whole is None else whole)
            if key not in self.counted:
                self.counted.add(key)
                name = f"{value.op} ({value.source})" if whole is None else self._name(whole)
                # The engine keeps booleans as numbers; what it is given stays as it is.
                itemsize = value.dtype.itemsize if value in outside else compiled.dtype.itemsize
                yield Kept(name, value.row_numel * itemsize)

    # What values are called.

    def _shown(self, section: Section) -> Program:
        """The program of a section, on inputs with names that can be read."""
        placed = {v: p.placeholder(self._name(v), v.shape, v.dtype) for v in (*section.inputs, *section.old)}
        built = p.rebuild([*section.outputs, *section.new], placed)
        outputs = {self._name(v): built[v] for v in (*section.outputs, *section.new)}
        return Program({v.name: v for v in placed.values()}, outputs)

    def _name(self, value: Value) -> str:
        if value in self.names:
            return self.names[value]
        if value.op == "cat":
            return f"[{', '.join(map(self._name, value.inputs))}]"
        if value.op in ("permute", "slice"):
            return self._part_of_matrix(value)
        if value.op in p.VIEWS:
            return self._name(value.inputs[0])
        return f"{value.op}(…)" if value.op in _NAMED else "…"

    def _opaque(self, value: Value) -> str:
        return f"{_opaque_name(value)}({', '.join(map(self._name, value.inputs))})"

    def _part_of_matrix(self, value: Value) -> str:
        """A parameter, transposed or not; and which part, written as of the parameter itself."""
        axes = list(range(len(value.shape)))  # which axis of the parameter each axis is
        parts = [":"] * len(axes)
        views = []
        while value.op in ("permute", "slice"):
            views.append(value)
            value = value.inputs[0]
        for view in reversed(views):
            if view.op == "permute":
                axes = [axes[axis] for axis in view.axes]
            else:
                axis, start, step = view.slice
                stop = start + step * view.shape[axis]
                parts[axes[axis]] = f"{start}:{stop}" + (f":{step}" if step != 1 else "")
        while parts and parts[-1] == ":":
            parts.pop()
        part = f"[{', '.join(parts)}]" if parts else ""
        return self._name(value) + part + (".T" if axes == [1, 0] else "")

    def _first_parameter(self, product: Value) -> int:
        """Products in the order in which the step first meets their matrices."""
        inputs = list(self.program.inputs.values())
        leaves = [v for v in p.ordered(product.inputs[1:]) if v.op == "input"]
        return min((inputs.index(v) for v in leaves), default=0)

    def _product(self, value: Value) -> str:
        a, w = value.inputs
        return f"{self._name(a)} @ {self._name(w)}"

    def _norms(self, values: list[Value]) -> tuple[tuple[str, ...], set[Value]]:
        """Layer normalisations, by name, and the roots in them that are not counted again."""
        names, inside = [], set()
        here = set(values)
        for root in values:
            if root.op != "rsqrt" or not any(v.op == "sum" for v in _same_size_above(root)):
                continue
            scaled = _reader_of(root, here)
            gained = scaled and _reader_of(scaled, here)
            others = [_viewed(v) for v in (gained.inputs if gained else ())]
            gain = next((self.names[v] for v in others if v in self.names and not v.has_rows), "")
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


def _opaque_name(value: Value) -> str:
    return str(value.call.function).removeprefix("aten.").removesuffix(".default")


def _layers(names: Iterable[str]) -> tuple[str, ...]:
    """The layers that components of a state belong to; none for a single cell."""
    found = [_split(name)[0] for name in names]
    return tuple(dict.fromkeys(layer for layer in found if layer))


def _split(name: str) -> tuple[str, str]:
    """``"layer0/h"`` as layer and component; of what is read late, the output so many steps ago."""
    layer, _, part = name.removeprefix("state/").rpartition("/")
    if layer.endswith(".delayed") and part.isdigit():
        layer = layer.removesuffix(".delayed")
        late = f"(t-{int(part) + 1})"
        return ("", f"x{late}") if layer == "x" else (layer, f"y{late}")
    return layer, part


def _dotted(name: str, late: bool) -> str:
    """``"layer0/h"`` as ``"layer0.h(t-1)"``, before a step, or ``"layer0.h(t)"``, after it."""
    layer, part = _split(name)
    when = "" if part.endswith(")") else "(t-1)" if late else "(t)"
    return (f"{layer}." if layer else "") + part + when


def _grouped(names: Iterable[str]) -> str:
    """Components, those of a layer together: ``"layer0 h c, layer1 h c"``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer, part = _split(name)
        groups.setdefault(layer, []).append(part)
    return ", ".join(" ".join([layer, *parts]).strip() for layer, parts in groups.items())
