"""What treadle is measured against, one a file. A peer that is not installed takes no part."""

from importlib import import_module
from types import ModuleType


class Unavailable(Exception):
    """The peer takes no part, for the reason given."""


def load(name: str) -> ModuleType:
    """The module of a peer.

    Raises:
        Unavailable: what it needs is not installed.
    """
    try:
        return import_module(f"benchmarks.peers.{name}")
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed: make bench does it") from error
