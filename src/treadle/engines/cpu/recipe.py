"""Recipes: a straight line of calls of machine code, written down once and followed again and again.

A training step calls the same kernels on memory of the same sizes every time; only the addresses are others. So what
Python decides (which kernel, which rows for which thread, where in one block of memory each intermediate result lies)
is decided once and written down in a table of numbers. To follow it, the addresses of a call are added to that table,
and one call from Python runs all of it: the threads take the tasks of a *phase* until none is left, wait for each
other, and go on to the next one.
"""

import ctypes
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.engines.cpu import jit, threads
from treadle.engines.cpu.memory import empty

__all__ = ["Arena", "Number", "Recipe", "Word", "begin"]

_MOST_ARGUMENTS = 12
_TASK = 2 + _MOST_ARGUMENTS  # words: a function, how many arguments it takes, and they
_PHASE = 4  # words: how many tasks are taken, how many are done, how many there are, where they are


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """A number that is known when a recipe is followed: one that is given then, and what is added to it."""

    given: int
    plus: int = 0

    def __add__(self, more: int) -> "Word":
        return Word(self.given, self.plus + more)


Number = int | Word


class Arena:
    """One block of memory for many results; what is no longer read makes room for others.

    Args:
        address: where it will be.
    """

    _places = itertools.count(0, 5)

    def __init__(self, address: Word):
        self.address, self.size = address, 0
        self._free: dict[int, list[int]] = {}
        self._leaving: list[tuple[int, int]] = []

    def room(self, size: int) -> Word:
        """The place of ``size`` bytes."""
        size = -(-max(size, 1) // 64) * 64
        if self._free.get(size):
            return self.address + self._free[size].pop()
        start = self.size
        if size >= 4096:
            # Not all at the same place of a page: what is written to one would be taken for what is read from another,
            # 4096 bytes away, and waited for.
            start += (next(self._places) * 64 - start) % 4096
        self.size = start + size
        return self.address + start

    def leave(self, place: Word, size: int) -> None:
        """Give room back: it is used again from the next phase on."""
        self._leaving.append((place.plus, -(-max(size, 1) // 64) * 64))

    def next_phase(self) -> None:
        """What was left may be used again."""
        for start, size in self._leaving:
            self._free.setdefault(size, []).append(start)
        self._leaving.clear()


class Recipe:
    """Calls of machine code, in phases.

    Within a phase the order of tasks is that in which threads begin them; they must not depend on each other.

    Attributes:
        kept: memory that outlives the call, for another recipe to read.
        scratch: memory for the call alone.
        tensors: what has to be passed to `follow`, by key.
    """

    def __init__(self) -> None:
        # Numbers that are given: nothing, the table's own address, the two blocks of memory, tensors.
        self.kept, self.scratch = Arena(Word(2)), Arena(Word(3))
        self.tensors: dict[Any, int] = {}
        self._phases: list[list[tuple[int, Sequence[Number]]]] = [[]]
        self._late: list[tuple[int, Sequence[Number]]] = []
        self._tables: list[Number] = []

    def tensor(self, key: Any) -> tuple[Word, Word, Word]:
        """The address of a tensor that is passed when the recipe is followed, and its strides along two axes."""
        at = 4 + 3 * self.tensors.setdefault(key, len(self.tensors))
        return Word(at), Word(at + 1), Word(at + 2)

    def table(self, numbers: Sequence[Number]) -> Word:
        """Numbers that a task reads from memory; gives their address."""
        start = len(self._tables)
        self._tables.extend(numbers)
        return Word(-1, start)

    def task(self, function: int, arguments: Sequence[Number], late: bool = False) -> None:
        """A call in the present phase: the address of a function of 64-bit integers and pointers, and its arguments.

        There are 1 to 12 of them. ``late`` tasks are begun after all others of the phase: they fill up the time of
        whoever is done first.
        """
        assert 1 <= len(arguments) <= _MOST_ARGUMENTS, arguments
        (self._late if late else self._phases[-1]).append((function, arguments))

    def barrier(self) -> None:
        """What follows begins when all that was written down before is done."""
        self._phases[-1] += self._late
        self._late = []
        if self._phases[-1]:
            self._phases.append([])
        self.kept.next_phase()
        self.scratch.next_phase()

    @functools.cached_property
    def _all_phases(self) -> list[list[tuple[int, Sequence[Number]]]]:
        # Changes nothing: several threads may follow a recipe for the first time at once.
        return [phase for phase in (*self._phases[:-1], self._phases[-1] + self._late) if phase]

    @functools.cached_property
    def threads(self) -> int:
        """Most tasks of a phase: more threads would find nothing to do."""
        return max(map(len, self._all_phases), default=0)

    @functools.cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """The table as numbers to be added, and to what: which given number."""
        phases = self._all_phases
        words: list[Number] = [len(phases), _yield_address()]
        first_task = len(words) + _PHASE * len(phases)
        first_table = first_task + _TASK * sum(map(len, phases))
        at = first_task
        for phase in phases:
            words += [0, 0, len(phase), Word(1, 8 * at)]
            at += _TASK * len(phase)
        for phase in phases:
            for function, arguments in phase:
                words += [function, len(arguments), *arguments]
                words += [0] * (_MOST_ARGUMENTS - len(arguments))
        words += self._tables

        def split(number: Number) -> tuple[int, int]:
            if not isinstance(number, Word):
                return number, 0
            return (8 * (first_table + number.plus), 1) if number.given < 0 else (number.plus, number.given)

        pairs = np.array([split(number) for number in words], np.int64).reshape(-1, 2)
        return pairs[:, 0].copy(), pairs[:, 1].copy()

    def follow(self, tensors: Mapping[Any, Tensor], kept: Tensor | None = None) -> Tensor | None:
        """Do what is written down, on these tensors; returns the memory that is kept."""
        plus, which = self._words
        if kept is None and self.kept.size:
            kept = _block(self.kept.size)
        scratch = _block(self.scratch.size) if self.scratch.size else None
        words = np.empty(len(plus), np.int64)
        address = words.__array_interface__["data"][0]
        given = [0, address, 0 if kept is None else begin(kept), 0 if scratch is None else begin(scratch)]
        for key in self.tensors:
            tensor = tensors[key]
            strides = tensor.stride()
            given.append(tensor.data_ptr())
            given.append(strides[0] if strides else 0)
            given.append(strides[1] if len(strides) > 1 else 1)
        np.take(np.array(given, np.int64), which, out=words)
        words += plus
        if self.threads:
            threads.together(_worker(), address, threads.count(self.threads))
        return kept


def _block(size: int) -> Tensor:
    return empty(size + 64, dtype=torch.uint8)


def begin(block: Tensor) -> int:
    """The first address of a block where a vector may begin."""
    address = block.data_ptr()
    return address + -address % 64


@functools.cache
def _yield_address() -> int:
    """The system's function that lets others use the core; 0 where there is none of that name."""
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, AttributeError, TypeError):
        return 0


@functools.cache
def _worker() -> Callable[[int], None]:
    """The function that each thread runs: takes tasks of a phase until none is left, waits, goes on."""
    triple = jit.host().triple
    if triple.startswith("x86_64"):
        declare, pause = "declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"
    elif triple.startswith("aarch64"):
        declare, pause = "declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"
    else:
        declare, pause = "", ""
    cases = "\n".join(f"    i64 {n}, label %call{n}" for n in range(1, _MOST_ARGUMENTS + 1))
    calls = "\n".join(
        f"call{n}:\n  call void %function({', '.join(f'i64 %argument{i}' for i in range(n))})\n  br label %called"
        for n in range(1, _MOST_ARGUMENTS + 1)
    )
    loads = "\n".join(
        f"  %place{i} = getelementptr i64, ptr %task, i64 {i + 2}\n  %argument{i} = load i64, ptr %place{i}"
        for i in range(_MOST_ARGUMENTS)
    )
    text = f"""
{declare}
define void @work(ptr %words) {{
begin:
  %phases = load i64, ptr %words
  %yield_place = getelementptr i64, ptr %words, i64 1
  %yield = load ptr, ptr %yield_place
  %may_yield = icmp ne ptr %yield, null
  %some = icmp sgt i64 %phases, 0
  br i1 %some, label %phase, label %end
phase:
  %p = phi i64 [ 0, %begin ], [ %p_next, %passed ]
  %offset = mul i64 %p, {_PHASE}
  %offset2 = add i64 %offset, 2
  %taken = getelementptr i64, ptr %words, i64 %offset2
  %done = getelementptr i64, ptr %taken, i64 1
  %count_place = getelementptr i64, ptr %taken, i64 2
  %tasks_place = getelementptr i64, ptr %taken, i64 3
  %count = load i64, ptr %count_place
  %tasks = load ptr, ptr %tasks_place
  br label %next
next:
  %number = atomicrmw add ptr %taken, i64 1 monotonic
  %left = icmp slt i64 %number, %count
  br i1 %left, label %take, label %wait
take:
  %task_offset = mul i64 %number, {_TASK}
  %task = getelementptr i64, ptr %tasks, i64 %task_offset
  %function = load ptr, ptr %task
  %size_place = getelementptr i64, ptr %task, i64 1
  %size = load i64, ptr %size_place
{loads}
  switch i64 %size, label %called [
{cases}
  ]
{calls}
called:
  %before = atomicrmw add ptr %done, i64 1 acq_rel
  br label %next
wait:
  %spins = phi i64 [ 0, %next ], [ %spins_next, %again ], [ 0, %give_way ]
  %finished = load atomic i64, ptr %done acquire, align 8
  %ready = icmp sge i64 %finished, %count
  br i1 %ready, label %passed, label %again
again:
  {pause}
  %spins_next = add i64 %spins, 1
  %long = icmp sgt i64 %spins_next, 20000
  %lets = and i1 %long, %may_yield
  br i1 %lets, label %give_way, label %wait
give_way:
  %ignored = call i32 %yield()
  br label %wait
passed:
  %p_next = add i64 %p, 1
  %more = icmp slt i64 %p_next, %phases
  br i1 %more, label %phase, label %end
end:
  ret void
}}
"""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(jit.compile(text).address("work"))
