"""Tables of calls: what a recipe looks like to the machine code that follows it, in words of 64 bits.

A `Head`, a `PhaseHead` for each phase, then all tasks: for each a `TaskHead` and room for `MOST_ARGUMENTS`.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import NamedTuple

from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.machine.arena import Given, Number, Word

MOST_ARGUMENTS = 13
"""Arguments that a task can have."""


class Head(enum.IntEnum):
    """What a table begins with."""

    PHASES = 0
    TEAM = 1  # how many threads were called
    COME = 2  # how many came, where nothing numbers them
    YIELD = 3  # `threads.yield_address`
    NUMBERS = 4  # `threads.Team.NUMBER`
    MOST = 5  # how many threads find something to do


class PhaseHead(enum.IntEnum):
    """What is said of a phase."""

    DONE = 0  # how many of its tasks are done
    COUNT = 1  # how many there are
    EARLY = 2  # how many of them are not late
    TASKS = 3  # the address of the first


class TaskHead(enum.IntEnum):
    """What is said of a task; its arguments are behind it."""

    TAKEN = 0  # whether a thread has it
    FUNCTION = 1  # the address of what is called
    SIZE = 2  # how many arguments there are


TASK_WORDS = len(TaskHead) + MOST_ARGUMENTS
WORD_BYTES = 8


class Task(NamedTuple):
    """A call: the address of a function of 64-bit integers and pointers, and its arguments."""

    function: int
    arguments: Sequence[Number]


@dataclasses.dataclass
class Phase:
    """Tasks that do not wait for each other."""

    tasks: list[Task] = dataclasses.field(default_factory=list)
    late: list[Task] = dataclasses.field(default_factory=list)

    @property
    def all(self) -> list[Task]:
        """The tasks in the order in which they are begun."""
        return self.tasks + self.late


def written(phases: Sequence[Phase]) -> list[Number]:
    """The table, with as many threads and addresses as this process has now."""
    words: list[Number] = [0] * len(Head)
    words[Head.PHASES], words[Head.MOST] = len(phases), max((len(phase.all) for phase in phases), default=0)
    words[Head.YIELD], words[Head.NUMBERS] = threads.yield_address(), threads.team()[threads.Team.NUMBER]
    first = len(Head) + len(PhaseHead) * len(phases)
    for phase in phases:
        words += [0, len(phase.all), len(phase.tasks), Word(Given.CALLS, WORD_BYTES * first)]
        first += TASK_WORDS * len(phase.all)
    for phase in phases:
        for task in phase.all:
            words += [0, task.function, len(task.arguments), *task.arguments]
            words += [0] * (MOST_ARGUMENTS - len(task.arguments))
    return words
