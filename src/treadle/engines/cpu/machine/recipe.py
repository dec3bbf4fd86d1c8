"""Recipes: a straight line of calls of machine code, written down once and followed again and again.

A training step calls the same kernels on memory of the same sizes every time; only the addresses are others. So what
Python decides (which kernel, which rows for which thread, where in one block of memory each intermediate result lies)
is decided once and written down in a table of numbers. To follow it, the addresses of a call are added to that table,
and one call from Python runs all of it: the threads take the tasks of a *phase* until none is left, wait for each
other, and go on to the next one. Each thread begins with tasks of its own, the same ones whenever it can: what it read
and wrote before is then in its core's cache. It helps others when it has none left.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.engines.cpu.machine import follower, threads
from treadle.engines.cpu.machine.alignment import LINE_BYTES, address, begin
from treadle.engines.cpu.machine.arena import Arena, Given, Number, Word
from treadle.engines.cpu.machine.call_table import MOST_ARGUMENTS, WORD_BYTES, Head, Phase, Task, written
from treadle.engines.cpu.machine.memory_pool import empty

_TENSOR_WORDS = 3


class TensorWords(NamedTuple):
    """A tensor that is passed when a recipe is followed: its address, and its strides along two axes."""

    address: Word
    row_stride: Word
    column_stride: Word


class _Terms(NamedTuple):
    """Terms of the words ``at`` these places: each is ``plus`` and so many ``times`` the given number of an index."""

    at: np.ndarray
    plus: np.ndarray
    given: np.ndarray
    times: np.ndarray

    @staticmethod
    def of(words: Sequence[tuple[int, Word]]) -> "_Terms":
        """The first terms of words, each with its place."""
        rows = [(i, word.plus, word.given, word.times) for i, word in words]
        return _Terms(*np.array(rows, np.int64).reshape(-1, 4).T.copy())


@dataclasses.dataclass(frozen=True)
class RecipeCall:
    """A recipe on some tensors: its table of calls, and the blocks of memory."""

    words: np.ndarray
    address: int
    """Where the words are."""
    kept: Tensor | None
    scratch: Tensor | None


class Recipe:
    """Calls of machine code, in phases.

    Within a phase the order of tasks is that in which threads begin them; they must not depend on each other. Memory
    that is ``kept`` outlives the call, for another recipe to read, ``scratch`` is for the call alone.
    """

    def __init__(self) -> None:
        self.kept, self.scratch = Arena(Word(Given.KEPT)), Arena(Word(Given.SCRATCH))
        self.tensors: dict[Hashable, int] = {}
        self._phases: list[Phase] = [Phase()]
        self._tables: list[Number] = []
        self._owners: list[object] = []
        self._numbers: dict[Hashable, tuple[Word, Callable[[Any], int]]] = {}

    def tensor(self, key: Hashable) -> TensorWords:
        """A tensor that is passed when the recipe is followed, under that key."""
        first = Given.TENSORS + _TENSOR_WORDS * self.tensors.setdefault(key, len(self.tensors))
        return TensorWords(Word(first), Word(first + 1), Word(first + 2))

    def table(self, numbers: Sequence[Number]) -> Word:
        """Numbers that a task reads from memory; gives their address."""
        start = len(self._tables)
        self._tables.extend(numbers)
        return Word(Given.TABLES, WORD_BYTES * start)

    def number(self, key: Hashable, of: Callable[[Any], int]) -> Word:
        """A number that is computed, from what the recipe is followed for, under that key."""
        if key not in self._numbers:
            self._numbers[key] = Word(Given.NUMBERS - len(self._numbers)), of
        return self._numbers[key][0]

    def task(self, function: int, arguments: Sequence[Number], late: bool = False) -> None:
        """A call in the present phase: the address of a function of 64-bit integers and pointers, and its arguments.

        ``late`` tasks are begun after all others of the phase: they fill up the time of whoever is done first.
        """
        assert 1 <= len(arguments) <= MOST_ARGUMENTS, arguments
        phase = self._phases[-1]
        (phase.late if late else phase.tasks).append(Task(function, arguments))

    def keep(self, owner: object) -> None:
        """Keep something alive that owns machine code which tasks call."""
        self._owners.append(owner)

    def barrier(self) -> None:
        """What follows begins when all that was written down before is done."""
        if self._phases[-1].all:
            self._phases.append(Phase())
        self.kept.next_phase()
        self.scratch.next_phase()

    @kept_property
    def _all_phases(self) -> list[Phase]:
        # Changes nothing: several threads may follow a recipe for the first time at once.
        return [phase for phase in self._phases if phase.all]

    @kept_property
    def threads(self) -> int:
        """Most tasks of a phase: more threads would find nothing to do."""
        return max((len(phase.all) for phase in self._all_phases), default=0)

    @kept_property
    def _words(self) -> "list[_Terms]":
        """The table of calls and the tables behind it: a term of every word, the second ones of some, and so on."""
        calls = written(self._all_phases)
        tables = Word(Given.CALLS, WORD_BYTES * len(calls))
        first_number = Given.TENSORS + _TENSOR_WORDS * len(self.tensors)

        def placed(word: Word) -> Word:
            if word.given == Given.TABLES:
                return tables + word.plus
            if word.given <= Given.NUMBERS:
                return dataclasses.replace(word, given=first_number + Given.NUMBERS - word.given)
            return word

        words = [placed(n) if isinstance(n, Word) else Word(Given.NOTHING, n) for n in (*calls, *self._tables)]
        terms, more = [], list(enumerate(words))
        while more:
            terms.append(_Terms.of([(i, placed(word)) for i, word in more]))
            more = [(i, word.more) for i, word in more if word.more is not None]
        return terms

    @kept_property
    def _given(self) -> list[tuple[Hashable, bool]]:
        """The tensors in the order of their numbers, and whether any of their strides is read."""
        read = {number for terms in self._words for number in terms.given.tolist()}
        words = {key: self.tensor(key) for key in self.tensors}
        return [(key, not read.isdisjoint((w.row_stride.given, w.column_stride.given))) for key, w in words.items()]

    def offset_of(self, table: Word) -> int:
        """How many bytes behind a call's address a table of `table` begins."""
        return WORD_BYTES * (len(self._words[0].plus) - len(self._tables)) + table.plus

    def lay_out(self, tensors: Mapping[Any, Tensor], kept: Tensor | None = None, about: Any = None) -> RecipeCall:
        """A call on these tensors, ready to be made; numbers are computed from what it is ``about``."""
        first, *more = self._words
        if kept is None and self.kept.size:
            kept = _block(self.kept.size)
        scratch = _block(self.scratch.size) if self.scratch.size else None
        words = np.empty(len(first.plus), np.int64)
        start = words.__array_interface__["data"][0]
        # In the order of `Given`.
        given = [0, start, 0 if kept is None else begin(kept), 0 if scratch is None else begin(scratch)]
        for key, strided in self._given:
            tensor = tensors[key]
            strides = tensor.stride() if strided else ()
            given += (address(tensor), strides[0] if strides else 0, strides[1] if len(strides) > 1 else 1)
        given += [compute(about) for _, compute in self._numbers.values()]
        numbers = np.array(given, np.int64)
        np.take(numbers, first.given, out=words)
        if self._numbers:
            words *= first.times
        words += first.plus
        for terms in more:
            words[terms.at] += numbers[terms.given] * terms.times + terms.plus
        return RecipeCall(words, start, kept, scratch)

    def follow(self, tensors: Mapping[Any, Tensor], kept: Tensor | None = None, about: Any = None) -> Tensor | None:
        """Do what is written down, on these tensors (see `lay_out`); returns the memory that is kept."""
        call = self.lay_out(tensors, kept, about)
        if self.threads:
            count = threads.count(self.threads)
            call.words[Head.TEAM] = count
            threads.together(follower.work(), call.address, count)
        return call.kept


def _block(size: int) -> Tensor:
    return empty(size + LINE_BYTES, dtype=torch.uint8)
