"""How well a word-level language model predicts a text."""

import dataclasses
import math

import torch

from treadle.running.recurrent import Recurrent
from treadle.streams import Span, Windows, WordFile, split
from treadle.training.task import Verdict
from treadle.training.word_model import losses
from treadle.training.word_text import LEAST

ROWS, STEPS = 32, 64
"""So many rows are read side by side, so many words at a time."""


@dataclasses.dataclass(frozen=True)
class WordScores:
    """How well words were predicted.

    Attributes:
        words: how many were.
        nats: their mean cross-entropy.
        unknown: the share of them that is not in the vocabulary.
        per_character: words of the text for each of its characters.
    """

    words: int
    nats: float
    unknown: float
    per_character: float

    def verdict(self, of: str) -> Verdict:
        """The perplexity as a sentence and a number, beside others.

        Bits per character compare with those of other units. Which unknown word one is costs nothing in them.
        """
        bits = self.nats / math.log(2)
        scores = {
            "perplexity": math.exp(min(self.nats, 700)),  # beyond 700, there is no such number
            "bits_per_word": bits,
            "bits_per_character": bits * self.per_character,
            "unknown_words": self.unknown,
            "scored_words": float(self.words),
        }
        unknown = f"; {self.unknown:.1%} of its words are unknown" if self.unknown else ""
        sentence = f"perplexity {scores['perplexity']:,.1f} per word of {of}"
        return Verdict(f"{sentence} ({scores['bits_per_character']:.3f} bits per character{unknown})", scores)


def scored_parts(text: WordFile, most: int | None = None) -> list[Span]:
    """What of a text is scored: parts of equal length, together up to ``most`` words, spread evenly over it."""
    parts = split(text, min(ROWS, max(text.length // LEAST, 1)))
    if most is None:
        return parts
    return [Span(part, 0, min(part.length or 0, most // len(parts) + 1)) for part in parts]


@torch.no_grad()
def score_words(model: Recurrent, text: WordFile, most: int | None = None) -> WordScores:
    """Score a network on a text, in evaluation mode; the mode it is in does not change. Memory does not grow with it.

    The first word of each part (see `scored_parts`) is read and not predicted; the state goes through a part from its
    beginning to its end.

    Raises:
        ShapeError: the text has less than two words.
    """
    was_training = model.training
    model.eval()
    parts = scored_parts(text, most)
    state, count, nats, unknown = None, 0, 0.0, 0
    for batch in Windows(parts, len(parts), STEPS, seed=None, prefetch=0, rank=0, ranks=1):
        found, state = losses(model, batch.x, batch.y, state, lengths=batch.lengths, resets=batch.resets)
        nats += found[batch.mask.flatten()].double().sum().item()
        unknown += int((batch.y[batch.mask] == text.vocabulary.unknown_token).sum())
        count += int(batch.lengths.sum())
    model.train(was_training)
    return WordScores(count, nats / count, unknown / count, text.length / text.characters)
