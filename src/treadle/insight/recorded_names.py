"""What the values of a step are called: by the module and the variable that its own source assigns."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

from treadle.compiler import program as p
from treadle.compiler.program import Program, Value
from treadle.compiler.watch import Assignment, Watch


@dataclasses.dataclass(frozen=True)
class Named:
    """A value that has a name.

    Args:
        value: which one.
        line: where the source makes it: ``lstm.py:57``; empty for what comes from outside.
        path: of the module that it belongs to; empty for the cell itself.
        rank: how good a name it is, of a variable of the source: see `_rank`; None if no variable held it.
        before: the component of the state, ``state/layer0/h``, that it is before the step.
        after: the one that it is after the step.
    """

    value: Value
    line: str
    path: str = ""
    rank: int | None = None
    before: str = ""
    after: str = ""


def joined(*parts: str) -> str:
    """A name of parts, as Python writes it; empty ones are left out."""
    return ".".join(part for part in parts if part)


def component(name: str) -> str:
    """What a component of the state is called: ``layer0.h`` of ``layer0/h``; ``state.0`` of ``0``."""
    dotted = name.replace("/", ".")
    return f"state.{dotted}" if dotted[:1].isdigit() else dotted


def component_before(name: str) -> str:
    """What it is called before the step: ``layer0.h(t-1)``; of what is kept to be read late, ``layer0.y(t-2)``."""
    layer, _, part = name.rpartition("/")
    if layer.endswith(".delayed") and part.isdigit():
        layer = layer.removesuffix(".delayed")
        own = layer if layer.split("/")[-1] == "x" else f"{layer}/y"
        return f"{component(own)}(t-{int(part) + 1})"
    return f"{component(name)}(t-1)"


def is_kept_output(name: str) -> bool:
    """Whether a component of a state is an earlier output, which the wiring keeps to be read late."""
    layer, _, part = name.rpartition("/")
    return layer.endswith(".delayed") and part.isdigit()


def named_values(program: Program, watch: Watch) -> dict[str, Named]:
    """Every value of a step by name, in the order in which they are computed.

    ``x`` and ``y``, of each component of the state what it is after the step, and what each module gives have their
    names for certain; variables have what is left: see `treadle.record` for the rules.
    """
    outside, certain = _from_outside(program), _certain(program, watch)
    names = outside | certain | _variables(watch, certain) | outside
    names |= _nameless(program, watch, {one.value for one in names.values()})
    possible = _computable(program, [one.value for one in names.values()])
    order = {value: place for place, value in enumerate([*program.inputs.values(), *watch.made])}
    kept = {name: one for name, one in names.items() if one.value in possible}
    return dict(sorted(kept.items(), key=lambda item: order.get(item[1].value, len(order))))


def _from_outside(program: Program) -> dict[str, Named]:
    before = {
        component_before(name.removeprefix("state/")): Named(value, "", before=name)
        for name, value in program.inputs.items()
        if name.startswith("state/")
    }
    return {"x": Named(program.inputs["x"], "")} | before


def _certain(program: Program, watch: Watch) -> dict[str, Named]:
    """What the names mean that no variable can take away: states after the step, and outputs."""
    gave = [(call, call.gave) for call in watch.calls if call.gave is not None]
    found = _numbered((joined(call.path, "y"), Named(value, call.line, call.path)) for call, value in gave)
    for name, value in program.outputs.items():
        if name.startswith("state/") and not is_kept_output(name.removeprefix("state/")):
            found[component(name.removeprefix("state/"))] = Named(value, program.lines.get(value, ""), after=name)
    found["y"] = Named(program.outputs["y"], program.lines.get(program.outputs["y"], ""))
    return found


def _variables(watch: Watch, certain: Mapping[str, Named]) -> dict[str, Named]:
    """The values that variables held: by all names in ``forward``; by a helper's where that is the best in a module."""
    wanted = list(_wanted(watch))
    best: dict[tuple[str, Value], int] = {}
    for one in wanted:
        key = one.path, one.value
        best[key] = min(best.get(key, 9), _rank(one))
    chosen = [one for one in wanted if not one.function or _rank(one) == best[one.path, one.value]]
    pairs = [
        (joined(one.path, one.function, one.variable), Named(one.value, one.line, one.path, _rank(one)))
        for one in chosen
    ]
    return _numbered(pairs, certain)


def _wanted(watch: Watch) -> Iterable[Assignment]:
    """Assignments of what a module reads or computes; not of the state that it was given, nor of parameters."""
    given: dict[str, set[Value]] = collections.defaultdict(set)
    reads: dict[str, set[Value]] = collections.defaultdict(set)
    for call in watch.calls:
        given[call.path] |= set(call.given.values())
        if call.reads is not None:
            reads[call.path].add(call.reads)
    for one in watch.assignments:
        is_new = one.value.has_rows and one.value.op not in ("input", "full")
        if one.variable == "_" or (one.is_plain and one.value in given[one.path]):
            continue
        if is_new or (one.value in reads[one.path] and _rank(one) == 0):
            yield one


def _rank(one: Assignment) -> int:
    """How good a name is, 0 to 3: variables before parts of containers and arguments, ``forward`` before helpers."""
    return 2 * (not one.is_plain) + bool(one.function)


def _numbered(pairs: Iterable[tuple[str, Named]], certain: Mapping[str, Named] | None = None) -> dict[str, Named]:
    """By name; of several values of one name the last has the name itself, those before it ``name#1``, ``name#2``."""
    groups: dict[str, list[Named]] = {}
    for name, one in pairs:
        group = groups.setdefault(name, [])
        if not group or group[-1].value is not one.value:
            group.append(one)
    found = {}
    for name, group in groups.items():
        taken = certain is not None and name in certain and certain[name].value is not group[-1].value
        found |= {f"{name}#{i}": one for i, one in enumerate(group if taken else group[:-1], 1)}
        if not taken:
            after = certain[name].after if certain is not None and name in certain else ""
            found[name] = dataclasses.replace(group[-1], after=after)
    return found


def _nameless(program: Program, watch: Watch, named: set[Value]) -> dict[str, Named]:
    """What is computed without ever being assigned: by its operation and line, ``layer0.sigmoid@lstm.py:57``."""
    paths = watch.path_of_each()
    left = [v for v in program.values() if v.has_rows and v not in named and v.op not in p.VIEWS | {"input", "full"}]

    def name_of(value: Value) -> tuple[str, Named]:
        line, path = program.lines.get(value, ""), paths.get(value, "")
        op = value.call.function.name().split("::")[1].split(".")[0] if value.op == "opaque" else value.op
        return joined(path, f"{op}@{line}" if line else op), Named(value, line, path)

    return _numbered(map(name_of, left))


def _computable(program: Program, values: Iterable[Value]) -> set[Value]:
    """Those that can be computed of what the program reads and draws, each row by itself."""
    known = set(program.values()) | set(program.inputs.values())
    good: dict[Value, bool] = {}
    for value in p.ordered(values):
        own = value in known or (value.op != "input" and value.op not in p.CONTRACTIONS)
        good[value] = own and all(good[operand] for operand in value.inputs)
    return {value for value, is_good in good.items() if is_good and value.has_rows}
