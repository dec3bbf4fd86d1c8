"""A nest in two turns: what others wait for first, for all its features, then what waits.

A core looks some hundred instructions ahead. Where a tanh waits for sums that wait for sigmoids, that is less than two
vectors of features, and it idles. In two turns, what waits is not among what it waits for.
"""

import dataclasses

import torch

from treadle.compiler import program as p
from treadle.compiler.walk import postorder
from treadle.engines.passes.evaluation import Place
from treadle.engines.passes.indices import Affine, flat, operands_at, root_index
from treadle.engines.passes.loop_nests import Buffer, Carry, Nest, Output, Root, Schedule, Sum


@dataclasses.dataclass(frozen=True)
class Stored:
    """What the first turn has computed and stored, and where in its row it is."""

    place: Place
    to: Output | Carry | Buffer
    affine: Affine


@dataclasses.dataclass(frozen=True)
class Turn:
    """Some roots of a nest, and what the turn before has stored of what they are made of."""

    roots: tuple[Root, ...]
    stored: tuple[Stored, ...] = ()


def turns(nest: Nest, schedule: Schedule) -> list[Turn]:
    """One turn for all roots, or two, where nothing that takes long would be computed in both."""
    whole = [Turn(tuple(nest.roots))]
    if nest.reduced or not nest.domain:
        return whole
    walk = _Walk(nest, schedule)
    waits = {root: walk.waits(root_index(root, nest)) for root in nest.roots}
    longest = max(waits.values())
    first = tuple(root for root in nest.roots if waits[root] <= longest // 2)
    if longest < 2 or not first:
        return whole
    stored = tuple(found for root in first for found in _readable(root, nest))
    known = {one.place for one in stored}
    then = tuple(root for root in nest.roots if root not in first)
    before = walk.expensive([root_index(root, nest) for root in first], set())
    after = walk.expensive([root_index(root, nest) for root in then], known)
    return whole if before & after else [Turn(first), Turn(then, stored)]


def _readable(root: Root, nest: Nest) -> list[Stored]:
    """Where the numbers of a root are once it is stored: side by side, and not added to others."""
    value, index = root_index(root, nest)
    if value.dtype == torch.bool:
        return []
    for sink in root.sinks:
        constant, *coefficients = flat(index, value.shape, len(nest.domain), sink.strides)
        if not isinstance(sink.to, Sum) and coefficients[-1] == 1:
            return [Stored((value, index), sink.to, (constant + sink.offset, *coefficients))]
    return []


class _Walk:
    """From places of a nest to what they are made of, as far as the nest computes it."""

    def __init__(self, nest: Nest, schedule: Schedule):
        self.nest, self.schedule = nest, schedule
        self.readable = schedule.kernel.memory | schedule.stored
        self._waits: dict[Place, int] = {}

    def operands(self, place: Place) -> list[Place]:
        value, index = place
        if self.schedule.is_loaded(value, self.nest):
            return []
        return list(operands_at(value, index, self.nest.domain, self.readable))

    def waits(self, place: Place) -> int:
        """How many functions that take long wait for each other, at the most."""
        for one in postorder([place], self.operands, self._waits):
            before = max((self._waits[operand] for operand in self.operands(one)), default=0)
            self._waits[one] = before + self._takes_long(one)
        return self._waits[place]

    def expensive(self, places: list[Place], known: set[Place]) -> set[Place]:
        """Functions that take long in places and what they are made of, but not behind what is known."""
        return {one for one in postorder(places, self.operands, known) if self._takes_long(one)}

    def _takes_long(self, place: Place) -> bool:
        value, _ = place
        return value.op in p.EXPENSIVE and not self.schedule.is_loaded(value, self.nest)
