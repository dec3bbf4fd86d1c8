"""Recipes: a straight line of calls of machine code, written down once and followed again and again.

A training step calls the same kernels on memory of the same sizes every time; only the addresses are others. So what
Python decides (which kernel, which rows for which thread, where in one block of memory each intermediate result lies)
is decided once and written down in a table of numbers. To follow it, the addresses of a call are added to that table,
and one call from Python runs all of it: the threads take the tasks of a *phase* until none is left, wait for each
other, and go on to the next one. Each thread begins with tasks of its own, the same ones whenever it can: what it read
and wrote before is then in its core's cache. It helps others when it has none left.
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

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.memory_pool import empty

__all__ = ["Arena", "Call", "Number", "Phase", "Recipe", "Word", "again", "begin", "yield_address"]

_MOST_ARGUMENTS = 12
# In words of 64 bits. The table begins with how many phases there are, how many threads were called, how many came, the
# addresses of the system's function that gives way and of that which numbers threads, and how many threads find
# something to do.
_HEAD = 6
_PHASE = 4  # how many tasks are done, how many there are, how many of them are not late, where they are
_TASK = 3 + _MOST_ARGUMENTS  # whether it is taken, a function, how many arguments it takes, and they


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
        self._phases: list[Phase] = [Phase()]
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
        phase = self._phases[-1]
        (phase.late if late else phase.tasks).append((function, arguments))

    def barrier(self) -> None:
        """What follows begins when all that was written down before is done."""
        if self._phases[-1].all:
            self._phases.append(Phase())
        self.kept.next_phase()
        self.scratch.next_phase()

    @functools.cached_property
    def _all_phases(self) -> list["Phase"]:
        # Changes nothing: several threads may follow a recipe for the first time at once.
        return [phase for phase in self._phases if phase.all]

    @functools.cached_property
    def threads(self) -> int:
        """Most tasks of a phase: more threads would find nothing to do."""
        return max((len(phase.all) for phase in self._all_phases), default=0)

    @functools.cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """The table as numbers to be added, and to what: which given number."""
        phases = self._all_phases
        words: list[Number] = [len(phases), 0, 0, yield_address(), threads.number_address(), self.threads]
        at = _HEAD + _PHASE * len(phases)
        for phase in phases:
            words += [0, len(phase.all), len(phase.tasks), Word(1, 8 * at)]
            at += _TASK * len(phase.all)
        for phase in phases:
            for function, arguments in phase.all:
                words += [0, function, len(arguments), *arguments]
                words += [0] * (_MOST_ARGUMENTS - len(arguments))
        words += self._tables

        def split(number: Number) -> tuple[int, int]:
            if not isinstance(number, Word):
                return number, 0
            return (8 * (at + number.plus), 1) if number.given < 0 else (number.plus, number.given)

        pairs = np.array([split(number) for number in words], np.int64).reshape(-1, 2)
        return pairs[:, 0].copy(), pairs[:, 1].copy()

    @functools.cached_property
    def _given(self) -> list[tuple[Any, bool]]:
        """The tensors in the order of their numbers, and whether any of their strides is read."""
        read = set(self._words[1].tolist())
        return [(key, not read.isdisjoint((5 + 3 * i, 6 + 3 * i))) for i, key in enumerate(self.tensors)]

    def place_in(self, table: Word) -> int:
        """Which word of a call's table of numbers a table of `table` begins at."""
        return len(self._words[0]) - len(self._tables) + table.plus

    def lay_out(self, tensors: Mapping[Any, Tensor], kept: Tensor | None = None) -> "Call":
        """A call on these tensors, ready to be made."""
        plus, which = self._words
        if kept is None and self.kept.size:
            kept = _block(self.kept.size)
        scratch = _block(self.scratch.size) if self.scratch.size else None
        words = np.empty(len(plus), np.int64)
        address = words.__array_interface__["data"][0]
        given = [0, address, 0 if kept is None else begin(kept), 0 if scratch is None else begin(scratch)]
        for key, strided in self._given:
            tensor = tensors[key]
            strides = tensor.stride() if strided else ()
            given += (tensor.data_ptr(), strides[0] if strides else 0, strides[1] if len(strides) > 1 else 1)
        np.take(np.array(given, np.int64), which, out=words)
        words += plus
        return Call(words, address, kept, scratch)

    def follow(self, tensors: Mapping[Any, Tensor], kept: Tensor | None = None) -> Tensor | None:
        """Do what is written down, on these tensors; returns the memory that is kept."""
        call = self.lay_out(tensors, kept)
        if self.threads:
            count = threads.count(self.threads)
            call.words[1] = count
            threads.together(_worker(), call.address, count)
        return call.kept


@dataclasses.dataclass
class Phase:
    """Tasks that do not wait for each other."""

    tasks: list[tuple[int, Sequence[Number]]] = dataclasses.field(default_factory=list)
    late: list[tuple[int, Sequence[Number]]] = dataclasses.field(default_factory=list)

    @property
    def all(self) -> list[tuple[int, Sequence[Number]]]:
        return self.tasks + self.late


@dataclasses.dataclass(frozen=True)
class Call:
    """A recipe on some tensors.

    Attributes:
        words: its table of numbers.
        address: where that is.
        kept, scratch: the blocks of memory.
    """

    words: np.ndarray
    address: int
    kept: Tensor | None
    scratch: Tensor | None


def _block(size: int) -> Tensor:
    return empty(size + 64, dtype=torch.uint8)


def begin(block: Tensor) -> int:
    """The first address of a block where a vector may begin."""
    address = block.data_ptr()
    return address + -address % 64


@functools.cache
def yield_address() -> int:
    """The system's function that lets others use the core; 0 where there is none of that name."""
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, AttributeError, TypeError):
        return 0


@functools.cache
def _worker() -> Callable[[int], None]:
    """The function that each thread runs: takes tasks of a phase until none is left, waits, goes on."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_machine_code().address("work"))


def again() -> int:
    """The address of ``again(words, _, _, team)``, which makes a call once more without any Python.

    ``words`` are a `Call`'s, ``team`` is what `threads.team` gives. What is between them stands where a kernel has its
    rows, so that one may be called in place of the other.
    """
    return _machine_code().address("again")


@functools.cache
def _machine_code() -> compilation.Library:
    name, numbers = compilation.host().pause
    declare = f"declare void @{name}({', '.join('i32' for _ in numbers)})" if name else ""
    pause = f"call void @{name}({', '.join(f'i32 {number}' for number in numbers)})" if name else ""
    cases = "\n".join(f"    i64 {n}, label %call{n}" for n in range(1, _MOST_ARGUMENTS + 1))
    calls = "\n".join(
        f"call{n}:\n  call void %function({', '.join(f'i64 %argument{i}' for i in range(n))})\n  br label %called"
        for n in range(1, _MOST_ARGUMENTS + 1)
    )
    loads = "\n".join(
        f"  %place{i} = getelementptr i64, ptr %task, i64 {i + 3}\n  %argument{i} = load i64, ptr %place{i}"
        for i in range(_MOST_ARGUMENTS)
    )
    text = f"""
{declare}
define void @work(ptr %words) {{
begin:
  %phases = load i64, ptr %words
  %team_place = getelementptr i64, ptr %words, i64 1
  %team = load i64, ptr %team_place
  %come_place = getelementptr i64, ptr %words, i64 2
  %yield_place = getelementptr i64, ptr %words, i64 3
  %yield = load ptr, ptr %yield_place
  %may_yield = icmp ne ptr %yield, null
  %numbers_place = getelementptr i64, ptr %words, i64 4
  %numbers = load ptr, ptr %numbers_place
  %numbered = icmp ne ptr %numbers, null
  br i1 %numbered, label %ask, label %count_self
ask:
  %asked = call i32 %numbers()
  %asked_number = zext i32 %asked to i64
  br label %start
count_self:
  %counted = atomicrmw add ptr %come_place, i64 1 monotonic
  br label %start
start:
  %come = phi i64 [ %asked_number, %ask ], [ %counted, %count_self ]
  %me = urem i64 %come, %team
  %some = icmp sgt i64 %phases, 0
  br i1 %some, label %phase, label %end
phase:
  %p = phi i64 [ 0, %start ], [ %p_next, %passed ]
  %p_offset = mul i64 %p, {_PHASE}
  %p_place = add i64 %p_offset, {_HEAD}
  %done = getelementptr i64, ptr %words, i64 %p_place
  %count_place = getelementptr i64, ptr %done, i64 1
  %early_place = getelementptr i64, ptr %done, i64 2
  %tasks_place = getelementptr i64, ptr %done, i64 3
  %count = load i64, ptr %count_place
  %early = load i64, ptr %early_place
  %tasks = load ptr, ptr %tasks_place
  %share = mul i64 %me, %early
  %own = udiv i64 %share, %team
  br label %next
next:
  ; The n-th to be looked at: the early ones from our own on and round, then the late ones.
  %n = phi i64 [ 0, %phase ], [ %n_next, %look_on ]
  %left = icmp slt i64 %n, %count
  br i1 %left, label %look, label %wait
look:
  %is_early = icmp slt i64 %n, %early
  %on = add i64 %own, %n
  %over = icmp sge i64 %on, %early
  %back = sub i64 %on, %early
  %round = select i1 %over, i64 %back, i64 %on
  %number = select i1 %is_early, i64 %round, i64 %n
  %task_offset = mul i64 %number, {_TASK}
  %task = getelementptr i64, ptr %tasks, i64 %task_offset
  %seen = load atomic i64, ptr %task monotonic, align 8
  %free = icmp eq i64 %seen, 0
  br i1 %free, label %try, label %look_on
try:
  %was = atomicrmw xchg ptr %task, i64 1 monotonic
  %ours = icmp eq i64 %was, 0
  br i1 %ours, label %take, label %look_on
take:
  %function_place = getelementptr i64, ptr %task, i64 1
  %function = load ptr, ptr %function_place
  %size_place = getelementptr i64, ptr %task, i64 2
  %size = load i64, ptr %size_place
{loads}
  switch i64 %size, label %called [
{cases}
  ]
{calls}
called:
  %before = atomicrmw add ptr %done, i64 1 acq_rel
  br label %look_on
look_on:
  %n_next = add i64 %n, 1
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

define void @again(ptr %words, i64 %unused, i64 %unused2, ptr %team) {{
begin:
  %phases = load i64, ptr %words
  %come_place = getelementptr i64, ptr %words, i64 2
  store i64 0, ptr %come_place
  br label %phase
phase:
  %p = phi i64 [ 0, %begin ], [ %p_next, %renewed ]
  %more = icmp slt i64 %p, %phases
  br i1 %more, label %renew, label %ready
renew:
  %p_offset = mul i64 %p, {_PHASE}
  %p_place = add i64 %p_offset, {_HEAD}
  %done = getelementptr i64, ptr %words, i64 %p_place
  store i64 0, ptr %done
  %count_place = getelementptr i64, ptr %done, i64 1
  %count = load i64, ptr %count_place
  %tasks_place = getelementptr i64, ptr %done, i64 3
  %tasks = load ptr, ptr %tasks_place
  br label %next
next:
  %n = phi i64 [ 0, %renew ], [ %n_next, %free ]
  %left = icmp slt i64 %n, %count
  br i1 %left, label %free, label %renewed
free:
  %task_offset = mul i64 %n, {_TASK}
  %task = getelementptr i64, ptr %tasks, i64 %task_offset
  store i64 0, ptr %task
  %n_next = add i64 %n, 1
  br label %next
renewed:
  %p_next = add i64 %p, 1
  br label %phase
ready:
  %team_place = getelementptr i64, ptr %words, i64 1
  %are_place = getelementptr i64, ptr %team, i64 0
  %are = load i64, ptr %are_place
  %some = icmp ne i64 %are, 0
  br i1 %some, label %ask, label %alone
ask:
  %asks_place = getelementptr i64, ptr %team, i64 1
  %asks = load ptr, ptr %asks_place
  %asked = call i32 %asks()
  %may = zext i32 %asked to i64
  %most_place = getelementptr i64, ptr %words, i64 5
  %most = load i64, ptr %most_place
  %fewer = icmp slt i64 %may, %most
  %threads = select i1 %fewer, i64 %may, i64 %most
  %several = icmp sgt i64 %threads, 1
  br i1 %several, label %together, label %alone
together:
  store i64 %threads, ptr %team_place
  %parallel_place = getelementptr i64, ptr %team, i64 2
  %parallel = load ptr, ptr %parallel_place
  %threads32 = trunc i64 %threads to i32
  call void %parallel(ptr @work, ptr %words, i32 %threads32, i32 0)
  ret void
alone:
  store i64 1, ptr %team_place
  call void @work(ptr %words)
  ret void
}}
"""
    return compilation.compile(text)
