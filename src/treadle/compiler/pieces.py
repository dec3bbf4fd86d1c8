"""One step in pieces that follow each other: what an engine computes and what it leaves to PyTorch, in turn.

A sequence falls apart by what has to be a loop (see ``fission.py``). A single step falls apart by who computes it: each
value is computed as late as it can be, in as few pieces as there are changes from one side to the other.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.compiler.program import Program, Value
from treadle.compiler.walk import preorder


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A step in pieces.

    Args:
        program: the step.
        sections: in turn: opaque ones, which are PyTorch's, and the engine's. The last of the engine's is a loop, which
            gives the output and moves the states; the others are parallel.
        by_torch: the names of the results that PyTorch gives instead.
    """

    program: Program
    sections: tuple[Section, ...]
    by_torch: tuple[str, ...]


def pieces(
    program: Program,
    left_out: Callable[[Value], bool],
    kept_out: Callable[[Value], bool],
    random: Sequence[Value] = (),
) -> Pieces:
    """Take a step apart.

    Args:
        program: the step.
        left_out: whether the engine leaves an operation with rows to PyTorch. Views are free, and on either side.
        kept_out: whether a result (``"y"``, or a state after the step) is of a kind that the engine does not give.
        random: what the step draws, in that order: before all else of PyTorch's.
    """
    results = program.outputs
    by_torch = tuple(name for name, value in results.items() if kept_out(value))
    carried = tuple(name for name in results if name != "y" and name not in by_torch)
    levels = _Levels(program, left_out, tuple(results[name] for name in by_torch), random)
    y = () if "y" in by_torch else (results["y"],)
    new, old = tuple(results[name] for name in carried), tuple(program.inputs[name] for name in carried)
    reads = levels.reads(levels.top, (*y, *new))
    last = Section(Kind.LOOP, tuple(v for v in reads if v not in old), y, carried, old, new, program.lines)
    sections = [last] if y or carried else []
    wanted = dict.fromkeys([*reads, *(results[name] for name in by_torch)])
    for level in reversed(range(levels.top)):
        given = [results[name] for name in by_torch] if level == levels.top - 1 else []
        first = [v for v in random if level == 1]
        outputs = dict.fromkeys([*first, *(v for v in levels.at(level) if v in wanted), *given])
        if outputs:
            reads = levels.reads(level, given)
            kind = Kind.OPAQUE if level % 2 else Kind.PARALLEL
            sections.append(Section(kind, reads, tuple(outputs), lines=program.lines))
            wanted |= dict.fromkeys(reads)
    return Pieces(program, tuple(reversed(sections)), by_torch)


def _is_free(value: Value) -> bool:
    """Whether it costs nothing where it is read: a view, or what no row has for itself."""
    return value.op in p.VIEWS or not value.has_rows


class _Levels:
    """In which piece each operation is: the engine's have even numbers, PyTorch's odd ones; ``top`` is the last."""

    def __init__(
        self,
        program: Program,
        left_out: Callable[[Value], bool],
        by_torch: tuple[Value, ...],
        random: Sequence[Value],
    ):
        self._order = [v for v in program.values() if v.op != "input" and not _is_free(v)]
        self._wholes = {v: _wholes(v.inputs) for v in self._order}
        # What PyTorch alone gives, PyTorch computes.
        self._by_torch = {v for v in self._order if left_out(v)}.union(_wholes(by_torch), random)
        earliest: dict[Value, int] = {}
        for v in self._order:
            level = max((earliest[w] for w in self._wholes[v] if w in earliest), default=0)
            earliest[v] = level + (level % 2 != (v in self._by_torch))
        highest = max(earliest.values(), default=0)
        self.top = max(highest + highest % 2, 2 if by_torch else 0)
        self._level = self._latest() | dict.fromkeys(random, 1)

    def _latest(self) -> dict[Value, int]:
        """The level of each: as late as what reads it allows."""
        latest: dict[Value, int] = {}
        limit: dict[Value, int] = {}
        for v in reversed(self._order):
            level = limit.get(v, self.top)
            latest[v] = level = level - (level % 2 != (v in self._by_torch))
            limit |= {w: min(limit.get(w, level), level) for w in self._wholes[v]}
        return latest

    def at(self, level: int) -> list[Value]:
        """What is computed at a level."""
        return [v for v in self._order if self._level[v] == level]

    def reads(self, level: int, roots: Iterable[Value]) -> tuple[Value, ...]:
        """What a level reads from elsewhere, to compute its values and views that are wanted."""
        members = self.at(level)
        starts = [*(operand for v in members for operand in v.inputs), *roots]
        met = preorder(starts, lambda v: v.inputs if _is_free(v) else (), members)
        return tuple(v for v in met if v.op == "input" or not _is_free(v))


def _wholes(values: Iterable[Value]) -> list[Value]:
    """What values are views of, or they themselves."""
    met = preorder(list(values), lambda v: v.inputs if _is_free(v) else ())
    return [v for v in met if not _is_free(v)]
