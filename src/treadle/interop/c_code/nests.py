"""Which values of a program are computed together, in one loop nest, and which have to lie in memory between nests."""

import dataclasses

from treadle.compiler.program import ELEMENTWISE, VIEWS, Program, Value
from treadle.compiler.walk import postorder
from treadle.interop.c_code.places import is_mere_shape, origin, sizes, squeezed


@dataclasses.dataclass(frozen=True)
class Nest:
    """Values that are computed together: elementwise ones of one shape, or one value that is none."""

    level: int
    values: tuple[Value, ...]

    @property
    def is_pointwise(self) -> bool:
        """Whether it is one loop over elementwise operations and copies."""
        return self.values[0].op in ELEMENTWISE or self.values[0].op in VIEWS


@dataclasses.dataclass(frozen=True)
class Nests:
    """A program in the order in which it is computed.

    Attributes:
        nests: each after those whose values it reads.
        stored: the values that lie in memory, because another nest reads them or because they are outputs.
    """

    nests: tuple[Nest, ...]
    stored: frozenset[Value]


def nests_of(program: Program) -> Nests:
    """The loop nests of a program."""
    return _Planner(program).nests()


class _Planner:
    def __init__(self, program: Program):
        self.program = program
        read = postorder(program.outputs.values(), _operands)
        self.values = [value for value in read if value.has_rows]
        # A reshape reads dense memory: a view that it reshapes is copied first.
        self.copied = {
            origin(value.inputs[0]) for value in self.values if value.op == "reshape" and not is_mere_shape(value)
        }
        self.copied = {value for value in self.copied if value.op in VIEWS and value.has_rows}
        self.levels: dict[Value, int] = {}

    def is_computed(self, value: Value) -> bool:
        """Whether a nest computes it: it is no input, no constant and no view."""
        if not value.has_rows or value.op in ("input", "full"):
            return False
        return value in self.copied or value.op not in VIEWS

    def read(self, value: Value) -> tuple[Value, bool]:
        """What a view shows in the end, and whether it is read at the same place."""
        same = True
        while not self.is_computed(value) and value.op in VIEWS:
            source = value.inputs[0]
            mere = value.op in ("detach", "straight_through") or (value.op == "reshape" and is_mere_shape(value))
            mere = mere or (value.op == "expand" and squeezed(sizes(value)) == squeezed(sizes(source)))
            mere = mere or (value.op == "permute" and _order_is_kept(value))
            same, value = same and mere, source
        return value, same

    def nests(self) -> Nests:
        stored = {self.read(value)[0] for value in self.program.outputs.values()}
        for value in self.values:
            if self.is_computed(value):
                self.levels[value] = self._level(value)
        for value in self.levels:
            for operand in _operands(value):
                read, same = self.read(operand)
                if read in self.levels and not (
                    same and _is_pointwise(read) and _is_pointwise(value) and self._key(read) == self._key(value)
                ):
                    stored.add(read)
            if not _is_pointwise(value):
                stored.add(value)
        groups: dict[object, list[Value]] = {}
        for value in self.levels:
            groups.setdefault(self._key(value), []).append(value)
        nests = sorted((Nest(self.levels[group[0]], tuple(group)) for group in groups.values()), key=lambda n: n.level)
        return Nests(tuple(nests), frozenset(value for value in stored if value in self.levels))

    def _key(self, value: Value) -> object:
        shape = squeezed(sizes(value))
        return (self.levels[value], shape) if _is_pointwise(value) else value

    def _level(self, value: Value) -> int:
        level = 1
        for operand in _operands(value):
            read, same = self.read(operand)
            if read in self.levels:
                together = same and _is_pointwise(value) and _is_pointwise(read)
                together = together and squeezed(sizes(read)) == squeezed(sizes(value))
                level = max(level, self.levels[read] + (not together))
        return level


def _operands(value: Value) -> tuple[Value, ...]:
    """What is read to compute a value; of what was overwritten, only what it was overwritten with."""
    return value.inputs[:1] if value.op in VIEWS else value.inputs


def _is_pointwise(value: Value) -> bool:
    return value.op in ELEMENTWISE or value.op in VIEWS


def _order_is_kept(value: Value) -> bool:
    """Of a ``permute``, whether only axes of size 1 change their places."""
    shape = sizes(value.inputs[0])
    moved = [axis for axis in value.axes if shape[axis] != 1]
    return moved == sorted(moved)
