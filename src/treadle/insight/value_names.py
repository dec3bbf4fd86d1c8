"""What the values of a plan are called where a person reads of them."""

from collections.abc import Iterable

from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Plan, Section
from treadle.compiler.program import EXPENSIVE, Program, Value

FUNCTIONS = EXPENSIVE - {"div", "reciprocal"} | {"amax"}
"""The functions that are expensive enough to be named."""


class ValueNames:
    """The names of a plan's values: parameters, states, the input, the output, and what crosses between sections."""

    def __init__(self, plan: Plan):
        self.plan, self.program = plan, plan.program
        self.names = self._names()

    def _names(self) -> dict[Value, str]:
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

    def shown(self, section: Section) -> Program:
        """The program of a section, on inputs with names that can be read."""
        placed = {v: p.placeholder(self.name(v), v.shape, v.dtype) for v in (*section.inputs, *section.old)}
        lines = dict(section.lines)
        built = p.rebuild([*section.outputs, *section.new], placed, lines)
        outputs = {self.name(v): built[v] for v in (*section.outputs, *section.new)}
        return Program({v.name: v for v in placed.values()}, outputs, lines)

    def name(self, value: Value) -> str:
        """What a value is called; of a view, what it shows."""
        if value in self.names:
            return self.names[value]
        if value.op == "cat":
            return f"[{', '.join(map(self.name, value.inputs))}]"
        if value.op in ("permute", "slice"):
            return self._part_of_matrix(value)
        if value.op in p.VIEWS:
            return self.name(value.inputs[0])
        return f"{value.op}(…)" if value.op in FUNCTIONS else "…"

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
        return self.name(value) + part + (".T" if axes == [1, 0] else "")

    def first_parameter(self, product: Value) -> int:
        """Products in the order in which the step first meets their matrices."""
        return self.first_input(product.inputs[1])

    def first_input(self, matrix: Value) -> int:
        """Matrices in the order in which the step first meets what they are made of."""
        inputs = list(self.program.inputs.values())
        leaves = [v for v in p.ordered([matrix]) if v.op == "input"]
        return min((inputs.index(v) for v in leaves), default=0)


def called(value: Value) -> str:
    """The name of an operation that the compiler does not look into."""
    return str(value.call.function).removeprefix("aten.").removesuffix(".default")


def layers(names: Iterable[str]) -> tuple[str, ...]:
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


def grouped(names: Iterable[str]) -> str:
    """Components, those of a layer together: ``"layer0 h c, layer1 h c"``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer, part = _split(name)
        groups.setdefault(layer, []).append(part)
    return ", ".join(" ".join([layer, *parts]).strip() for layer, parts in groups.items())
