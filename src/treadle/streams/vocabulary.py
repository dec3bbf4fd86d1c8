"""Text as tokens: characters, or words between spaces."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.errors import DataError, ShapeError

UNITS = ("characters", "words")
UNKNOWN = "<unk>"
"""How the unknown symbol is written. Corpora such as the Penn Treebank have it in their text, where it is the same."""

MOST_COUNTED = 1 << 20
"""Different symbols that are counted at a time, which is some 100 MB of words."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text and their tokens, which are whole numbers.

    Words are what white space separates, as in the usual word-level benchmarks; each end of a line is a word as well
    (``"\\n"``). Punctuation is part of its word, unless the text has spaces around it.

    Args:
        symbols: in the order of their tokens.
        unit: ``"characters"`` or ``"words"``.
        unknown: the symbol, one of them, in whose place all stand that are not among them; without it, `encode`
            refuses these.
        first: the token of the first symbol; those below are left to the caller, for a start or an end.

    Example:
        >>> import treadle as td
        >>> vocabulary = td.streams.Vocabulary.of(["the cat and the dog\\n"], "words", size=4)
        >>> vocabulary.symbols
        ('<unk>', 'the', '\\n', 'and')
        >>> vocabulary.encode("the bird and\\nthe cat")
        tensor([1, 0, 3, 2, 1, 0])
        >>> vocabulary.decode([1, 0, 3, 2, 1])
        'the <unk> and\\nthe'
    """

    symbols: tuple[str, ...]
    unit: str = "characters"
    unknown: str | None = None
    first: int = 0

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"there is no unit {self.unit!r}: choose one of {', '.join(UNITS)}")
        if self.unknown is not None and self.unknown not in self.symbols:
            raise ValueError(f"the unknown symbol {self.unknown!r} has no token: add it to the symbols")

    @classmethod
    def of(
        cls, texts: Iterable[str], unit: str = "characters", *, size: int | None = None, first: int = 0
    ) -> "Vocabulary":
        """The vocabulary of some texts, which are read once, one after another.

        Args:
            texts: any number; no symbol goes from one to the next.
            unit: ``"characters"`` or ``"words"``.
            size: how many symbols at most: the most frequent, in that order, behind an unknown one. Without it, all
                symbols in their alphabetical order, and none is unknown.
            first: the token of the first symbol.

        Counting takes constant memory: each time that there are a million different symbols, the rarer half is
        forgotten, so that counts of rare symbols may be too low, as in lossy counting (Manku and Motwani, *Approximate
        Frequency Counts over Data Streams*, 2002).

        Raises:
            ShapeError: a size that has no place for a symbol beside the unknown one.
        """
        return vocabulary_of((symbols_of(text, unit) for text in texts), unit, size, first)

    def __len__(self) -> int:
        """Tokens, those of the caller included."""
        return self.first + len(self.symbols)

    @kept_property
    def _tokens(self) -> dict[str, int]:
        return {symbol: token for token, symbol in enumerate(self.symbols, start=self.first)}

    @property
    def unknown_token(self) -> int | None:
        """The token of the unknown symbol; None if there is none."""
        return None if self.unknown is None else self._tokens[self.unknown]

    def encode(self, text: str, where: str = "") -> Tensor:
        """Tokens of a text, int64 [N].

        Raises:
            DataError: a symbol that is not in the vocabulary, which has no unknown one; ``where`` goes before.
        """
        return torch.from_numpy(self.tokens(symbols_of(text, self.unit), where))

    def tokens(self, symbols: Sequence[str], where: str = "") -> np.ndarray:
        """Tokens of symbols, int64 [N]; otherwise as `encode`."""
        find, unknown = self._tokens.get, self.unknown_token
        if unknown is None:
            strange = next((symbol for symbol in symbols if symbol not in self._tokens), None)
            if strange is not None:
                knows = self._joint.join(self.symbols)
                knows = knows if len(knows) <= 200 else f"{knows[:200]}… ({len(self.symbols):,} {self.unit})"
                said = self._joint.join(symbols)
                raise DataError(
                    f"{where}{said[:60]!r} has {strange!r}, which was nowhere in the training set; it knows: {knows}"
                )
        return np.fromiter((find(symbol, unknown) for symbol in symbols), np.int64, len(symbols))

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """The text of tokens, without those of the caller: words have a space between them, and none around line ends.

        Raises:
            ValueError: a number that is no token.
        """
        numbers = [int(token) for token in tokens]
        if not all(0 <= number < len(self) for number in numbers):
            raise ValueError(f"tokens are 0 to {len(self) - 1}, but {min(numbers)} to {max(numbers)} were passed")
        text = self._joint.join(self.symbols[number - self.first] for number in numbers if number >= self.first)
        return text.replace(" \n", "\n").replace("\n ", "\n") if self.unit == "words" else text

    @property
    def _joint(self) -> str:
        return "" if self.unit == "characters" else " "

    def as_json(self) -> dict[str, Any]:
        """For a file, such as the ``notes`` of `treadle.save`."""
        found = {"symbols": list(self.symbols), "unit": self.unit}
        return found if self.unknown is None else found | {"unknown": self.unknown}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], first: int = 0) -> "Vocabulary":
        """The inverse of `as_json`; nothing that a file says is run.

        Raises:
            ValueError: it is something else, or two symbols are the same.
        """
        symbols = values.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise ValueError("symbols")
        if len(set(symbols)) != len(symbols):
            raise ValueError("symbols that are the same")
        return cls(tuple(symbols), str(values.get("unit")), values.get("unknown"), first)


def symbols_of(text: str, unit: str) -> Sequence[str]:
    """What a text is made of."""
    if unit == "characters":
        return text
    first, *lines = text.split("\n")
    found = first.split()
    for line in lines:
        found.append("\n")
        found += line.split()
    return found


def vocabulary_of(parts: Iterable[Sequence[str]], unit: str, size: int | None = None, first: int = 0) -> Vocabulary:
    """The vocabulary of a text that is taken apart already; the arguments are those of `Vocabulary.of`."""
    if size is None:
        return Vocabulary(tuple(sorted({one for part in parts for one in part})), unit, first=first)
    if size < 2:
        raise ShapeError(f"a vocabulary has the unknown symbol and at least one more, but size={size} was passed")
    counts: collections.Counter[str] = collections.Counter()
    most = max(MOST_COUNTED, 8 * size)
    for part in parts:
        counts.update(part)
        if len(counts) > most:
            counts = collections.Counter(dict(counts.most_common(most // 2)))
    counts.pop(UNKNOWN, None)
    order = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    return Vocabulary((UNKNOWN, *order[: size - 1]), unit, UNKNOWN, first)
