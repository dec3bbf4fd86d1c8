"""What there is to draw of a network: boxes and edges, before anyone knows where they go."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from torch import nn

from treadle import state as states
from treadle.running.recurrent import Recurrent
from treadle.wiring import Graph
from treadle.wiring.graph import Delayed, Read, StateField, Sum
from treadle.wiring.sizes import Size, as_size, is_cell, words

Kind: TypeAlias = Literal["input", "output", "cell", "module", "junction"]
Role: TypeAlias = Literal["input", "state", "hand-over"]

INPUT, OUTPUT = "x(t)", "y(t)"  # no node can be called so: they are not identifiers


@dataclasses.dataclass(frozen=True)
class Box:
    """A layer, a memoryless module, a junction (⊕ adds, ∥ puts side by side), the input or the output."""

    name: str
    """Unique; of a layer inside a nested wiring its path, such as ``layers.layer0``."""
    kind: Kind
    title: str
    subtitle: str = ""


@dataclasses.dataclass(frozen=True)
class Edge:
    """One thing that one box takes from another.

    An ``"input"`` is read, a ``"state"`` is what a cell hands to itself for the next step, a ``"hand-over"`` becomes a
    part of the state from which another cell steps.
    """

    source: str
    target: str
    role: Role
    delay: int = 0
    """How many steps ago it was made; 0 is this step."""
    size: Size = None
    fields: tuple[str, ...] = ()
    """What is taken if it is not the output: fields of the source's state."""
    becomes: str = ""
    """Of a hand-over, the field of the target's previous state that it becomes."""

    @property
    def what(self) -> str:
        """The fields as people write them: ``h, c``, or ``c → h`` where a hand-over changes its name."""
        taken = ", ".join(self.fields)
        return f"{taken} → {self.becomes}" if taken and self.becomes not in ("", taken) else taken or self.becomes

    @property
    def label(self) -> str:
        """What the edge carries: ``64``, ``t−1 · 64``, ``h · 64``; of a state the names of its fields alone."""
        if self.role == "state":
            return self.what
        late = f"t−{self.delay}" if self.delay else ""
        size = "" if self.size is None else words(self.size)
        return " · ".join(part for part in (self.what, late, size) if part)


@dataclasses.dataclass
class Diagram:
    """Boxes in the order in which they are stepped, from the input to the output, and what they take from others."""

    boxes: list[Box]
    edges: list[Edge]


def diagram_of(model: Any) -> Diagram:
    """The boxes and edges of a model. Wirings inside wirings are opened, so that all layers show.

    Args:
        model: a cell, a wiring, a `treadle.Recurrent` of one, or a drop-in, which has a method ``recurrent()``.

    Example:
        >>> import treadle as td
        >>> from treadle.show.diagram import diagram_of
        >>> for edge in diagram_of(td.Stack([td.LSTMCell(8, 16), td.LSTMCell(8, 16)], "relay")).edges:
        ...     print(f"{edge.source} to {edge.target}: {edge.label}")
        x(t) to layer0: 8
        layer0 to layer0: h, c
        x(t) to layer1: 8
        layer0 to layer1: h · 16
        layer1 to layer1: c
        layer1 to y(t): 16
    """
    model = states.over_time(model)
    cell = model.cell if isinstance(model, Recurrent) else model
    if not isinstance(cell, nn.Module) or not is_cell(cell):
        raise TypeError(
            f"what can be drawn is a cell, a wiring, a Recurrent or a drop-in, but this is a {type(model).__name__}"
        )
    walk = _Walk()
    walk.boxes.append(Box(INPUT, "input", INPUT))
    x = [_End(INPUT, as_size(getattr(cell, "input_size", None)))]
    if isinstance(cell, Graph):
        walk.enter(cell, "", x)
    else:
        walk.add("cell", cell, x, {})
    walk.boxes.append(Box(OUTPUT, "output", OUTPUT))
    size = as_size(getattr(cell, "output_size", None))
    walk.raw.append(Edge("" if isinstance(cell, Graph) else "cell", OUTPUT, "input", size=size))
    return walk.finished()


@dataclasses.dataclass(frozen=True)
class _End:
    """Where an edge begins: a box, or a name that stands for others."""

    name: str
    size: Size
    delay: int = 0
    fields: tuple[str, ...] = ()


class _Walk:
    """Goes through a model once.

    A nested wiring has no box: its name stands for what it gives, ``NAME.x`` for what it reads. A late read may
    name a node that comes further down, so names are looked up when all is known, in `finished`.
    """

    def __init__(self):
        self.boxes: list[Box] = []
        self.raw: list[Edge] = []
        self.stands_for: dict[str, list[_End]] = {}
        self.junctions: dict[tuple[str, Sum], str] = {}

    def enter(self, graph: Graph, path: str, x: list[_End]) -> None:
        """Add what a wiring consists of. ``path`` is empty for the outermost one."""
        if not graph.output_reads:
            raise ValueError("the graph is not complete, so it cannot be drawn: say what it gives with outputs(node)")
        prefix = f"{path}." if path else ""
        self.stands_for[f"{prefix}x"] = x
        for name, connection in graph.connections.items():
            reads = [self.end(graph, prefix, read) for read in connection.reads]
            previous = {field: self.end(graph, prefix, read) for field, read in connection.previous}
            self.add(f"{prefix}{name}", graph.get_submodule(name), reads, previous)
        self.stands_for[path] = [self.end(graph, prefix, read) for read in graph.output_reads]

    def add(self, path: str, module: nn.Module, reads: list[_End], previous: Mapping[str, _End]) -> None:
        if isinstance(module, Graph):
            self.enter(module, path, reads)
            return
        kind = "cell" if is_cell(module) else "module"
        self.boxes.append(Box(path, kind, path, type(module).__name__))
        self.raw += [Edge(e.name, path, "input", e.delay, e.size, e.fields) for e in reads]
        self.raw += [Edge(e.name, path, "hand-over", e.delay, e.size, e.fields, field) for field, e in previous.items()]
        own = tuple(field for field in state_sizes(module) if field not in previous) if kind == "cell" else ()
        if own:
            self.raw.append(Edge(path, path, "state", 1, fields=own))

    def end(self, graph: Graph, prefix: str, read: Read) -> _End:
        """Where a read begins; a sum becomes a junction of its own, once."""
        match read:
            case Delayed():
                return _End(prefix + read.name, read.size, read.k)
            case StateField():
                size = state_sizes(graph.get_submodule(read.name)).get(read.field)
                return _End(prefix + read.name, size, fields=(read.field,))
            case Sum():
                if (prefix, read) not in self.junctions:
                    parts = [self.end(graph, prefix, part) for part in read.parts]
                    name = self.junctions[prefix, read] = f"⊕{len(self.junctions)}"
                    self.boxes.append(Box(name, "junction", "⊕"))
                    self.raw += [Edge(part.name, name, "input", part.delay, part.size, part.fields) for part in parts]
                return _End(self.junctions[prefix, read], read.size)
            case _:
                return _End(prefix + read.name, read.size)

    def finished(self) -> Diagram:
        edges: list[Edge] = []
        for edge in self.raw:
            ends = self.expanded(_End(edge.source, edge.size, edge.delay, edge.fields))
            target = edge.target
            if len(ends) > 1 and target.startswith("⊕"):  # outputs side by side are joined before they are added
                target = f"∥{sum(box.title == '∥' for box in self.boxes)}"
                position = [box.name for box in self.boxes].index(edge.target)
                self.boxes.insert(position, Box(target, "junction", "∥"))
                edges.append(Edge(target, edge.target, "input", size=edge.size))
            edges += [
                dataclasses.replace(edge, source=e.name, target=target, delay=e.delay, size=e.size, fields=e.fields)
                for e in ends
            ]
        return Diagram(self.boxes, edges)

    def expanded(self, end: _End) -> list[_End]:
        """The boxes for which a name stands; delays on the way add up."""
        if end.name not in self.stands_for:
            return [end]
        inner = [e for part in self.stands_for[end.name] for e in self.expanded(part)]
        size = end.size if len(inner) == 1 else None
        return [
            _End(e.name, size if e.size is None else e.size, e.delay + end.delay, e.fields or end.fields) for e in inner
        ]


def state_sizes(cell: Any) -> dict[str, Size]:
    """The fields of a cell's state with the size of a row; one nameless field is called ``state``."""
    state = cell.initial_state(1)
    if hasattr(state, "_fields"):
        state = state._asdict()
    if isinstance(state, Mapping):
        return {field: tuple(part.shape[1:]) if hasattr(part, "shape") else None for field, part in state.items()}
    return {"state": None}
