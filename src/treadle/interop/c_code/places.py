"""Indices of values as sums of loop variables: a view is nothing but arithmetic on them.

Of a batch there is one row, so the axis of rows is an axis of size 1.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from treadle.compiler.program import BATCH, Value


@dataclasses.dataclass(frozen=True)
class Affine:
    """A constant plus loop variables, each times a whole number."""

    constant: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: "Affine | int") -> "Affine":
        if isinstance(other, int):
            return Affine(self.constant + other, self.terms)
        terms = dict(self.terms)
        for name, factor in other.terms:
            terms[name] = terms.get(name, 0) + factor
        kept = tuple((name, factor) for name, factor in terms.items() if factor)
        return Affine(self.constant + other.constant, kept)

    def __mul__(self, factor: int) -> "Affine":
        terms = tuple((name, own * factor) for name, own in self.terms) if factor else ()
        return Affine(self.constant * factor, terms)

    def __str__(self) -> str:
        parts = [name if factor == 1 else f"{factor} * {name}" for name, factor in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts)


def variable(name: str) -> Affine:
    """A loop variable alone."""
    return Affine(0, ((name, 1),))


def sizes(value: Value) -> tuple[int, ...]:
    """The shape of a value for one row."""
    return tuple(1 if dim is BATCH else dim for dim in value.shape)


def squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """Without the axes of size 1."""
    return tuple(size for size in shape if size != 1)


def linear(index: Sequence[Affine], shape: Sequence[int]) -> Affine:
    """The place in dense memory."""
    place = Affine()
    for i, size in zip(index, shape, strict=True):
        place = place * size + i
    return place


def loop_index(shape: Sequence[int], names: Sequence[str]) -> list[Affine]:
    """The index of each axis where a loop goes over each axis that is longer than 1."""
    variables = iter(names)
    return [Affine() if size == 1 else variable(next(variables)) for size in shape]


def is_mere_shape(value: Value) -> bool:
    """Whether a ``reshape`` does nothing but add or remove axes of size 1."""
    return squeezed(sizes(value)) == squeezed(sizes(value.inputs[0]))


def through_view(value: Value, index: Sequence[Affine]) -> tuple[Value, list[Affine]]:
    """What a view shows at an index: its operand, and the index there. Not for a ``reshape`` of dense memory."""
    source = value.inputs[0]
    shape = sizes(source)
    match value.op:
        case "detach" | "straight_through":
            return source, list(index)
        case "slice":
            axis, start, step = value.slice
            return source, [i * step + start if n == axis else i for n, i in enumerate(index)]
        case "permute":
            places = dict(zip(value.axes, index, strict=True))
            return source, [places[axis] for axis in range(len(shape))]
        case "expand":
            late = list(index)[len(index) - len(shape) :]
            return source, [Affine() if size == 1 else i for size, i in zip(shape, late, strict=True)]
        case "reshape":
            real = iter([i for i, size in zip(index, sizes(value), strict=True) if size != 1])
            return source, [Affine() if size == 1 else next(real) for size in shape]
    raise KeyError(value.op)


def origin(value: Value) -> Value:
    """What a value shows in the order in which it lies in memory."""
    while value.op in ("detach", "straight_through") or (value.op == "reshape" and not is_mere_shape(value)):
        value = value.inputs[0]
    return value
