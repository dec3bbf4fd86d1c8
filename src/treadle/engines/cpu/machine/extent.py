"""How many there are of something, where a recipe knows that only when it is followed, and how many at most before."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Protocol, Union

from treadle.engines.cpu.machine.arena import Number, Word

Part = tuple[Number, Number]
"""Some of them: the first, and the one behind the last."""


class _Numbers(Protocol):
    def number(self, key: Hashable, of: Callable[[Any], int]) -> Word:
        """A number that is computed when a recipe is followed: see `Recipe`."""
        ...


@dataclasses.dataclass(frozen=True)
class Extent:
    """A number of things.

    Args:
        number: how many there are.
        most: how many at most, by which it is decided how work on them is shared out.
        computed: a number that follows from how many there are, under a key of its own.
    """

    number: Number
    most: int
    computed: Callable[[Hashable, Callable[[int], int]], Number]

    @staticmethod
    def of(count: Union[int, "Extent"]) -> "Extent":
        """An extent as it is; so many things, known already."""
        return count if isinstance(count, Extent) else Extent(count, count, lambda _, compute: compute(count))

    @staticmethod
    def known_later(recipe: _Numbers, name: str, most: int, count: Callable[[Any], int]) -> "Extent":
        """So many as ``count`` says of what a recipe is followed for."""

        def computed(key: Hashable, compute: Callable[[int], int]) -> Number:
            return recipe.number((name, key), lambda call: compute(count(call)))

        return Extent(recipe.number(name, count), most, computed)

    def parts(self, count: int, unit: int = 1) -> list[Part]:
        """All of them in up to ``count`` runs of about the same length, see `threads.split`."""
        count = min(count, -(-self.most // unit))
        if count < 2:
            return [(0, self.number)] if count else []

        def end(i: int) -> Number:
            return self.computed(("end", count, unit, i), lambda n: min(-(-n // unit) * (i + 1) // count * unit, n))

        ends = [*map(end, range(count - 1)), self.number]
        return list(zip([0, *ends], ends, strict=False))

    def halves(self) -> "Extent":
        """How many pairs they are, the last one perhaps of one alone."""
        computed = self.computed
        return Extent(
            computed("pairs", lambda n: (n + 1) // 2),
            (self.most + 1) // 2,
            lambda key, compute: computed(("pairs", key), lambda n: compute((n + 1) // 2)),
        )
