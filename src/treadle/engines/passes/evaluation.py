"""Values of a nest in code, each after what it is made of, whatever the code is."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from treadle.compiler.program import Value
from treadle.compiler.walk import postorder
from treadle.engines.passes.indices import Index, operands_at
from treadle.engines.passes.loop_nests import Nest, Schedule

T = TypeVar("T")
Place: TypeAlias = tuple[Value, Index]
"""A value at an index."""


def evaluated(
    place: Place,
    schedule: Schedule,
    nest: Nest,
    readable: set[Value],
    known: dict[Place, T],
    compute: Callable[[Value, Index, list[T]], T],
) -> T:
    """What a value is at an index. Operands come first, and not by recursion: programs are deep.

    Args:
        place: what is wanted.
        schedule: says what is loaded in the nest, and not computed.
        nest: where it is computed.
        readable: what lies in memory.
        known: what was computed before; takes in what is computed now.
        compute: writes the code of one value from that of its operands.
    """
    operands: dict[Place, list[Place]] = {}

    def made_of(place: Place) -> list[Place]:
        value, index = place
        loaded = schedule.is_loaded(value, nest)
        operands[place] = [] if loaded else operands_at(value, index, nest.domain, readable)
        return operands[place]

    for one in postorder([place], made_of, known):
        known[one] = compute(*one, [known[operand] for operand in operands[one]])
    return known[place]
