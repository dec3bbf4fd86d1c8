"""Words as a task: the next one is to be predicted."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.running.recurrent import Recurrent
from treadle.training.adaptive_softmax import AdaptiveSoftmax
from treadle.training.side_by_side import side_by_side
from treadle.training.task import Design, Habits, Verdict, require_finite
from treadle.training.word_model import WordModel, losses, word_model
from treadle.training.word_scores import score_words
from treadle.training.word_text import WordText

ROWS, WINDOW, HIDDEN_SIZE = 32, 35, 200
VALIDATED, JUDGED = 16_384, 1 << 18
"""Words of the held-out text that are scored during training, and after it."""


def run_words(model: Recurrent, batch: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The cross-entropies of a batch, and the state after it."""
    return losses(model, x, batch.y, state, lengths=batch.lengths, resets=batch.resets)


def total_of(found: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of cross-entropies, and how many there are."""
    return found.sum(), torch.tensor(y.numel())


class WordTask:
    """A word-level language model on a text, a part of which is held out.

    Args:
        text: the training set, and the held-out text.
        window: ``T``, window of truncated BPTT, in words.
        rows: ``B``, batch size: places of the text that are read side by side.
        seed: random seed of where it is cut into rows.
        share: ``(rank, ranks)`` of the process.

    Raises:
        ShapeError: the text is too short.
    """

    carry_state = True
    evaluate_every = 100
    split = ""
    losses: Mapping[str, Any] = {"run": run_words, "loss_of": total_of}
    habits = Habits("2m", None, 0.003, ROWS, dropout=0.3, one_thread=False)

    def __init__(
        self, text: WordText, *, window: int = WINDOW, rows: int = ROWS, seed: int = 0, share: tuple[int, int] = (0, 1)
    ):
        text.check_length(rows, window)
        words = text.training.length
        self.text, self.name = text, text.name
        self.size = f"{words:,} words, a vocabulary of {len(text.vocabulary):,}"
        self.batches = side_by_side(text.training, rows, window, seed, share)
        self.epoch_steps = -(-words // (rows * window))

    def build(self, design: Design) -> Recurrent:
        """A language model that begins with how frequent each word is."""
        model = design.built(word_model, len(self.text.vocabulary), hidden_size=HIDDEN_SIZE)
        start_from(model, self.text.log_frequencies())
        return model

    def validate(self, model: Recurrent) -> float:
        """Nats per word of the held-out text."""
        return score_words(model, self.text.held_out, VALIDATED).nats

    def judge(self, model: Recurrent) -> Verdict:
        """Perplexity, and bits per character."""
        found = score_words(model, self.text.held_out, JUDGED)
        require_finite(f"{self.name}: the network's scores", math.isfinite(found.nats))
        return found.verdict("held-out text")

    def save(self, path: str | os.PathLike[str], model: Recurrent) -> None:
        """Write the network and its vocabulary to a model file."""
        WordModel(model, self.text.vocabulary).save(path)

    def truth(self, model: Recurrent) -> None:
        """There is nothing to draw."""


@torch.no_grad()
def start_from(model: Recurrent, log_frequencies: Tensor) -> None:
    """Let a new language model begin with what is cheap to know: how frequent each word is."""
    head: Any = model.cell.scores
    if isinstance(head, AdaptiveSoftmax):
        head.start_from(log_frequencies)
    elif isinstance(head, nn.Linear):
        head.bias.copy_(log_frequencies)
