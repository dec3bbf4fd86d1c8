"""Text as streams of words of any length, split into a training set and a held-out part."""

import dataclasses
import os

import torch
from torch import Tensor

from treadle.errors import ShapeError
from treadle.streams import Vocabulary, WordFile
from treadle.streams.word_file import border
from treadle.training.text import HELD_OUT, refuse_network

LEAST = 128
"""Words that the held-out text needs at least, for a score that says something; and a row that is scored."""

COUNTED = 1 << 21
"""Words of the training set that say how frequent each one is."""


@dataclasses.dataclass(frozen=True)
class WordText:
    """A text of words in two parts, which may be larger than the memory.

    Attributes:
        name: its name in messages.
        training: the training set.
        held_out: the held-out text, with the same vocabulary.
    """

    name: str
    training: WordFile
    held_out: WordFile

    @property
    def vocabulary(self) -> Vocabulary:
        """The words of the training set."""
        return self.training.vocabulary

    def log_frequencies(self) -> Tensor:
        """The natural logarithm of how frequent each word is in the training set, float64 [V]; none is impossible."""
        counts, left = torch.ones(len(self.vocabulary), dtype=torch.float64), COUNTED
        for piece in self.training.pieces():
            counts += torch.bincount(torch.from_numpy(piece.x), minlength=len(counts))
            left -= len(piece.x)
            if left <= 0:
                break
        return (counts / counts.sum()).log()

    def check_length(self, rows: int, window: int) -> None:
        """Refuse a text that is too short for windows of ``window`` words in ``rows`` rows.

        Raises:
            ShapeError: with the arithmetic.
        """
        learned = rows * (window + 1)
        if self.training.length < learned or self.held_out.length < LEAST:
            raise ShapeError(
                f"{self.name} has {self.training.length:,} words for training and {self.held_out.length:,} held out,"
                f" but {rows} rows x ({window} words + 1) = {learned:,} and {LEAST} are needed"
            )


def read_words(path: str | os.PathLike[str], vocabulary: Vocabulary | int) -> WordText:
    """A file as a text of words. Its last tenth is held out.

    Args:
        path: a text in UTF-8, of any size; see `treadle.streams.Vocabulary` for what a word is.
        vocabulary: the vocabulary; or the size of one, which is counted in the training set.

    Raises:
        OSError: it cannot be read.
        ShapeError: it is empty, or the vocabulary would be.
        DataError: it is not UTF-8, or has no white space, or is a pipe or a device, or a saved network.

    Example:
        >>> import pathlib
        >>> from treadle.training import read_words
        >>> _ = pathlib.Path("long.txt").write_text("now is the time for all good men to come\\n" * 1000)
        >>> text = read_words("long.txt", 10_000)
        >>> text.training.length, text.held_out.length, len(text.vocabulary)
        (9900, 1100, 12)
    """
    refuse_network(path)
    whole = os.stat(path).st_size
    if not whole:
        raise ShapeError(f"{path} is empty: pass a text file")
    cut = border(path, whole - whole // HELD_OUT)
    # Not called by their path, so that a run is resumed with a file that was moved.
    training = WordFile(path, vocabulary, stop=cut, id="text")
    return WordText(str(path), training, WordFile(path, training.vocabulary, start=cut, id="held out"))
