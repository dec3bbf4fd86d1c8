"""Edges of the picture as inputs of the program: a number with which what is read is multiplied, 1 unless it is cut."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.compiler.tracer import Traced, Tracer
from treadle.compiler.watch import Arguments
from treadle.show.diagram import Diagram, Edge
from treadle.state import named_tensors, rebuild


class Cuts:
    """What multiplies the arguments of modules while a step is traced.

    Args:
        diagram: the boxes and edges of the network.
        boxes: of each module that is a box, by its path, the name of the box.
        dtype: in which the network computes.

    Attributes:
        inputs: the numbers, as inputs of the program, by name: ``read/3`` is that of the edge of number 3.
    """

    def __init__(self, diagram: Diagram, boxes: Mapping[str, str], dtype: Any):
        self.boxes = boxes
        self.edges: dict[str, list[tuple[int, Edge]]] = {}
        for number, edge in enumerate(diagram.edges):
            self.edges.setdefault(edge.target, []).append((number, edge))
        self.all = {
            number: p.placeholder(f"read/{number}", (), dtype) for edges in self.edges.values() for number, _ in edges
        }
        self.used: set[int] = set()

    @property
    def inputs(self) -> dict[str, Value]:
        return {value.name: value for value in self.all.values()}

    def given(self, path: str, module: nn.Module, arguments: Arguments, tracer: Tracer) -> Arguments:
        """The arguments of a module, each part multiplied with the number of its edge."""
        edges = self.edges.get(self.boxes.get(path, ""), [])
        if not edges or not arguments or not isinstance(arguments[0], Traced):
            return arguments
        x = self._input(arguments[0], [one for one in edges if one[1].role == "input"], tracer)
        if len(arguments) == 1 or arguments[1] is None:
            return (x, *arguments[1:])
        return (x, self._state(arguments[1], [one for one in edges if one[1].role != "input"], tracer), *arguments[2:])

    def _input(self, x: Traced, edges: Sequence[tuple[int, Edge]], tracer: Tracer) -> Traced:
        value = x.value
        if not value.dtype.is_floating_point or not edges:
            return x
        if len(edges) == 1:
            return self._made(self._times(value, edges[0][0]), tracer)
        widths = [edge.size[0] if edge.size else 0 for _, edge in edges]
        if len(value.shape) < 2 or 0 in widths or sum(widths) != value.shape[1]:
            return x
        parts, start = [], 0
        for (number, _), width in zip(edges, widths, strict=True):
            parts.append(self._times(p.slice_(value, 1, start, start + width), number))
            start += width
        return self._made(p.cat(parts, 1), tracer)

    def _state(self, state: Any, edges: Sequence[tuple[int, Edge]], tracer: Tracer) -> Any:
        by_field = {field: number for number, edge in edges if edge.role == "state" for field in edge.fields}
        by_field |= {edge.becomes: number for number, edge in edges if edge.role == "hand-over"}
        found: dict[str, Tensor] = {}
        for name, tensor in named_tensors(state):
            number = by_field.get(name.split("/")[0], by_field.get("state"))
            found[name] = tensor
            if number is not None and isinstance(tensor, Traced) and tensor.value.dtype.is_floating_point:
                found[name] = self._made(self._times(tensor.value, number), tracer)
        return rebuild(state, found)

    def _times(self, value: Value, number: int) -> Value:
        self.used.add(number)
        return p.elementwise("mul", value, p.cast(self.all[number], value.dtype))

    def _made(self, value: Value, tracer: Tracer) -> Traced:
        return Traced(value, tracer.rows, requires_grad=True)  # pyright: ignore[reportCallIssue]
