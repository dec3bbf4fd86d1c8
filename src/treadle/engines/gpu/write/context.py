"""What the parts of a kernel's source share while it is written: the page, and where everything is."""

import dataclasses
from contextlib import AbstractContextManager

import torch

from treadle.compiler.program import Value
from treadle.engines.gpu.lower.scratch import Key, scratch_of
from treadle.engines.gpu.lower.tiling import Tiling
from treadle.engines.gpu.write.page import Page, Tile
from treadle.engines.passes.indices import Affine, contiguous
from treadle.engines.passes.loop_nests import Carry, Schedule


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of numbers in memory.

    Args:
        base: the address of the first one.
        row: how far from there each row of the program is.
        is_outside: whether they are another's memory, where rows that no longer run have no place.
    """

    base: str
    row: str
    is_outside: bool = False

    def at(self, features: str) -> str:
        """The addresses of some of their features."""
        return f"{self.base} + ({self.row}[:, None] + {features}[None, :])"


@dataclasses.dataclass(frozen=True)
class Held:
    """A value in registers: the name of a tile over all its features, and how wide the tile is."""

    name: str
    width: int


class Context:
    """One attempt to write a kernel.

    Args:
        in_memory: what is in the scratch. Everything else is to stay in registers; where that cannot be, it is noted
            as ``missed``, and the next attempt has it in memory.

    Attributes:
        held: what has been stored in registers so far.
        after: of each state in registers, what it is after the step.
        is_dirty: whether the phase that is being written has stored something in the scratch.
        prologue: lines before the first step.
        early: what is loaded a step ahead, by what it is; and the lines that do so.
    """

    def __init__(self, schedule: Schedule, tiling: Tiling, in_memory: set[Key]):
        self.schedule, self.kernel, self.tiling = schedule, schedule.kernel, tiling
        self.scratch, self.page, self.in_memory = scratch_of(schedule, tiling), Page(), in_memory
        self.products = list(schedule.products)
        self.readable = self.kernel.memory | schedule.stored
        self.rows_in_memory = self.kernel.memory | set(schedule.buffers)
        self.is_double = self.kernel.precision.dtype == torch.float64
        self.type = "tl.float64" if self.is_double else "tl.float32"
        self.missed: set[Key] = set()
        self.held: dict[Key, Held] = {}
        self.after: dict[Carry, str] = {}
        self.is_dirty = False
        self.resident = 0
        self.prologue: list[str] = []
        self.early: dict[tuple[int, int, int, int], str] = {}
        self.early_lines: list[str] = []

    def key_of(self, value: Value) -> Key | None:
        """The place of a value in the scratch; None if it has none there."""
        for i, (old, _) in enumerate(self.kernel.carries):
            if old is value:
                return Carry(i)
        return value if value in self.schedule.buffers else None

    def rows_of(self, value: Value) -> Rows:
        """The rows of a value in memory."""
        key = self.key_of(value)
        if isinstance(key, Carry):
            return self.before(key)
        return self.stream(self.kernel.streams.index(value)) if key is None else self.buffer(key)

    def stream(self, number: int) -> Rows:
        """What is read row by row."""
        return self._rows_of_step(f"s{number}", self.kernel.streams[number])

    def output(self, number: int) -> Rows:
        """What is written row by row."""
        return self._rows_of_step(f"o{number}", self.kernel.outputs[number])

    @staticmethod
    def _rows_of_step(name: str, value: Value) -> Rows:
        size = max(value.row_numel, 1)
        return Rows(f"({name} + first * {size})", f"(r * {size})", True)

    def buffer(self, key: Key) -> Rows:
        """What is in the scratch."""
        return Rows(f"(base + {self.scratch.start[key]})", f"(rl * {self.scratch.size[key]})")

    def side(self, carry: Carry, side: str) -> Rows:
        """One of the two blocks of a state."""
        rows, size = self.tiling.rows, self.scratch.size[carry]
        return Rows(f"(base + {self.scratch.start[carry]} + {side} * {rows * size})", f"(rl * {size})")

    def before(self, carry: Carry) -> Rows:
        """A state in memory before the step."""
        return self.side(carry, "side")

    def behind(self, carry: Carry) -> Rows:
        """A state in memory after the step."""
        return self.side(carry, "(1 - side)")

    def given(self, kind: str, carry: Carry) -> Rows:
        """The tensor [B, ...] of a state: ``a`` where it starts, ``z`` where it ends up, ``f`` what resets give."""
        return Rows(f"{kind}{carry.number}", f"(r * {self.scratch.size[carry]})", True)

    def shared(self, total: int, least: int = 1, most: int | None = None) -> AbstractContextManager[Tile]:
        """The tiles over so many features, shared out among the programs of a block of rows."""
        parts = self.tiling.parts
        return self.page.tiles(total, self.tiling.width(total, least, most, parts), parts)

    def tiles_of(self, carry: Carry) -> AbstractContextManager[Tile]:
        """The tiles in which a state is moved: always the same, so that each program moves what it moved before."""
        size = self.scratch.size[carry]
        return self.shared(size, self.tiling.least if size > 1 else 1)


def is_whole(place: Affine, domain: tuple[int, ...], size: int) -> bool:
    """Whether a place is the number that runs over a domain, and a row has no other numbers."""
    strides = contiguous(domain)
    total = strides[0] * domain[0] if domain else 1
    return tuple(place) == (0, *strides) and total == size
