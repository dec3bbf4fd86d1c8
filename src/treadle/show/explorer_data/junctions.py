"""The values of junctions, where what several boxes give is added or put side by side."""

import functools
from collections.abc import Mapping

from treadle.compiler import program as p
from treadle.compiler.program import Program, Value
from treadle.insight.recorded_names import Named, joined
from treadle.show.diagram import INPUT, Diagram, Edge


def junction_values(
    diagram: Diagram, paths: Mapping[str, str], program: Program, names: Mapping[str, Named]
) -> dict[str, Value]:
    """Of each junction, the value that it is; of those alone that the step computes.

    Equal computations are one value, so a sum that is made again here is the step's own.
    """
    found: dict[str, Value] = {}
    for box in diagram.boxes:
        if box.kind == "junction":
            edges = [edge for edge in diagram.edges if edge.target == box.name]
            parts = [_value_of(edge, paths, program, names, found) for edge in edges]
            known = [part for part in parts if part is not None]
            if known and len(known) == len(parts):
                add = functools.partial(p.elementwise, "add")
                found[box.name] = p.cat(known, 1) if box.title == "∥" else functools.reduce(add, known)
    return found


def _value_of(
    edge: Edge, paths: Mapping[str, str], program: Program, names: Mapping[str, Named], junctions: Mapping[str, Value]
) -> Value | None:
    """What an edge carries."""
    path = "x" if edge.source == INPUT else paths.get(edge.source, "")
    place = path.replace(".", "/")
    if edge.delay:
        return program.inputs.get(f"state/{place}.delayed/{edge.delay - 1}")
    if edge.fields:
        return program.outputs.get(f"state/{place}/{edge.fields[0]}")
    if edge.source in (INPUT, *junctions):
        return program.inputs["x"] if edge.source == INPUT else junctions[edge.source]
    named = names.get(joined(path, "y"))
    return None if named is None else named.value
