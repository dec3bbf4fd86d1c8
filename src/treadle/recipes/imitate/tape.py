"""The tape of a machine as an environment: readings are symbols, actions write and move."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from treadle.errors import DataError
from treadle.recipes.imitate.machine import BLANK, Machine

_MARGIN = 64


class Tape:
    """An endless tape with a content, blank elsewhere; the head is on its first cell.

    Args:
        machine: the machine with its symbols and actions.
        content: the initial content.
        budget: maximum number of steps of a run; None for no limit.

    Raises:
        DataError: a symbol that the machine does not know.

    Example:
        >>> from treadle.recipes.imitate import Tape, parse_machine
        >>> flip = parse_machine("go 0 1 r go\\ngo 1 0 r go\\ngo _ _ * halt")
        >>> tape = Tape(flip, "0110")
        >>> tape.run(flip.controller()), str(tape), tape.halted
        (5, '1001', True)
    """

    def __init__(self, machine: Machine, content: str = "", budget: int | None = None):
        self.machine, self.content, self.budget = machine, machine.encode(content), budget
        number = {symbol: i for i, symbol in enumerate(machine.symbols)}
        effects = [(number[action.write], action.move, action.halts) for action in machine.actions]
        self._effects = dict(enumerate(effects))  # not a list, in which -1 would be the last
        self.reset()

    def reset(self) -> int:
        """Restore the initial content; return the number of the symbol under the head."""
        self._cells = bytearray(_MARGIN) + self.content + bytearray(_MARGIN)
        self._head, self._first = _MARGIN, _MARGIN
        self.steps, self.halted = 0, False
        return self._cells[self._head]

    def apply(self, action: int) -> tuple[int, bool]:
        """Write and move; return the symbol under the head, and whether the run has ended.

        Raises:
            DataError: an action that does not exist. The tape is unchanged.
        """
        try:
            write, move, self.halted = self._effects[action]
        except (KeyError, TypeError):
            raise DataError(
                f"action {action!r:.40} is not one of the {len(self._effects)} of {self.machine.name},"
                f" 0 to {len(self._effects) - 1}"
            ) from None
        self._cells[self._head] = write
        self._head += move
        self.steps += 1
        if not 0 < self._head < len(self._cells) - 1:
            self._grow()
        return self._cells[self._head], self.halted or self.steps == self.budget

    def _grow(self) -> None:
        """Twice as much tape, on the side where it is needed."""
        more = bytearray(len(self._cells))
        if self._head <= 0:
            self._cells = more + self._cells
            self._head, self._first = self._head + len(more), self._first + len(more)
        else:
            self._cells += more

    def run(self, policy: Any) -> int:
        """Let a policy act on it from the beginning to the end; return the number of steps."""
        policy.reset()
        act, apply = policy.act, self.apply
        reading, done = self.reset(), self.budget == 0
        while not done:
            action = act(reading)
            if action is None:
                break
            reading, done = apply(action)
        return self.steps

    def count(self, symbol: str) -> int:
        """How many cells hold a symbol; other than the blank."""
        return self._cells.count(self.machine.symbols.index(symbol))

    def __str__(self) -> str:
        """What is on it, from the first cell that is not blank to the last one."""
        return "".join(self.machine.symbols[cell] for cell in self._cells).strip(BLANK)


class RandomTapes:
    """Tapes of random content, another one at each ``reset``: an environment to record traces in.

    Random strings rarely have what triggers rare rules: long runs, symmetry, a single difference. So a tape is, with
    equal probability, independent symbols; runs of one symbol; a string and its mirror image; the same
    with one symbol changed; a short string again and again.

    Args:
        machine: the machine with its symbols.
        letters: the symbols to draw from.
        longest: maximum length in cells; every length from 0 on is equally likely.
        budget: see `Tape`.
        seed: random seed.

    Raises:
        DataError: symbols that the machine does not know.
    """

    def __init__(self, machine: Machine, letters: str, longest: int, budget: int | None = None, seed: int = 0):
        machine.encode(letters)
        if not letters and longest:
            raise DataError(f"{machine.name}: no letters to draw tapes from: name some")
        self.machine, self.letters, self.longest, self.budget = machine, letters, longest, budget
        self._random = np.random.default_rng(seed)

    def draw(self) -> str:
        """The content of the next tape."""
        random, letters = self._random, list(self.letters)
        length = int(random.integers(self.longest + 1))
        if not length:
            return ""
        kind = int(random.integers(5))
        drawn = [letters[i] for i in random.integers(len(letters), size=length)]
        if kind == 1:
            stays = random.random(length) < 1 - 2 / length
            for i in range(1, length):
                drawn[i] = drawn[i - 1] if stays[i] else drawn[i]
        elif kind in (2, 3):
            drawn[length - length // 2 :] = drawn[: length // 2][::-1]
            if kind == 3:
                drawn[int(random.integers(length))] = letters[int(random.integers(len(letters)))]
        elif kind == 4:
            period = int(random.integers(1, min(length, 4) + 1))
            drawn = [drawn[i % period] for i in range(length)]
        return "".join(drawn)

    def reset(self) -> int:
        """A new tape; the symbol under its head."""
        self.tape = Tape(self.machine, self.draw(), self.budget)
        return self.tape.reset()

    def apply(self, action: int) -> tuple[int, bool]:
        return self.tape.apply(action)

    def tapes(self, count: int) -> Iterator[Tape]:
        """So many tapes."""
        for _ in range(count):
            self.reset()
            yield self.tape
