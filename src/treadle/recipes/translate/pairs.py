"""Pairs of strings: a line each, ``SOURCE<TAB>TARGET``, in UTF-8."""

import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from treadle.atomic import regular
from treadle.errors import DataError

MOST_CHARACTERS = 2_000
"""Of a source or a target. The decoder runs a step for each token, and attention compares all with all."""


class Pair(NamedTuple):
    """A source and its target."""

    source: str
    target: str


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a file.

    Raises:
        DataError: a line is no pair, with its number; or there are none.
        OSError: the file cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from treadle.recipes.translate import read_pairs
        >>> _ = Path("pairs.tsv").write_text("3rd of March 1998\\t1998-03-03\\n")
        >>> read_pairs("pairs.tsv")
        [Pair(source='3rd of March 1998', target='1998-03-03')]
    """
    pairs = []
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        parts = line.split("\t")
        if len(parts) != 2:
            what = "is empty" if not line.strip() else "has no tab" if len(parts) == 1 else f"has {len(parts) - 1} tabs"
            raise DataError(f"{where} {what}: a line is a source, one tab and its target")
        for part, text in zip(("source", "target"), parts, strict=True):
            if not text.strip():
                raise DataError(f"{where}: its {part} is empty; leave the line out, or write what is meant")
            check_length(text, f"{where}: its {part}")
        pairs.append(Pair(*parts))
    if not pairs:
        raise DataError(f"{path} is empty: it needs pairs, a line each, SOURCE<TAB>TARGET")
    return pairs


def read_sources(path: str | os.PathLike[str]) -> tuple[list[str], list[str] | None]:
    """Sources to translate, one per line, and the targets if every line has one after a tab.

    Args:
        path: the file; ``"-"`` is standard input.

    Raises:
        DataError: a line is empty or not text; there are no lines.
        OSError: the file cannot be read.
    """
    sources, targets = [], []
    name = "standard input" if str(path) == "-" else str(path)
    for number, line in lines_of(path):
        source, *rest = line.split("\t")
        if not source.strip():
            raise DataError(f"{name}, line {number} is empty: there is nothing to translate")
        check_length(source, f"{name}, line {number}")
        sources.append(source)
        targets += rest[:1]
    if not sources:
        raise DataError(f"{name} is empty: it needs sources, a line each")
    return sources, targets if len(targets) == len(sources) else None


FEWEST, REPEATED = 3, 3
"""Sides are taken for words where a line has so many in the mean, and each word comes so often."""


def words_of(pairs: Sequence[Pair]) -> tuple[int, int] | None:
    """How many different words the sources and the targets have, if both look like words; else None.

    Example:
        >>> from treadle.recipes.translate.pairs import Pair, words_of
        >>> words_of([Pair("go left twice", "left left stop"), Pair("go right now", "right right stop")] * 9)
        (5, 3)
        >>> words_of([Pair("3rd of March 1998", "1998-03-03")] * 9)
    """
    counts = []
    for side in zip(*pairs, strict=True):
        words = [word for text in side for word in text.split()]
        counts.append(len(set(words)))
        if len(words) < max(FEWEST * len(side), REPEATED * counts[-1]):
            return None
    return counts[0], counts[1]


def check_length(text: str, what: str) -> None:
    """Refuse what is too long to be one of many short strings."""
    if len(text) > MOST_CHARACTERS:
        raise DataError(
            f"{what} has {len(text):,} characters, more than {MOST_CHARACTERS:,}: cut it into parts that can be"
            " translated one by one"
        )


def lines_of(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Lines of UTF-8 with their numbers, without their ends."""
    data = sys.stdin.buffer.read() if str(path) == "-" else Path(regular(path)).read_bytes()
    name = "standard input" if str(path) == "-" else str(path)
    data = data.removeprefix(b"\xef\xbb\xbf")
    # Not str.splitlines: U+2028 and others are characters like any here.
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, start=1):
        try:
            yield number, line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{name}, line {number} is not UTF-8 ({error.reason}): convert the file") from None


VALIDATION = 0.1
"""Share of the sources that the validation set has, unless another is asked for."""


def split(pairs: Sequence[Pair], share: float, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Training and validation set; a share of the different sources (at least one) is in the validation set alone.

    Raises:
        DataError: there are not two different sources.
    """
    sources = sorted({pair.source for pair in pairs})
    if len(sources) < 2:
        raise DataError(
            "there is one source only, so none is left for the validation set: pass pairs of at least two different"
            " sources"
        )
    random.Random(seed).shuffle(sources)
    held_out = set(sources[: min(max(round(share * len(sources)), 1), len(sources) - 1)])
    return [p for p in pairs if p.source not in held_out], [p for p in pairs if p.source in held_out]
