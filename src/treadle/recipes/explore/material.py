"""What small networks learn and what the page shows them read: letters of a text, or columns of a table."""

import collections
import dataclasses
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.atomic import regular
from treadle.data.table_file import TableFile
from treadle.errors import DataError, ShapeError

MOST_LETTERS = 64
"""Letters that are told apart; the rarest of a text with more are one."""
MOST_BYTES = 1 << 20
OTHER = "\N{REPLACEMENT CHARACTER}"


@dataclasses.dataclass(frozen=True)
class Letters:
    """A text as numbers of letters.

    Args:
        text: all of it.
        alphabet: its letters, in the order of their numbers.
    """

    text: str
    alphabet: str
    features = None

    @property
    def numbers(self) -> Tensor:
        """[N]."""
        places = {letter: place for place, letter in enumerate(self.alphabet)}
        return torch.tensor([places.get(letter, places.get(OTHER, 0)) for letter in self.text])

    @property
    def output_size(self) -> int:
        """Letters that are scored."""
        return len(self.alphabet)

    def inputs(self) -> tuple[Tensor, Tensor]:
        """What is read at each step, and what is to be predicted there."""
        numbers = self.numbers
        return numbers[:-1], numbers[1:]

    def loss(self, scores: Tensor, answers: Tensor) -> Tensor:
        """Cross entropy of the next letters."""
        return F.cross_entropy(scores.flatten(0, 1), answers.flatten())

    def shown(self, length: int) -> tuple[Tensor, list[str]]:
        """The first steps, [1, T], and what they are called."""
        return self.numbers[None, :length], labels_of(self.text[:length])


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Series, scaled: each column has mean 0 and deviation 1.

    Args:
        columns: their names.
        values: [N, I].
    """

    columns: tuple[str, ...]
    values: Tensor

    @property
    def features(self) -> list[str]:
        """What the columns are called."""
        return list(self.columns)

    @property
    def output_size(self) -> int:
        """Numbers that are predicted."""
        return len(self.columns)

    def inputs(self) -> tuple[Tensor, Tensor]:
        """What is read at each step, and what is to be predicted there: the next row."""
        return self.values[:-1], self.values[1:]

    def loss(self, predicted: Tensor, answers: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(predicted, answers)

    def shown(self, length: int) -> tuple[Tensor, list[str]]:
        """The first steps, [1, T, I], and what they are called."""
        some = self.values[None, :length]
        return some, [str(row) for row in range(1, some.shape[1] + 1)]


def labels_of(text: str) -> list[str]:
    """Letters as a person can see them."""
    return [{"\n": "↵", "\t": "→"}.get(letter, letter if letter.isprintable() else OTHER) for letter in text]


def read_letters(path: str | os.PathLike[str]) -> Letters:
    """A text file; of a long one its first megabyte.

    Raises:
        DataError: it has fewer than 200 letters, or is a pipe.
        OSError: it cannot be read.
    """
    with Path(regular(path)).open("rb") as file:
        text = file.read(MOST_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n")
    if len(text) < 200:
        raise DataError(f"{path} has {len(text)} letters, but 200 are needed: pass a longer text")
    return letters_of(text)


def letters_of(text: str) -> Letters:
    """A text in letters that are frequent enough."""
    counted = collections.Counter(text).most_common()
    frequent = {letter for letter, _ in counted[: MOST_LETTERS - 1]} if len(counted) > MOST_LETTERS else set(text)
    return Letters(text, "".join(sorted(frequent)) + ("" if frequent == set(text) else OTHER))


def read_numbers(path: str | os.PathLike[str], columns: Sequence[str] = (), scaled: bool = True) -> Numbers:
    """A table, a row a step; without names all columns of numbers. In its own units if it is not to be ``scaled``.

    Raises:
        DataError: there are no such columns, a value is missing, or there are fewer than 20 rows.
        OSError: the file cannot be read.
    """
    file = TableFile(path)
    names = list(columns) or _columns_of_numbers(file)
    table = file.read(names, [])
    values = torch.from_numpy(np.stack([table.numbers(name) for name in names], 1))
    if len(values) < 20:
        raise DataError(f"{path} has {len(values)} rows, but 20 are needed: pass a longer series")
    missing = values.isnan().nonzero()
    if len(missing):
        row, column = missing[0].tolist()
        raise table.error(row, names[column], "the value is missing: fill it, or leave out its column")
    if scaled:
        values = (values - values.mean(0)) / values.std(0).clamp(min=1e-12)
    return Numbers(tuple(names), values.float())


def _columns_of_numbers(file: Any) -> list[str]:
    """The columns that hold numbers in every row."""
    found = []
    for name in file.names:
        try:
            numbers = file.read([name], []).numbers(name)
        except DataError:
            continue  # words or dates
        if not np.isnan(numbers).all():
            found.append(name)
    if not found:
        raise DataError(f"{file.path} has no column of numbers: pass a table with one")
    return found


def waves(count: int, steps: int = 400) -> Numbers:
    """Slow and fast waves, for a network of which nobody says what it reads."""
    if count < 1:
        raise ShapeError(f"a network that reads {count} numbers reads nothing")
    time = torch.arange(float(steps))[:, None]
    periods = 12.0 * 1.6 ** torch.arange(float(count))
    return Numbers(tuple(f"wave {i + 1}" for i in range(count)), torch.sin(2 * torch.pi * time / periods))


def built_in_text(sentences: int = 220) -> Letters:
    """A small text about a workshop, always the same: what is in quotation marks is about what was named before."""
    draw = random.Random(1)
    people, things = ("weaver", "turner", "spinner"), ("loom", "lathe", "wheel", "treadle")
    deeds = ("turns", "stops", "hums", "waits")
    lines = []
    for _ in range(sentences):
        person, thing, deed = draw.choice(people), draw.choice(things), draw.choice(deeds)
        lines.append(
            draw.choice(
                (
                    f"the {thing} {deed}.",
                    f'the {person} says "the {thing} {deed}".',
                    f"when the {person} steps, the {thing} {deed}.",
                )
            )
        )
    return letters_of("\n".join(lines) + "\n")
