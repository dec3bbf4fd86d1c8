"""Recipes: a straight line of calls of machine code, written down once and followed again and again.

A training step calls the same kernels on memory of the same sizes every time; only the addresses are others. So what
Python decides (which kernel, which rows for which thread, where in one block of memory each intermediate result lies)
is decided once and written down in a table of numbers. To follow it, the addresses of a call are added to that table,
and one call from Python runs all of it: the threads take the tasks of a *phase* until none is left, wait for each
other, and go on to the next one. Each thread begins with tasks of its own, the same ones whenever it can: what it read
and wrote before is then in its core's cache. It helps others when it has none left.
"""

import dataclasses
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.engines.cpu.machine import follower, scratch_memory, threads
from treadle.engines.cpu.machine.alignment import LINE_BYTES, address, begin
from treadle.engines.cpu.machine.arena import Arena, Given, Number, Word
from treadle.engines.cpu.machine.call_table import MOST_ARGUMENTS, WORD_BYTES, Head, Phase, Task, written
from treadle.engines.cpu.machine.laying_out import Terms
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.scratch_memory import Scratch

_TENSOR_WORDS = 3


class TensorWords(NamedTuple):
    """A tensor that is passed when a recipe is followed: its address, and its strides along two axes."""

    address: Word
    row_stride: Word
    column_stride: Word


@dataclasses.dataclass(frozen=True)
class RecipeCall:
    """A recipe on some tensors: its table of calls, and the blocks of memory."""

    words: "array[int]"
    address: int
    """Where the words are."""
    kept: Tensor | None
    scratch: Scratch | None


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
        first = place_of(self.tensors.setdefault(key, len(self.tensors)))
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
    def _terms(self) -> Terms:
        """The table of calls and the tables behind it."""
        calls = written(self._all_phases)
        tables = Word(Given.CALLS, WORD_BYTES * len(calls))
        first_number = place_of(len(self.tensors))

        def placed(number: Number) -> Word:
            word = number if isinstance(number, Word) else Word(Given.NOTHING, number)
            more = None if word.more is None else placed(word.more)
            if word.given == Given.TABLES:
                return dataclasses.replace(tables + word.plus, more=more)
            if word.given <= Given.NUMBERS:
                return dataclasses.replace(word, given=first_number + Given.NUMBERS - word.given, more=more)
            return dataclasses.replace(word, more=more)

        return Terms([placed(number) for number in (*calls, *self._tables)])

    @kept_property
    def given(self) -> list[tuple[Hashable, bool]]:
        """The tensors in the order of their numbers, and whether any of their strides is read."""
        read = self._terms.given
        words = {key: self.tensor(key) for key in self.tensors}
        return [(key, not read.isdisjoint((w.row_stride.given, w.column_stride.given))) for key, w in words.items()]

    def offset_of(self, table: Word) -> int:
        """How many bytes behind a call's address a table of `table` begins."""
        return WORD_BYTES * (self._terms.count - len(self._tables)) + table.plus

    def lay_out(self, tensors: Mapping[Any, Tensor]) -> RecipeCall:
        """A call on these tensors, ready to be made as often as one likes, with memory of its own."""
        kept = self._new_kept()
        scratch = Scratch(self.scratch.size) if self.scratch.size else None
        words = self._laid_out(self.numbers(tensors), kept, scratch)
        return RecipeCall(words, words.buffer_info()[0], kept, scratch)

    def follow(self, tensors: Mapping[Any, Tensor], kept: Tensor | None = None, about: Any = None) -> Tensor | None:
        """Do what is written down, on these tensors; returns the memory that is kept.

        Numbers are computed from what the call is ``about``.
        """
        return self.run(self.numbers(tensors, about), kept)

    def numbers(self, tensors: Mapping[Any, Tensor], about: Any = None) -> list[int]:
        """What is given for a call on these tensors, in the order of `Given`; where memory is, is not known yet."""
        numbers = [0] * Given.TENSORS
        for key, strided in self.given:
            numbers += numbers_of(tensors[key], strided)
        numbers += [compute(about) for _, compute in self._numbers.values()]
        return numbers

    def run(self, numbers: list[int], kept: Tensor | None = None) -> Tensor | None:
        """Do what is written down, with these `numbers`; returns the memory that is kept."""
        kept = self._new_kept() if kept is None else kept
        scratch = scratch_memory.take(self.scratch.size) if self.scratch.size else None
        words = self._laid_out(numbers, kept, scratch)
        if self.threads:
            words[Head.TEAM] = count = threads.count(self.threads)
            threads.together(follower.work(), words.buffer_info()[0], count)
        if scratch is not None:
            scratch_memory.give(scratch)
        return kept

    def _new_kept(self) -> Tensor | None:
        return empty(self.kept.size + LINE_BYTES, dtype=torch.uint8) if self.kept.size else None

    def _laid_out(self, numbers: list[int], kept: Tensor | None, scratch: Scratch | None) -> "array[int]":
        numbers[Given.KEPT] = 0 if kept is None else begin(kept)
        numbers[Given.SCRATCH] = 0 if scratch is None else scratch.start
        return self._terms.lay_out(numbers)


def place_of(number: int) -> int:
    """Where the address of a tensor is among the numbers that a recipe is given; its two strides are behind it."""
    return Given.TENSORS + _TENSOR_WORDS * number


def numbers_of(tensor: Tensor, strided: bool) -> tuple[int, int, int]:
    """A tensor's address and its first two strides, where these are read."""
    if not strided:
        return address(tensor), 0, 1
    strides = tensor.stride()
    return address(tensor), strides[0] if strides else 0, strides[1] if len(strides) > 1 else 1
