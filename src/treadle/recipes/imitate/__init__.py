"""Imitation: a closed loop learns to act as a Turing machine, a black box with an external memory, from traces alone.

``machine.py`` reads machines, ``tape.py`` is their memory, ``imitation.py`` trains and evaluates; ``machines/`` holds
the bundled ones.
"""

from treadle.recipes.imitate.imitation import (
    Imitated,
    Judgement,
    Learning,
    Settings,
    check_imitates,
    demonstrations,
    imitator,
    judge,
    same_run,
)
from treadle.recipes.imitate.machine import (
    BLANK,
    MACHINES,
    Action,
    Controller,
    Machine,
    find_machine,
    parse_machine,
    read_machine,
)
from treadle.recipes.imitate.tape import RandomTapes, Tape

__all__ = [
    "BLANK", "MACHINES", "Action", "Controller", "Imitated", "Judgement", "Learning", "Machine", "RandomTapes",
    "Settings", "Tape", "check_imitates", "demonstrations", "find_machine", "imitator", "judge", "parse_machine",
    "read_machine", "same_run",
]  # fmt: skip
