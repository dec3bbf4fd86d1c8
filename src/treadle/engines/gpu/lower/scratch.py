"""Where a program keeps what its registers do not: a block of memory for each block of rows."""

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

from treadle.compiler.program import Value
from treadle.engines.gpu.lower.tiling import Tiling
from treadle.engines.passes.loop_nests import Carry, Schedule

Key: TypeAlias = Value | Carry
"""What has a place: a buffer of the schedule, or a state."""


@dataclasses.dataclass(frozen=True)
class Scratch:
    """The scratch of a block of rows, in numbers.

    Args:
        start: where the rows of each begin. A state has two blocks: it is read from one and written to the other.
        size: how many numbers a row of it has.
        sums: where each sum over rows begins; they lie one after another.
        end: how many numbers there are.
    """

    start: Mapping[Key, int]
    size: Mapping[Key, int]
    sums: tuple[int, ...]
    sums_end: int
    end: int


_PADDING = 128
"""Numbers behind a block, so that blocks of rows do not share lines of the cache."""


def scratch_of(schedule: Schedule, tiling: Tiling) -> Scratch:
    """Lay out the scratch of a kernel."""
    kernel = schedule.kernel
    start: dict[Key, int] = {}
    size: dict[Key, int] = {}
    end = 0
    carries = {Carry(i): old.row_numel for i, (old, _) in enumerate(kernel.carries)}
    for key, count in {**schedule.buffers, **carries}.items():
        start[key], size[key] = end, max(count, 1)
        end += tiling.rows * size[key] * (2 if isinstance(key, Carry) else 1)
    sums = []
    for value in kernel.sums:
        sums.append(end)
        end += max(value.row_numel, 1)
    return Scratch(start, size, tuple(sums), end, end + _PADDING)
