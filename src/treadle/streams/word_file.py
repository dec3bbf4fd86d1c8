"""A text file of any size as a stream of words."""

import bisect
import os
from collections.abc import Iterator, Sequence

from treadle.atomic import regular
from treadle.errors import DataError
from treadle.streams.files import read_at
from treadle.streams.stream import PIECE_BYTES, Piece
from treadle.streams.vocabulary import Vocabulary, symbols_of, vocabulary_of

LONGEST_WORD = 1 << 20
"""Bytes without white space after which a file counts as no text of words."""
SPACES = (b" ", b"\n", b"\t", b"\r")
"""What a piece of the file may end after. None of them is ever a part of another character in UTF-8."""


class WordFile:
    """The words of a text file in UTF-8, of any size, as tokens of a vocabulary; see `Vocabulary` for what a word is.

    The file is read through once when the stream is made, in constant memory: words are counted, and where every few
    thousandth of them lies is noted, so that reading can begin at any word.

    Args:
        path: the file.
        vocabulary: the vocabulary; or the size of one, which is then counted in this file.
        start: the byte at which the stream begins, such as what `border` gives.
        stop: the byte before which it ends; ``None`` for the file's end.
        id: the stream's name; the path unless given.

    Attributes:
        vocabulary: the vocabulary.
        length: words.
        characters: Unicode characters, white space included.

    Raises:
        OSError: the file cannot be read.
        DataError: it is not UTF-8, or has no white space for a megabyte, or became shorter while it was read.
        ShapeError: a vocabulary of less than two words.

    Example:
        >>> import pathlib, treadle as td
        >>> _ = pathlib.Path("rhyme.txt").write_text("one two\\nbuckle my shoe\\nthree four\\n")
        >>> text = td.streams.WordFile("rhyme.txt", vocabulary=100)
        >>> text.length, len(text.vocabulary)
        (10, 9)
        >>> text.vocabulary.decode(next(text.pieces(3)).x)
        'buckle my shoe\\nthree four\\n'
    """

    has_targets = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        vocabulary: Vocabulary | int,
        *,
        start: int = 0,
        stop: int | None = None,
        id: str | None = None,
    ):
        self.path = os.fspath(path)
        self.id = self.path if id is None else str(id)
        with open(regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
        self.start, self.stop = start, size if stop is None else min(stop, size)
        self.length, self.characters = 0, 0
        self._words: list[int] = []  # the number of the first word of each piece of the file
        self._bytes: list[int] = []  # and where that piece begins
        if isinstance(vocabulary, Vocabulary):
            self.vocabulary = vocabulary
            for _ in self._scanned():
                pass
        else:
            self.vocabulary = vocabulary_of(self._scanned(), "words", vocabulary)

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its tokens from word ``start`` on, int64 [n]."""
        place = bisect.bisect_right(self._words, start) - 1
        if place < 0 or start >= self.length:
            return
        surplus = start - self._words[place]
        for _, text in _texts(self.path, self._bytes[place], self.stop):
            tokens = self.vocabulary.tokens(symbols_of(text, "words"))
            if surplus < len(tokens):
                yield Piece(tokens[surplus:])
            surplus = max(surplus - len(tokens), 0)

    def _scanned(self) -> Iterator[Sequence[str]]:
        """All words, while it is noted where they are."""
        for at, text in _texts(self.path, self.start, self.stop):
            self._words.append(self.length)
            self._bytes.append(at)
            words = symbols_of(text, "words")
            self.length += len(words)
            self.characters += len(text)
            yield words


def border(path: str | os.PathLike[str], at: int) -> int:
    """The first byte from ``at`` on that follows white space; the file's size if there is none."""
    size = os.stat(path).st_size
    while 0 < at < size:
        data = read_at(os.fspath(path), at - 1, min(PIECE_BYTES, size - at + 1)).tobytes()
        places = [place for space in SPACES if (place := data.find(space)) >= 0]
        if places:
            return at + min(places)
        at += len(data)
    return min(at, size)


def _texts(path: str, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """A part of a file in pieces of whole words, each with where it begins."""
    rest, at = b"", start  # what was read from `at` on and has not been given yet
    while at + len(rest) < stop:
        begin = at + len(rest)
        data = rest + read_at(path, begin, min(PIECE_BYTES, stop - begin)).tobytes()
        end = len(data) if at + len(data) >= stop else max(data.rfind(space) + 1 for space in SPACES)
        if not end and len(data) > LONGEST_WORD:
            raise DataError(
                f"{path} has no white space in {len(data):,} bytes from byte {at:,} on: words need a text with spaces"
            )
        rest = data[end:]
        if end:
            yield at, _decoded(path, at, data[:end])
            at += end


def _decoded(path: str, at: int, data: bytes) -> str:
    try:
        return (data.removeprefix(b"\xef\xbb\xbf") if at == 0 else data).decode()
    except UnicodeDecodeError as error:
        where = at + error.start + (3 if at == 0 and data.startswith(b"\xef\xbb\xbf") else 0)
        raise DataError(
            f"{path} is not UTF-8 at byte {where:,} ({error.reason}): words need a text, so convert the file"
        ) from None
