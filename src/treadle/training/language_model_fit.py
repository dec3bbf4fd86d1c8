"""Training of a language model, and its evaluation."""

import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.running.recurrent import Recurrent
from treadle.training.text import Text
from treadle.training.training_loop import train

ROWS = 32
"""How many places of the text are read at the same time."""


class Progress(NamedTuple):
    """Where training is, after a step."""

    step: int
    """Steps done."""
    training_bits: float
    """Bits per byte on this step's windows, before the step; the network is in training mode there."""
    held_out_bits: float | None
    """Bits per byte on the held-out text, at the steps that were asked for."""
    seconds: float
    """Time of this step, without the evaluation."""


def fit(
    model: Recurrent,
    text: Text,
    *,
    share_done: Callable[[int], float],
    evaluate_at: Collection[int] = (),
    window: int = 16,
    learning_rate: float = 0.015,
    seed: int = 0,
) -> Iterator[Progress]:
    """Train a byte-level language model, a step each time that the iterator is asked.

    AdamW without decay; gradients are cut to norm 1; the learning rate rises over ten steps and falls along half a
    cosine to nothing at the end. The state is carried from window to window, the gradient ends at each window's start.

    Args:
        model: what `treadle.training.language_model` builds; it is trained in place.
        text: the training set, and the held-out text.
        share_done: given how many steps are done, the share of the training that is over, from 0 to 1; at 1 it ends.
            ``lambda step: step / 300`` trains 300 steps; a function that looks at a clock trains for a time.
        evaluate_at: after which steps to measure `bits_per_byte` on the held-out text.
        window: ``T``, bytes in a window: as far as gradients reach back.
        learning_rate: its peak.
        seed: where the text is cut into rows. Networks with the same seed see the same windows.

    Yields:
        `Progress`, after each step.

    Raises:
        ShapeError: the text is too short.
    """
    text.check_length(ROWS, window)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0)
    steps = train(
        model,
        text.windows(ROWS, window, seed),
        optimiser,
        share_done,
        learning_rate=learning_rate,
        carry_state=True,
    )
    for done in steps:
        bits = bits_per_byte(model, text.scored_rows()) if done.step in evaluate_at else None
        yield Progress(done.step, done.loss / math.log(2), bits, done.seconds)


@torch.no_grad()
def bits_per_byte(model: Recurrent, rows: Tensor) -> float:
    """How many bits per byte a text would take, packed with the model's predictions: 8 is no idea at all.

    The mean of -log2 p(next byte), in evaluation mode, each row from the initial state to its end.

    Args:
        model: a byte-level language model.
        rows: [R, S + 1] bytes; all but each row's first are predicted.

    Returns:
        Bits per byte; infinite or NaN if training has diverged.
    """
    was_training = model.training
    model.eval()
    scores, _ = model(rows[:, :-1])
    loss = F.cross_entropy(scores.flatten(0, 1).double(), rows[:, 1:].flatten())
    model.train(was_training)
    return loss.item() / math.log(2)


@torch.no_grad()
def start_from_frequencies(model: Recurrent, text: Text) -> None:
    """Let a new language model begin with what is cheap to know: how frequent each byte of the training text is."""
    model.cell.scores.bias.copy_(text.log_frequencies())
