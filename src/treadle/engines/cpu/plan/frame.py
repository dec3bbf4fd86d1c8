"""What a recipe knows of the layouts that it serves: not how many rows there are, but how many at most."""

import dataclasses
import enum
import functools

from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.extent import Extent, Part
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.routines.copies import Run, Runs
from treadle.engines.layout import Layout


class Axis(enum.Enum):
    """An axis of a tensor whose size the layout of a call says."""

    ROWS = "all rows"
    BATCH = "a row of each sequence"

    def size(self, layout: Layout) -> int:
        """How long it is."""
        return layout.rows if self is Axis.ROWS else layout.batch


@dataclasses.dataclass(frozen=True)
class Frame:
    """Layouts that are served by one recipe: their rows fit into the same memory, and work is shared out alike.

    Args:
        most_rows, most_batch: how many rows they have at most, in all and at a time.
        is_whole: whether all rows have all steps.
        has_resets: whether some are reset.
    """

    most_rows: int
    most_batch: int
    is_whole: bool
    has_resets: bool

    @staticmethod
    def of(layout: Layout) -> "Frame":
        """The one that a layout belongs to."""
        return _frame(layout.rows, layout.batch, layout.order is None, layout.packed_resets is not None)

    def rows(self, recipe: Recipe) -> Extent:
        """All rows, of all steps."""
        return Extent.known_later(recipe, "rows", self.most_rows, Axis.ROWS.size)

    def batch(self, recipe: Recipe) -> Extent:
        """A row of each sequence."""
        return Extent.known_later(recipe, "batch", self.most_batch, Axis.BATCH.size)

    def steps(self, recipe: Recipe) -> Number:
        """How many steps there are."""
        return recipe.number("steps", lambda layout: layout.steps)

    def shares(self, recipe: Recipe, count: int) -> list[Part]:
        """The batch in ``count`` runs of rows with about the same number of steps each: see `Layout.shares`."""
        return [
            (
                recipe.number(("share", count, i, 0), lambda layout, i=i: layout.shares(count)[i][0]),
                recipe.number(("share", count, i, 1), lambda layout, i=i: layout.shares(count)[i][1]),
            )
            for i in range(count)
        ]

    def most_of_a_share(self, count: int) -> int:
        """How many rows of the batch one of so many shares has at most."""
        return -(-self.most_batch // count) if self.is_whole else self.most_batch

    def runs(self, recipe: Recipe, count: int) -> Runs:
        """The shares as runs of rows that lie apart, all steps of each together."""

        def run(i: int, what: int) -> Number:
            def number(layout: Layout) -> int:
                first, last = layout.shares(count)[i]
                return (first, last - first, layout.steps * first)[what]

            return recipe.number(("run", count, i, what), number)

        every = [Run(run(i, 0), run(i, 1), run(i, 2)) for i in range(count)]
        return Runs(self.steps(recipe), self.batch(recipe).number, every)


@functools.lru_cache(maxsize=256)
def _frame(rows: int, batch: int, is_whole: bool, has_resets: bool) -> Frame:
    return Frame(_rounded(rows, 8), _rounded(batch, 2), is_whole, has_resets)


def _rounded(count: int, steps: int) -> int:
    """The next number of few: there are so many steps from a power of two to the next one."""
    unit = max(1, (1 << max(count - 1, 0).bit_length()) // (2 * steps))
    return -(-count // unit) * unit
