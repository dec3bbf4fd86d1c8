"""The name of a tensor among the given weights, from the name of one in the network and what a rule has written."""

import re
from collections.abc import Collection

from treadle.adapt.patterns import close_to, stands_for
from treadle.errors import AdaptError

_NUMBER = re.compile(r"\{(\d+)\}")


def source_name(name: str, pattern: str, written: str | None) -> str:
    """The name that is meant: stars stand for what those of the pattern stand for, by order or by number.

    Raises:
        AdaptError: it is not known what they stand for.
    """
    if written is None:
        return name
    found = stands_for(pattern, name) or ()
    stars = pattern.count("*")
    groups, rest = found[:stars], "".join(found[stars:])  # a part was named: what is in it goes by its own name
    numbers = [int(number) for number in _NUMBER.findall(written)]
    if numbers:
        if "*" in written or not all(1 <= number <= stars for number in numbers):
            raise AdaptError(
                f"source={written!r} numbers the * of the pattern {pattern!r}: write {{1}} to {{{stars}}}, and no *"
            )
        return _NUMBER.sub(lambda number: groups[int(number[1]) - 1], written) + rest
    if rest and written.endswith("*") and written.count("*") == stars + 1:
        written = written.removesuffix("*").removesuffix(".")
    count = written.count("*")
    if count > stars:
        raise AdaptError(
            f"source={written!r} has more * than the pattern {pattern!r}, so it is not known what they stand for"
        )
    if 0 < count < stars:
        raise AdaptError(
            f"source={written!r} has fewer * than the pattern {pattern!r}, so it is not known which of them are meant:"
            f" number them, {{1}} is the first, as in {_numbered(written)!r}"
        )
    parts = written.split("*")
    return "".join(part + group for part, group in zip(parts, (*groups[:count], ""), strict=True)) + rest


def meant(source: str, name: str, pattern: str, written: str | None, given: Collection[str]) -> str:
    """What somebody may have meant where there is no such tensor, to go behind a message."""
    if written is not None and pattern.count("*") == written.count("*") == 2:
        other = _numbered(written, (2, 1))
        if source_name(name, pattern, other) in given:
            return f": did you mean {other!r}, with the second * of the pattern first?"
    return close_to(source, given)


def _numbered(written: str, numbers: Collection[int] | None = None) -> str:
    """A name with numbers in the place of its stars."""
    parts = written.split("*")
    order = numbers or range(1, len(parts))
    return "".join(part + number for part, number in zip(parts, (*(f"{{{n}}}" for n in order), ""), strict=True))
