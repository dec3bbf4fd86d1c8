"""Changing a trained network. ``online.py`` learns while it runs, one step at a time."""

from treadle.adapt.online import Online

__all__ = ["Online"]
