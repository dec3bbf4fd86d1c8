"""Numbers that are known when a recipe is followed, and memory laid out by them before there is any."""

import dataclasses
import enum

from treadle.engines.cpu.machine.alignment import PAGE_BYTES, Stagger, whole_lines


class Given(enum.IntEnum):
    """What a recipe is given when it is followed; each tensor is given as three numbers, from ``TENSORS`` on.

    From ``NUMBERS`` downwards are those that are computed for the call.
    """

    NUMBERS = -2
    TABLES = -1  # where its own tables of numbers begin
    NOTHING = 0
    CALLS = 1  # the address of the table of calls
    KEPT = 2  # the address of the memory that outlives the call
    SCRATCH = 3  # the address of the memory for the call alone
    TENSORS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """A number that is known when a recipe is followed: so many times one that is `Given` then, and what is added."""

    given: int
    plus: int = 0
    times: int = 1
    more: "Word | None" = None

    def __add__(self, other: "int | Word") -> "Word":
        if isinstance(other, int):
            return dataclasses.replace(self, plus=self.plus + other)
        return dataclasses.replace(self, more=other if self.more is None else self.more + other)

    __radd__ = __add__

    def __mul__(self, factor: int) -> "Word":
        more = None if self.more is None else self.more * factor
        return Word(self.given, self.plus * factor, self.times * factor, more)


Number = int | Word


class Arena:
    """One block of memory for many results; what is no longer read makes room for others."""

    _stagger = Stagger()

    def __init__(self, address: Word):
        self.address, self.size = address, 0
        self._free: dict[int, list[int]] = {}
        self._leaving: list[tuple[int, int]] = []

    def room(self, size: int) -> Word:
        """The place of ``size`` bytes."""
        size = whole_lines(size)
        if self._free.get(size):
            return self.address + self._free[size].pop()
        start = self.size if size < PAGE_BYTES else self._stagger.after(self.size)
        self.size = start + size
        return self.address + start

    def leave(self, place: Word, size: int) -> None:
        """Give room back: it is used again from the next phase on."""
        self._leaving.append((place.plus, whole_lines(size)))

    def next_phase(self) -> None:
        """What was left may be used again."""
        for start, size in self._leaving:
            self._free.setdefault(size, []).append(start)
        self._leaving.clear()
