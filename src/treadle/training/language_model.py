"""Byte-level language models: how they are built, trained and evaluated."""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.errors import ModelFileError
from treadle.files import model_file
from treadle.running.recurrent import Recurrent
from treadle.training.budget import NeverStopping
from treadle.training.layered_networks import layers_of, nearest_hidden_size
from treadle.training.task import Design, Habits, Verdict, require_finite
from treadle.training.text import Text
from treadle.training.training_loop import train
from treadle.wiring import Graph

EMBEDDING_SIZE = 64
"""Features that stand for a byte. The table [256, 64] is 8 % of a network of 200,000 parameters."""


def language_model(cell: str, wiring: str = "stack", layers: int = 2, hidden_size: int = 128) -> Recurrent:
    """A byte-level language model: embedding, layers of one cell under a named wiring, scores of the 256 bytes.

    Forget gates start open (bias 1) in the cells that have this option, so that gradients reach further back.

    The arguments are those of `sequence_model`.

    Returns:
        A `treadle.Recurrent`: whole numbers 0 to 255 [B, T] in, scores (logits) [B, T, 256] out.

    Raises:
        ValueError: no such cell or wiring.
        ShapeError: a size is not a positive whole number.

    Example:
        >>> import torch
        >>> from treadle.training import language_model
        >>> rnn = language_model("gru", "skip", layers=2, hidden_size=8)
        >>> scores, state = rnn(torch.tensor([list(b"import")]))
        >>> scores.shape
        torch.Size([1, 6, 256])
    """
    embedding = nn.Embedding(256, EMBEDDING_SIZE)
    stack = layers_of(cell, wiring, layers, EMBEDDING_SIZE, hidden_size)
    graph = Graph(())  # a row of the input is one number, the byte
    node = graph.add("layers", stack, reads=graph.add("embedded", embedding, reads=graph.x))
    return Recurrent(graph.outputs(graph.add("scores", nn.Linear(hidden_size, 256), reads=node)))


def match_hidden_size(cell: str, wiring: str, layers: int, parameters: int) -> tuple[int, int]:
    """The hidden size with which a language model has nearly a given number of parameters, all of them counted.

    ``cell``, ``wiring`` and ``layers`` are those of `sequence_model`.

    Returns:
        The hidden size, and how many parameters the network then has: within 2 % of ``parameters``.

    Raises:
        ValueError: no such cell or wiring.
        ShapeError: no hidden size comes that near; the message names what can be reached.

    Example:
        >>> from treadle.training import match_hidden_size
        >>> match_hidden_size("lstm", "stack", layers=2, parameters=200_000)
        (104, 201344)
    """
    design = cell, wiring, layers
    return nearest_hidden_size(lambda size: language_model(*design, size), parameters, *design)


def require_language_model(model: Any, name: str = "this") -> Recurrent:
    """Return ``model`` if it is a byte-level language model, or refuse it.

    Args:
        model: anything, such as what `treadle.load` gave.
        name: how the message calls it.

    Raises:
        ModelFileError: it is something else.
    """
    reads_bytes = isinstance(model, Recurrent) and model.batch_first and model.input_size == ()
    if reads_bytes and model.output_size == 256:
        try:
            with torch.no_grad():
                model(torch.arange(256)[None])
        except Exception as error:
            raise ModelFileError(
                f"{name} is not a byte-level language model, as it does not take all bytes: {error}"
            ) from error
    else:
        what = f"a {type(model).__name__}"
        if isinstance(model, Recurrent):
            what += (
                f" from rows of {model.input_size or 'unknown'} to rows of {model.output_size or 'unknown'} features"
            )
        raise ModelFileError(
            f"{name} is not a byte-level language model but {what}: make one with 'treadle fit FILE -o MODEL'"
        )
    return model


ROWS = 32
"""Batch size: places of the text that are read at the same time."""


class Progress(NamedTuple):
    """The progress of training, after a step."""

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
    checkpoint: str | os.PathLike[str] | None = None,
) -> Iterator[Progress]:
    """Train a byte-level language model, one step per iteration.

    AdamW without weight decay; gradients are clipped to norm 1; the learning rate has a warm-up of ten steps and a
    cosine schedule to zero. The state is carried from window to window (truncated BPTT).

    Args:
        model: what `treadle.training.language_model` builds; it is trained in place.
        text: the training set, and the held-out text.
        share_done: from the number of steps done to the fraction of training that is over; at 1 it ends.
            ``lambda step: step / 300`` trains 300 steps; a function that looks at a clock trains for a time.
        evaluate_at: after which steps to measure `bits_per_byte` on the held-out text.
        window: ``T``, bytes in a window of truncated BPTT.
        learning_rate: the peak learning rate.
        seed: random seed of where the text is cut into rows. Networks with the same seed see the same windows.
        checkpoint: the file to resume from, if it is there, and to write after the steps of ``evaluate_at``.

    Yields:
        `Progress`, after each step.

    Raises:
        ShapeError: the text is too short.
        ModelFileError: the checkpoint is of another network or of other settings.
        OSError: it cannot be written.
    """
    text.check_length(ROWS, window)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0)
    windows = text.windows(ROWS, window, seed)
    steps = train(
        model,
        windows,
        optimiser,
        share_done,
        learning_rate=learning_rate,
        carry_state=True,
        validate=lambda model: bits_per_byte(model, text.scored_rows()),
        evaluate_at=lambda step: step in evaluate_at,
        stopping=NeverStopping(),
        checkpoint=checkpoint,
        checkpoint_at=lambda step: step in evaluate_at,
        about={"window": window, "seed": seed, "learning_rate": learning_rate, "training_bytes": text.training_bytes},
    )
    for done in steps:
        yield Progress(done.step, done.loss / math.log(2), done.score, done.seconds)


@torch.no_grad()
def bits_per_byte(model: Recurrent, rows: Tensor) -> float:
    """Bits per byte: the mean of -log2 p(next byte). A model without any knowledge has 8.

    In evaluation mode, each row from the initial state to its end.

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


class TextTask:
    """A language model on a text, a part of which is held out.

    Args:
        text: the training set, and the held-out text.
        window: ``T``, window of truncated BPTT, in bytes.
        rows: ``B``, batch size: places of the text that are read side by side.
        seed: random seed of where it is cut into rows.
        share: ``(rank, ranks)`` of the process.

    Raises:
        ShapeError: the text is too short.
    """

    carry_state = True
    evaluate_every = 100
    split = ""
    losses: Mapping[str, Any] = {}
    habits = Habits("2m", 200_000, 0.01, ROWS)

    def __init__(
        self, text: Text, *, window: int = 64, rows: int = ROWS, seed: int = 0, share: tuple[int, int] = (0, 1)
    ):
        text.check_length(rows, window)
        text.check_content()
        self.text, self.name, self.size = text, text.name, f"{text.training_bytes:,} bytes"
        self.batches = text.windows(rows, window, seed, share)
        self.epoch_steps = -(-text.training_bytes // (rows * window))

    def build(self, design: Design) -> Recurrent:
        """A language model that begins with how frequent each byte is."""
        cell, wiring, layers, parameters, _ = design
        assert parameters is not None
        model = language_model(cell, wiring, layers, match_hidden_size(cell, wiring, layers, parameters)[0])
        start_from_frequencies(model, self.text)
        return model

    def validate(self, model: Recurrent) -> float:
        """Nats per byte of the held-out text."""
        return bits_per_byte(model, self.text.scored_rows()) * math.log(2)

    def judge(self, model: Recurrent) -> Verdict:
        """Bits per byte of the held-out text."""
        bits = bits_per_byte(model, self.text.scored_rows())
        require_finite(f"{self.name}: the network's scores", math.isfinite(bits))
        return Verdict(f"{bits:.3f} bits per byte of held-out text", {"bits_per_byte": bits})

    def save(self, path: str | os.PathLike[str], model: Recurrent) -> None:
        """Write the network to a model file."""
        model_file.save(path, model)

    def truth(self, model: Recurrent) -> None:
        """There is nothing to draw."""
