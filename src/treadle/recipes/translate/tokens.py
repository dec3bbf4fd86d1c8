"""Strings as tokens: characters, or words between spaces."""

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.errors import DataError

START, END = 0, 1
"""The tokens before the first and behind the last."""
FIRST = 2
"""The token of the first symbol."""
UNITS = ("characters", "words")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of one side of the pairs: its symbols and their tokens.

    Attributes:
        symbols: in the order of their tokens, which begin at 2.
        unit: ``"characters"`` or ``"words"`` (separated by spaces).

    Example:
        >>> from treadle.recipes.translate import Vocabulary
        >>> vocabulary = Vocabulary.of(["abba", "cab"])
        >>> vocabulary.decode(vocabulary.encode("bac"))
        'bac'
    """

    symbols: tuple[str, ...]
    unit: str = "characters"

    @classmethod
    def of(cls, texts: Iterable[str], unit: str = "characters") -> "Vocabulary":
        """The vocabulary of some texts."""
        return cls(tuple(sorted({symbol for text in texts for symbol in symbols_of(text, unit)})), unit)

    @kept_property
    def _tokens(self) -> dict[str, int]:
        return {symbol: token for token, symbol in enumerate(self.symbols, start=FIRST)}

    @property
    def _joint(self) -> str:
        return "" if self.unit == "characters" else " "

    def __len__(self) -> int:
        return FIRST + len(self.symbols)

    def encode(self, text: str, where: str = "") -> Tensor:
        """Tokens of a text, without start and end.

        Raises:
            DataError: a symbol that is not in it; ``where`` the text is goes before.
        """
        found = symbols_of(text, self.unit)
        strange = next((symbol for symbol in found if symbol not in self._tokens), None)
        if strange is not None:
            knows = self._joint.join(self.symbols)
            knows = knows if len(knows) <= 200 else f"{knows[:200]}… ({len(self.symbols):,} {self.unit})"
            raise DataError(
                f"{where}{text[:60]!r} has {strange!r}, which was nowhere in the training set; it knows: {knows}"
            )
        return torch.tensor([self._tokens[symbol] for symbol in found], dtype=torch.long)

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """The text of tokens, without start and end."""
        return self._joint.join(self.symbols[int(token) - FIRST] for token in tokens if int(token) >= FIRST)


def symbols_of(text: str, unit: str) -> Sequence[str]:
    """What a text is made of."""
    return text if unit == "characters" else text.split()
