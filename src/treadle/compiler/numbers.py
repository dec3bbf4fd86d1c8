"""One program for steps that differ in numbers alone: an input for each number, in place of a program for each value.

Where an attribute that a step computes with changes from call to call, as a temperature that is lowered, tracing the
step again takes milliseconds, and compiling it a hundred times as long.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

from treadle.compiler import program as p
from treadle.compiler.program import Program, Value
from treadle.compiler.walk import postorder

Pair: TypeAlias = tuple[Value, Value]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A program with inputs for numbers.

    Args:
        program: it reads each number as an input ``"number/0"``, a tensor without axes.
        places: the values that stand for a number everywhere, with the input that it is.
    """

    program: Program
    places: Mapping[Value, Value]

    def numbers_of(self, program: Program) -> dict[Value, float] | None:
        """The numbers with which the pattern is that program; None if it is another one."""
        if len(self.program.unread) != len(program.unread):
            return None
        found: dict[Value, float] = {}
        for pattern, value in _pairs(self.program, program):
            place = self.places.get(pattern)
            if place is not None and value.op == "full":
                if repr(found.setdefault(place, value.number)) != repr(value.number):  # NaN, zeros of either sign
                    return None
            elif pattern is not value and not _are_alike(pattern, value):
                return None
        return found


def pattern_of(first: Program, second: Program) -> Pattern | None:
    """What two programs have in common, if they differ in numbers alone."""
    if len(first.unread) != len(second.unread):
        return None
    made: dict[Pair, Value] = {}
    inputs: dict[tuple[str, str, object], Value] = {}
    places: dict[Value, Value] = {}
    lines = dict(first.lines)
    for pair in _pairs(first, second):
        one, other = pair
        if one is other:
            made[pair] = one
        elif one.op == other.op == "full" and _have_one_form(one, other) and one.dtype.is_floating_point:
            key = repr(one.number), repr(other.number), one.dtype
            name = f"number/{len(inputs)}"
            number = inputs.setdefault(key, p.placeholder(name, (), one.dtype))
            made[pair] = p.expand(number, one.shape)
            places[made[pair]] = number
        elif _are_alike(one, other):
            operands = [made[operands] for operands in zip(one.inputs, other.inputs, strict=True)]
            with p.noting(lines, lambda one=one: first.lines.get(one, "")):
                made[pair] = p.make(one.op, operands, one.attributes, one.shape, one.dtype)
        else:
            return None
    outputs = {name: made[value, second.outputs[name]] for name, value in first.outputs.items()}
    unread = tuple(made[pair] for pair in zip(first.unread, second.unread, strict=True))
    return Pattern(Program({**first.inputs, **{v.name: v for v in inputs.values()}}, outputs, lines, unread), places)


def _pairs(first: Program, second: Program) -> list[Pair]:
    """The values at the same place of two programs, operands first, as far as they have the same form."""
    roots = [(value, second.outputs[name]) for name, value in first.outputs.items()]
    return postorder([*roots, *zip(first.unread, second.unread, strict=True)], _operands)


def _operands(pair: Pair) -> list[Pair]:
    one, other = pair
    if one is other or len(one.inputs) != len(other.inputs):
        return []
    return list(zip(one.inputs, other.inputs, strict=True))


def _have_one_form(one: Value, other: Value) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _are_alike(one: Value, other: Value) -> bool:
    """Whether two values are the same operation, whatever its operands are."""
    return (
        one.op == other.op
        and len(one.inputs) == len(other.inputs)
        and bool(one.inputs)
        and one.attributes == other.attributes
        and _have_one_form(one, other)
    )
