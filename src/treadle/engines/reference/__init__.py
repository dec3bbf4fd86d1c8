"""The engine that defines what is meant: the cell's own Python, one step after another."""

from treadle.engines.engine import Engine
from treadle.engines.reference.loop import run

__all__ = ["Reference", "run"]


class Reference(Engine):
    """Takes every cell, and has no use for a program."""

    name = "reference"
    by_program = False
