"""A network imitates a black box that works on an external memory: a Turing machine of which it sees traces alone.

``machine.py`` reads machines, ``tape.py`` is what they work on, ``imitation.py`` learns one and judges; ``machines/``
holds some.
"""

from treadle.recipes.imitate.imitation import (
    Imitated,
    Judgement,
    Settings,
    check_imitates,
    demonstrations,
    imitator,
    judge,
    learn,
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
    "BLANK", "MACHINES", "Action", "Controller", "Imitated", "Judgement", "Machine", "RandomTapes", "Settings",
    "Tape", "check_imitates", "demonstrations", "find_machine", "imitator", "judge", "learn", "parse_machine",
    "read_machine", "same_run",
]  # fmt: skip
