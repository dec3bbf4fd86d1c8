"""The engine that defines what is meant: the cell's own Python, one step after another."""

from treadle.engines.reference.loop import run

__all__ = ["run"]
