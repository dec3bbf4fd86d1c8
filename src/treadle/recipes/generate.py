"""Text generation: a language model in closed loop, one byte per step, through a session."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from treadle.errors import ModelFileError, ShapeError
from treadle.running.recurrent import Recurrent


class Written(NamedTuple):
    """One byte that a model wrote."""

    byte: int
    seconds: float
    """How long the session's step took."""


def generate(model: Recurrent, prompt: bytes, *, temperature: float = 0.8, seed: int = 0) -> Iterator[Written]:
    """Generate text after a prompt, for as long as you iterate.

    Args:
        model: a byte-level language model, such as `treadle.training.language_model` builds.
        prompt: what to continue; at least one byte.
        temperature: sampling temperature, which divides the scores: 1 samples the model's probabilities, less is more
            cautious, 0 always takes the most likely byte.
        seed: random seed. The same model, prompt and seed generate the same text.

    Yields:
        `Written`, a byte at a time.

    Raises:
        ShapeError: an empty prompt, or a temperature that is negative or not a number.
        ModelFileError: the network's weights are not finite.

    Example:
        >>> from itertools import islice
        >>> from treadle.recipes.generate import generate
        >>> from treadle.training import language_model
        >>> written = islice(generate(language_model("gru", hidden_size=8), b"def "), 20)
        >>> len(bytes(w.byte for w in written))
        20
    """
    if not prompt:
        raise ShapeError("the prompt is empty, but a model needs a byte to continue: pass a newline")
    if not 0 <= temperature < math.inf:
        raise ShapeError(f"temperature is 0 or a positive number, but is {temperature}")
    session = model.session()
    draws = torch.Generator().manual_seed(seed)
    if len(prompt) > 1:
        session.steps(torch.tensor(list(prompt[:-1])))
    byte = torch.tensor(prompt[-1])
    while True:
        start = time.perf_counter()
        scores = session.step(byte)
        seconds = time.perf_counter() - start
        if not scores.isfinite().all():
            raise ModelFileError("the network's scores are not finite: its training diverged; train it again")
        if temperature:
            probabilities = ((scores - scores.max()).double() / temperature).softmax(0)
            byte = torch.multinomial(probabilities, 1, generator=draws)[0]
        else:
            byte = scores.argmax()
        yield Written(int(byte), seconds)


def readable(data: bytes) -> str:
    """Bytes as text that is safe to print: UTF-8, with � for what is none and for control characters."""
    return printable(data.decode("utf-8", errors="replace"))


def printable(text: str) -> str:
    """A text without control characters (which could recolour a terminal, or worse): each becomes �."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
