"""How a loop's next state depends on the one before: whether units meet, and whether the state bends itself.

Where units do not meet, each number of the state is a recurrence of its own: columns can be shared out over cores
without waiting. Where the next state is a sum of the old one's multiples, by factors that no state has a part in, the
loop is a *linear scan*: h' = a h + b, which can also be computed over many steps at once.
"""

from typing import NamedTuple

import torch

from treadle.compiler import program as p
from treadle.compiler.fission import Section
from treadle.compiler.program import Value

_KEEP_DEGREE = frozenset("neg sum cat rowsum".split()) | p.VIEWS
_PRODUCTS = frozenset(("mul", "dot", "outer"))
_SUMS = frozenset(("add", "sub"))


class Recurrence(NamedTuple):
    """How a loop's next state depends on the old one."""

    linear: bool
    """Whether it is affine in it: no product of two of its numbers, no function of one."""
    by_element: bool
    """Whether each number depends on those at its own place alone."""

    def __str__(self) -> str:
        if self.linear:
            return "linear scan, element by element" if self.by_element else "linear scan"
        return "element by element" if self.by_element else ""


def recurrence(section: Section) -> Recurrence:
    """How the next state of a loop depends on the old one.

    Example:
        >>> import treadle as td
        >>> print(td.explain(td.Recurrent(td.MinGRUCell(3, 5))).loops[0].recurrence)
        linear scan, element by element
    """
    degrees: dict[Value, int] = dict.fromkeys(section.old, 1)
    shape = section.old[0].row_shape
    in_place = p.ELEMENTWISE | p.GRADIENT_PATHS
    by_element = all(old.row_shape == shape for old in section.old)
    for value in p.between(section.inputs + section.old, section.new):
        degrees[value] = _degree(value, degrees)
        if degrees[value] and (value.op not in in_place or value.row_shape != shape):
            by_element = False
    return Recurrence(all(degrees.get(new, 0) <= 1 for new in section.new), by_element)


def _degree(value: Value, degrees: dict[Value, int]) -> int:
    """0: no state has a part in it; 1: affine in the states; 2: anything else."""
    given = [degrees.get(operand, 0) for operand in value.inputs]
    most = max(given, default=0)
    if most == 0 or value.op in _KEEP_DEGREE or value.op in _SUMS:
        return most
    if value.op == "cast":
        return most if _keeps_numbers(value.inputs[0].dtype, value.dtype) else 2
    if value.op in _PRODUCTS:
        return min(sum(given), 2)
    if value.op == "div":
        return 2 if given[1] else given[0]
    if value.op == "where":
        return 2 if given[0] else most
    return 2


def _keeps_numbers(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether a cast leaves every number as it is: to a lower precision it rounds, to whole numbers it cuts off."""
    both = given.is_floating_point and wanted.is_floating_point
    return both and torch.promote_types(given, wanted) == wanted
