"""Patterns that name parameters and parts of a network: ``"head"``, ``"layers.*.weight"``."""

import difflib
import re
from collections.abc import Collection, Iterable

from treadle.errors import AdaptError


def stands_for(pattern: str, name: str) -> tuple[str, ...] | None:
    """What each ``*`` of a pattern stands for in a name, and the rest of the name behind it; None if it has another."""
    expression = "(.*)".join(map(re.escape, pattern.split("*")))
    found = re.fullmatch(expression, name) or re.fullmatch(expression + r"(\..*)", name)
    return None if found is None else found.groups()


def names_it(pattern: str, name: str) -> bool:
    """Whether a pattern names a thing: by its whole name, with wildcards, or as the part of the network it lies in."""
    return stands_for(pattern, name) is not None


def chosen(patterns: Iterable[str] | str, names: Collection[str], what: str = "parameter") -> dict[str, list[str]]:
    """The names that each pattern names, in their own order; one that names nothing is refused, as a slip."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise AdaptError(f"a pattern is a text such as 'head' or '*.bias', but {pattern!r:.60} was passed")
        found[pattern] = [name for name in names if names_it(pattern, name)]
        if not found[pattern]:
            raise AdaptError(f"{pattern!r} names no {what} of this network{close_to(pattern, names)}")
    return found


def close_to(name: str, names: Collection[str]) -> str:
    """What somebody may have meant, to go behind a message."""
    parts = dict.fromkeys(".".join(whole.split(".")[:k]) for whole in names for k in range(1, whole.count(".") + 2))
    tails = {part.rpartition(".")[2]: part for part in reversed(parts)} | {part: part for part in parts}
    near = difflib.get_close_matches(name, tails, 1, 0.6)
    if near:
        return f": did you mean {tails[near[0]]!r}?"
    return f": its names are such as {next(iter(names))!r}" if names else ": it has none"
