"""Text generation: a language model in closed loop, one byte or word per step, through a session."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from treadle.errors import ModelFileError, ShapeError
from treadle.running.recurrent import Recurrent
from treadle.training import WordModel


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
    for token, seconds in _sampled(model, list(prompt), temperature, seed):
        yield Written(token, seconds)


def generate_words(words: WordModel, prompt: str, *, temperature: float = 0.8, seed: int = 0) -> Iterator[str]:
    """Generate text after a prompt, for as long as you iterate; the unknown word is never written.

    Args:
        words: a word-level language model with its vocabulary.
        prompt: what to continue: words, or ends of lines. A word that is not in the vocabulary is read as the unknown
            one.
        temperature: as of `generate`.
        seed: likewise.

    Returns:
        A word at a time, with the space before it, if there is one.

    Raises:
        ShapeError, ModelFileError: as of `generate`.

    Example:
        >>> from itertools import islice
        >>> import treadle as td
        >>> from treadle.recipes.generate import generate_words
        >>> from treadle.training import WordModel, word_model
        >>> vocabulary = td.streams.Vocabulary.of(["all work and no play"], "words", size=10)
        >>> words = WordModel(word_model(len(vocabulary), hidden_size=4), vocabulary)
        >>> len("".join(islice(generate_words(words, "all work"), 20)).split())
        20
    """
    vocabulary = words.vocabulary
    tokens = vocabulary.encode(prompt).tolist()
    if not tokens:
        raise ShapeError("the prompt has no words, but a model needs one to continue: pass a newline")
    never = () if vocabulary.unknown_token is None else (vocabulary.unknown_token,)
    written = (token for token, _ in _sampled(words.model, tokens, temperature, seed, never))
    return _spaced((vocabulary.symbols[token - vocabulary.first] for token in written), prompt)


def _spaced(words: Iterable[str], before: str) -> Iterator[str]:
    """Words with a space before each, except around ends of lines."""
    for word in words:
        yield word if before[-1:].isspace() or word == "\n" else f" {word}"
        before = word


def _sampled(
    model: Recurrent, prompt: Sequence[int], temperature: float, seed: int, never: Sequence[int] = ()
) -> Iterator[tuple[int, float]]:
    """Tokens after those of a prompt, none of which is one of ``never``, and the seconds that each step took."""
    if not 0 <= temperature < math.inf:
        raise ShapeError(f"temperature is 0 or a positive number, but is {temperature}")
    session = model.session()
    draws = torch.Generator().manual_seed(seed)
    if len(prompt) > 1:
        session.steps(torch.tensor(prompt[:-1]))
    token = torch.tensor(prompt[-1])
    while True:
        start = time.perf_counter()
        scores = session.step(token)
        seconds = time.perf_counter() - start
        if not scores.isfinite().all():
            raise ModelFileError("the network's scores are not finite: its training diverged; train it again")
        if never:
            scores = scores.clone()
            scores[list(never)] = -math.inf
        if temperature:
            probabilities = ((scores - scores.max()).double() / temperature).softmax(0)
            token = torch.multinomial(probabilities, 1, generator=draws)[0]
        else:
            token = scores.argmax()
        yield int(token), seconds


def readable(data: bytes) -> str:
    """Bytes as text that is safe to print: UTF-8, with � for what is none and for control characters."""
    return printable(data.decode("utf-8", errors="replace"))


def printable(text: str) -> str:
    """A text without control characters (which could recolour a terminal, or worse): each becomes �."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
