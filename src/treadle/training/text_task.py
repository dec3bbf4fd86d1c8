"""A text as something to be learned: which byte comes next."""

import math
import os

from treadle.files import model_file
from treadle.running.recurrent import Recurrent
from treadle.training.language_model import (
    ROWS,
    bits_per_byte,
    language_model,
    match_hidden_size,
    start_from_frequencies,
)
from treadle.training.task import Design, Habits, Verdict
from treadle.training.text import Text


class TextTask:
    """A text, whose last part is held out.

    Args:
        text: the training set, and the held-out text.
        window: ``T``, bytes over which gradients reach back.
        rows: ``B``, places of the text that are read side by side.
        seed: where it is cut into rows.
        share: ``(rank, ranks)`` of the process.

    Raises:
        ShapeError: the text is too short.
    """

    carry_state = True
    evaluate_every = 100
    habits = Habits("2m", 200_000, 0.01, ROWS)

    def __init__(
        self, text: Text, *, window: int = 64, rows: int = ROWS, seed: int = 0, share: tuple[int, int] = (0, 1)
    ):
        text.check_length(rows, window)
        self.text, self.name, self.size = text, text.name, f"{text.training_bytes:,} bytes"
        self.batches = text.windows(rows, window, seed, share)
        self.epoch_steps = -(-text.training_bytes // (rows * window))

    def build(self, design: Design) -> Recurrent:
        """A language model that begins with how frequent each byte is."""
        cell, wiring, layers, parameters, _ = design
        model = language_model(cell, wiring, layers, match_hidden_size(cell, wiring, layers, parameters)[0])
        start_from_frequencies(model, self.text)
        return model

    def validate(self, model: Recurrent) -> float:
        """Nats per byte of the held-out text."""
        return bits_per_byte(model, self.text.scored_rows()) * math.log(2)

    def judge(self, model: Recurrent) -> Verdict:
        """Bits per byte of the held-out text."""
        bits = bits_per_byte(model, self.text.scored_rows())
        return Verdict(f"{bits:.3f} bits per byte of held-out text", {"bits_per_byte": bits})

    def save(self, path: str | os.PathLike[str], model: Recurrent) -> None:
        """Write the network to a model file."""
        model_file.save(path, model)

    def truth(self, model: Recurrent) -> None:
        """There is nothing to draw."""
