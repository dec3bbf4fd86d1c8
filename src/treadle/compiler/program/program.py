"""A program: the inputs and outputs of a graph, by name, and how it is printed."""

import dataclasses
from collections.abc import Mapping

from treadle.compiler.program.shapes import show_shape
from treadle.compiler.program.value import Lines, Value, ordered


@dataclasses.dataclass(frozen=True)
class Program:
    """Inputs, which are placeholders, and outputs, both by name; and the lines that its values come from.

    Random numbers that are drawn for nothing (``unread``) are drawn all the same: what is drawn later depends on it.
    """

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]
    lines: Lines = dataclasses.field(default_factory=dict, compare=False, repr=False)
    unread: tuple[Value, ...] = ()

    def values(self) -> list[Value]:
        """All values that the outputs need, and what is drawn for nothing, each after what it is made of."""
        return ordered((*self.outputs.values(), *self.unread))

    def __str__(self) -> str:
        return show(self)


_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">"}
_SIGNS |= {"ge": ">=", "and": "&", "or": "|", "dot": "@"}


def show(program: Program, sources: bool = False) -> str:
    """A program as text, one operation a line, in the order in which an interpreter would run it."""
    names: dict[Value, str] = {}
    outputs: dict[Value, list[str]] = {}
    for name, value in program.outputs.items():
        outputs.setdefault(value, []).append(name)
    lines = []
    for value in program.values():
        if value.op == "input":
            names[value] = value.name
        elif value.op == "full" and not outputs.get(value):
            names[value] = f"{value.number:g}" if isinstance(value.number, float) else str(value.number)
    count = 0
    for value in program.values():
        if value in names:
            continue
        count += 1
        names[value] = f"v{count}"
        operands = [names[operand] for operand in value.inputs]
        attributes = ", ".join(map(str, value.attributes))
        if value.op in _SIGNS and len(operands) == 2:
            text = f"{operands[0]} {_SIGNS[value.op]} {operands[1]}"
        else:
            text = f"{value.op}({', '.join([*operands, *([attributes] if attributes else [])])})"
        line = f"{names[value]}: {show_shape(value.shape)} = {text}"
        source = program.lines.get(value)
        lines.append(f"{line:<58}  # {source}" if sources and source else line)
    for value, given in outputs.items():
        lines.extend(f"{name} <- {names[value]}" for name in given)
    inputs = ", ".join(f"{name} {show_shape(value.shape)}" for name, value in program.inputs.items())
    return "\n".join([f"reads {inputs}", *lines])
