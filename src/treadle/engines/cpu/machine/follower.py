"""The machine code that follows a table of calls: threads take tasks of a phase until none is left, wait, and go on.

Threads find out among themselves who does what. A task is taken by writing into its head; of those that try at the same
time, one finds the zero that was there. Each thread begins with tasks of its own.
"""

import ctypes
import enum
import functools
from collections.abc import Callable, Mapping

from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.machine.call_table import MOST_ARGUMENTS, TASK_WORDS, Head, PhaseHead, TaskHead
from treadle.engines.cpu.machine.target import Target, host
from treadle.engines.cpu.machine.threads import Team

PATIENCE = 20_000
"""Pauses of a thread that waits for others, about a millisecond, after which it lets others use the core."""


@functools.cache
def work() -> Callable[[int], None]:
    """``work(table)``, the function that each thread runs."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_library().address("work"))


def again_address() -> int:
    """The address of ``again(table, _, _, team)``, which makes a call once more without any Python.

    What is between the table and the `threads.team` stands where a kernel has its rows, so that one may be called in
    place of the other.
    """
    return _library().address("again")


@functools.cache
def _library() -> compilation.Library:
    return compilation.compile(_text(host()))


def _text(target: Target) -> str:
    name, numbers = target.pause
    declare = f"declare void @{name}({', '.join('i32' for _ in numbers)})" if name else ""
    pause = f"call void @{name}({', '.join(f'i32 {number}' for number in numbers)})" if name else ""
    return f"""
{declare}
define void @work(ptr %words) {{
{_WHO_AM_I}
{_PHASE}
{_TAKE_A_TASK}
{_CALL}
{_WAIT_FOR_OTHERS.format(pause=pause)}
}}

define void @again(ptr %words, i64 %unused, i64 %unused2, ptr %team) {{
{_RENEW}
{_CALL_A_TEAM}
}}
"""


def _place(base: str, word: enum.IntEnum) -> str:
    """Compute the address of a word of a head."""
    return f"  %{word.name.lower()}_place = getelementptr i64, ptr %{base}, i64 {word}"


def _read(base: str, kinds: Mapping[enum.IntEnum, str]) -> str:
    """Read words of a head, under their names."""
    loads = (f"  %{word.name.lower()} = load {kind}, ptr %{word.name.lower()}_place" for word, kind in kinds.items())
    return "\n".join((*(_place(base, word) for word in kinds), *loads))


def _task(number: str) -> str:
    """Compute the address of a phase's task."""
    return f"""  %task_offset = mul i64 %{number}, {TASK_WORDS}
  %task = getelementptr i64, ptr %tasks, i64 %task_offset"""


_PHASE_OF_P = f"""  %p_offset = mul i64 %p, {len(PhaseHead)}
  %p_place = add i64 %p_offset, {len(Head)}
  %done = getelementptr i64, ptr %words, i64 %p_place"""

# work

_WHO_AM_I = f"""begin:
  %phases = load i64, ptr %words
{_read("words", {Head.TEAM: "i64"})}
{_place("words", Head.COME)}
{_read("words", {Head.YIELD: "ptr"})}
  %may_yield = icmp ne ptr %yield, null
{_read("words", {Head.NUMBERS: "ptr"})}
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
  br i1 %some, label %phase, label %end"""

_PHASE = f"""phase:
  %p = phi i64 [ 0, %start ], [ %p_next, %passed ]
{_PHASE_OF_P}
{_read("done", {PhaseHead.COUNT: "i64", PhaseHead.EARLY: "i64", PhaseHead.TASKS: "ptr"})}
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
  %number = select i1 %is_early, i64 %round, i64 %n"""

_TAKE_A_TASK = f"""{_task("number")}
  %seen = load atomic i64, ptr %task monotonic, align 8
  %free = icmp eq i64 %seen, 0
  br i1 %free, label %try, label %look_on
try:
  %was = atomicrmw xchg ptr %task, i64 1 monotonic
  %ours = icmp eq i64 %was, 0
  br i1 %ours, label %take, label %look_on"""


def _call() -> str:
    """Call a task's function: a case for each number of arguments."""
    loads = "\n".join(
        f"  %place{i} = getelementptr i64, ptr %task, i64 {i + len(TaskHead)}\n  %argument{i} = load i64, ptr %place{i}"
        for i in range(MOST_ARGUMENTS)
    )
    sizes = range(1, MOST_ARGUMENTS + 1)
    cases = "\n".join(f"    i64 {n}, label %call{n}" for n in sizes)
    calls = "\n".join(
        f"call{n}:\n  call void %function({', '.join(f'i64 %argument{i}' for i in range(n))})\n  br label %called"
        for n in sizes
    )
    return f"""take:
{_read("task", {TaskHead.FUNCTION: "ptr"})}
{_read("task", {TaskHead.SIZE: "i64"})}
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
  br label %next"""


_CALL = _call()

_WAIT_FOR_OTHERS = f"""wait:
  %spins = phi i64 [ 0, %next ], [ %spins_next, %again ], [ 0, %give_way ]
  %finished = load atomic i64, ptr %done acquire, align 8
  %ready = icmp sge i64 %finished, %count
  br i1 %ready, label %passed, label %again
again:
  {{pause}}
  %spins_next = add i64 %spins, 1
  %long = icmp sgt i64 %spins_next, {PATIENCE}
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
  ret void"""

# again: nobody has come, no task is taken, none is done; then as many threads as PyTorch has now.

_RENEW = f"""begin:
  %phases = load i64, ptr %words
{_place("words", Head.COME)}
  store i64 0, ptr %come_place
  br label %phase
phase:
  %p = phi i64 [ 0, %begin ], [ %p_next, %renewed ]
  %more = icmp slt i64 %p, %phases
  br i1 %more, label %renew, label %ready
renew:
{_PHASE_OF_P}
  store i64 0, ptr %done
{_read("done", {PhaseHead.COUNT: "i64"})}
{_read("done", {PhaseHead.TASKS: "ptr"})}
  br label %next
next:
  %n = phi i64 [ 0, %renew ], [ %n_next, %free ]
  %left = icmp slt i64 %n, %count
  br i1 %left, label %free, label %renewed
free:
{_task("n")}
  store i64 0, ptr %task
  %n_next = add i64 %n, 1
  br label %next
renewed:
  %p_next = add i64 %p, 1
  br label %phase"""

_CALL_A_TEAM = f"""ready:
{_place("words", Head.TEAM)}
{_read("team", {Team.ARE: "i64"})}
  %some = icmp ne i64 %are, 0
  br i1 %some, label %ask, label %alone
ask:
{_read("team", {Team.ASKS: "ptr"})}
  %asked = call i32 %asks()
  %may = zext i32 %asked to i64
{_read("words", {Head.MOST: "i64"})}
  %fewer = icmp slt i64 %may, %most
  %threads = select i1 %fewer, i64 %may, i64 %most
  %several = icmp sgt i64 %threads, 1
  br i1 %several, label %together, label %alone
together:
  store i64 %threads, ptr %team_place
{_read("team", {Team.PARALLEL: "ptr"})}
  %threads32 = trunc i64 %threads to i32
  call void %parallel(ptr @work, ptr %words, i32 %threads32, i32 0)
  ret void
alone:
  store i64 1, ptr %team_place
  call void @work(ptr %words)
  ret void"""
