"""A network imitates a black box that works on an external memory: a Turing machine of which it sees traces alone.

``machine.py`` reads machines, ``tape.py`` is what they work on, ``machines/`` holds some.
"""

from treadle.recipes.imitate.machine import BLANK, Action, Controller, Machine, parse_machine, read_machine
from treadle.recipes.imitate.tape import RandomTapes, Tape

__all__ = ["BLANK", "Action", "Controller", "Machine", "RandomTapes", "Tape", "parse_machine", "read_machine"]
