"""A trained network with its vocabularies, in one model file."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from treadle.errors import ModelFileError, ShapeError
from treadle.files import model_file
from treadle.recipes.translate.pairs import Pair
from treadle.recipes.translate.tokens import END, FIRST, START
from treadle.recipes.translate.translation_network import translation_model
from treadle.seq2seq import EncoderDecoder
from treadle.seq2seq.decoding import beam_search, greedy
from treadle.streams import Vocabulary
from treadle.training.layered_networks import parameter_count
from treadle.training.memory import BYTES_PER_PARAMETER, require_memory

ROWS = 64
"""Rows that are decoded side by side."""
MARGIN = 8
"""Tokens by which an answer may be longer than any that was learned, besides what its source is longer by."""


@dataclasses.dataclass
class Translator:
    """A trained encoder-decoder with its vocabularies.

    Attributes:
        model: the network.
        source: the source vocabulary.
        target: the target vocabulary.
        longest: tokens of the longest target in the training set.
        ratio: the most tokens of a target for each of its source in the training set.

    Example:
        >>> from treadle.recipes.translate import Pair, Translator
        >>> translator = Translator.new([Pair("abc", "CBA")], hidden_size=4)
        >>> [text] = translator.translate(["cab"])
        >>> set(text) <= set("ABC")
        True
    """

    model: EncoderDecoder
    source: Vocabulary
    target: Vocabulary
    longest: int
    ratio: float

    @classmethod
    def new(
        cls, pairs: Sequence[Pair], source_unit: str = "characters", target_unit: str = "characters", **design: object
    ) -> "Translator":
        """An untrained translator with the vocabularies and length ratio of some pairs.

        Units are ``"characters"`` or ``"words"``; ``design`` has options of `translation_model`.
        """
        source = Vocabulary.of((pair.source for pair in pairs), source_unit, first=FIRST)
        target = Vocabulary.of((pair.target for pair in pairs), target_unit, first=FIRST)
        sizes = token_counts(source, target, pairs)
        design = {"fertility": fertility(sizes)} | design
        with torch.device("meta"):  # sizes without memory
            count = parameter_count(translation_model(len(source), len(target), **design))  # pyright: ignore[reportArgumentType]
        require_memory(BYTES_PER_PARAMETER * count, f"training {count:,} parameters", "pass a smaller `hidden_size`")
        model = translation_model(len(source), len(target), **design)  # pyright: ignore[reportArgumentType]
        return cls(model, source, target, max(t for _, t in sizes), max(t / s for s, t in sizes))

    def learning_from(self, pairs: Sequence[Pair], name: str = "") -> "Translator":
        """The same network with the same vocabularies, to be trained further on other pairs.

        Args:
            pairs: all of them.
            name: the name of their file, for messages.

        Raises:
            DataError: one has a symbol that is not in the vocabulary.
        """
        sizes = token_counts(self.source, self.target, pairs, name)
        longest, ratio = max(t for _, t in sizes), max(t / s for s, t in sizes)
        return dataclasses.replace(self, longest=max(longest, self.longest), ratio=max(ratio, self.ratio))

    def reads(self, text: str, where: str = "") -> Tensor:
        """What the encoder reads: a text between its start and its end, so that both can be seen.

        Raises:
            DataError: a symbol that is not in the vocabulary.
        """
        return torch.cat([torch.tensor([START]), self.source.encode(text, where), torch.tensor([END])])

    def translate(self, texts: Sequence[str], beams: int = 1, name: str = "") -> list[str]:
        """Translations of texts.

        Args:
            texts: any number.
            beams: beam width; 1 is greedy decoding.
            name: the name of their file, for messages.

        Raises:
            DataError: one has a symbol that is not in the vocabulary; nothing is translated then.
            ShapeError: a beam width below 1.
        """
        return [text for text, _ in self.hypotheses(texts, beams, name)]

    def hypotheses(self, texts: Sequence[str], beams: int = 1, name: str = "") -> Iterator[tuple[str, float]]:
        """Translations with the logarithms of their probabilities, in the order of the texts."""
        if beams < 1:
            raise ShapeError(f"beams is a positive whole number, but {beams!r} was passed")
        tokens = [self.reads(text, f"{name}, line {i}: " if name else "") for i, text in enumerate(texts, start=1)]
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
        rows = min(max(ROWS // beams, 1), len(texts))
        session = self.model.session(rows * beams) if rows else None
        found: dict[int, tuple[str, float]] = {}
        for first in range(0, len(order), rows or 1):
            own = order[first : first + rows]
            filled = own + own[-1:] * (rows - len(own))
            lengths = torch.tensor([len(tokens[i]) for i in filled])
            source = torch.nn.utils.rnn.pad_sequence([tokens[i] for i in filled], batch_first=True)
            steps = max(self.longest, math.ceil(self.ratio * source.shape[1])) + MARGIN
            decode = greedy if beams == 1 else functools.partial(beam_search, beams=beams)
            said = decode(session, source, lengths, START, END, steps)  # pyright: ignore[reportArgumentType]
            for i, row, score in zip(own, said.tokens, said.scores.tolist(), strict=False):
                found[i] = (self.target.decode(row), score)
        yield from (found[i] for i in range(len(texts)))

    def exact(self, pairs: Sequence[Pair], beams: int = 1) -> list[bool]:
        """Exact match: whether the translation of each pair's source is one of its targets in these pairs."""
        right: dict[str, set[str]] = {}
        for pair in pairs:
            right.setdefault(pair.source, set()).add(self.plain(pair.target))
        sources = list(right)
        good = {
            source: text in right[source] for source, text in zip(sources, self.translate(sources, beams), strict=True)
        }
        return [good[pair.source] for pair in pairs]

    def plain(self, target: str) -> str:
        """A target as the translator would write it: words with one space between them."""
        return " ".join(target.split()) if self.target.unit == "words" else target

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network and vocabularies to one model file.

        Raises:
            OSError: the file cannot be written.
        """
        values = {"source": self.source.as_json(), "target": self.target.as_json()}
        values |= {"longest": self.longest, "ratio": self.ratio}
        model_file.save(path, self.model, {"translator": values})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Translator":
        """Read what `save` wrote. Nothing that the file names is imported or run.

        Raises:
            ModelFileError: the file is damaged, or holds something else.
            OSError: the file cannot be read.
        """
        notes, model = model_file.read_notes(path), model_file.load(path)
        if "translator" not in notes or not isinstance(model, EncoderDecoder):
            raise ModelFileError(
                f"{path} does not hold a network that translates: make one with 'treadle translate PAIRS.tsv -o MODEL'"
            )
        model_file.require_finite(path, model)
        try:
            values = notes["translator"]
            source, target = (Vocabulary.from_json(values[side], FIRST) for side in ("source", "target"))
            found = cls(model, source, target, int(values["longest"]), float(values["ratio"]))
            with torch.no_grad():
                scores, _ = model.eval()(torch.arange(len(source))[None], torch.arange(len(target))[None])
            if scores.shape[2] != len(target) or not 0 < found.longest < 10**6 or not 0 < found.ratio < 10**6:
                raise ValueError("sizes")
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise ModelFileError(f"{path} is damaged: its symbols do not fit its network ({error})") from None
        return found


SIDES = ("neither", "source", "target", "both")
"""Which sides can be read as words."""


def units_of(words: str) -> tuple[str, str]:
    """The units of sources and targets, of which the sides that `SIDES` names are read as words.

    Example:
        >>> from treadle.recipes.translate.translator import units_of
        >>> units_of("source"), units_of("both")
        (('words', 'characters'), ('words', 'words'))
    """
    source, target = ("words" if words in (side, "both") else "characters" for side in ("source", "target"))
    return source, target


def fertility(sizes: Sequence[tuple[int, int]]) -> float:
    """How often each token of a source is attended to, on average, by these lengths of both; at least once."""
    return max(sum(t for _, t in sizes) / sum(s for s, _ in sizes), 1.0)


def token_counts(
    source: Vocabulary, target: Vocabulary, pairs: Sequence[Pair], name: str = ""
) -> list[tuple[int, int]]:
    """How many tokens sources and targets have."""
    lines = [f"{name}, line {i}: " if name else "" for i in range(1, len(pairs) + 1)]
    return [
        (len(source.encode(pair.source, line)), len(target.encode(pair.target, line)))
        for pair, line in zip(pairs, lines, strict=True)
    ]
