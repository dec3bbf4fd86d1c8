"""Word-level language models: how they are built, and one with its vocabulary in a model file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.errors import ModelFileError
from treadle.files import model_file
from treadle.running.recurrent import Recurrent
from treadle.streams import Vocabulary
from treadle.training.adaptive_softmax import AdaptiveSoftmax
from treadle.training.layered_networks import layers_of
from treadle.wiring import Graph

FULL = 4_000
"""Up to so many words, a full softmax is about as fast as an adaptive one."""


def word_model(
    words: int,
    cell: str = "lstm",
    wiring: str = "stack",
    layers: int = 2,
    hidden_size: int = 200,
    dropout: float = 0.0,
) -> Recurrent:
    """A word-level language model: embedding, layers of one cell, scores of the words.

    Of a large vocabulary, the scores are those of an adaptive softmax, which reckons with the most frequent words
    first, as `treadle.streams.Vocabulary` has them.

    Args:
        words: ``V``, tokens of the vocabulary.
        cell: as of `sequence_model`.
        wiring: likewise.
        layers: likewise.
        hidden_size: ``H`` of every layer, and features of the embedding.
        dropout: of embedded words, between layers and before the scores, in training.

    Returns:
        A `treadle.Recurrent`: tokens [B, T] in, scores [B, T, V] out.

    Source: Zaremba, Sutskever and Vinyals, *Recurrent Neural Network Regularization*, 2014, for the dropout.

    Raises:
        ValueError: no such cell or wiring.
        ShapeError: a size is not a positive whole number.

    Example:
        >>> import torch
        >>> from treadle.training import word_model
        >>> rnn = word_model(10_000, "gru", hidden_size=8)
        >>> scores, state = rnn(torch.tensor([[4, 0, 9_999]]))
        >>> scores.shape
        torch.Size([1, 3, 10000])
    """
    features = Graph(())  # a row of the input is one number, the token
    embedding = nn.Embedding(words, hidden_size)
    nn.init.uniform_(embedding.weight, -0.1, 0.1)
    node = features.add("embedded", embedding, reads=features.x)
    if dropout:
        node = features.add("embedded_dropout", nn.Dropout(dropout), reads=node)
    stack = layers_of(cell, wiring, layers, hidden_size, hidden_size, dropout)
    node = features.add("layers", stack, reads=node)
    if dropout:
        node = features.add("dropout", nn.Dropout(dropout), reads=node)
    features.outputs(node)
    head = nn.Linear(hidden_size, words)
    if words > FULL:
        head = AdaptiveSoftmax(hidden_size, words, cutoffs_of(words))
    graph = Graph(())
    hidden = graph.add("features", features, reads=graph.x)
    return Recurrent(graph.outputs(graph.add("scores", head, reads=hidden)))


def cutoffs_of(words: int) -> list[int]:
    """Where the rare words of a vocabulary begin, and where the rarest."""
    return [words // 10, 4 * words // 10]


def losses(model: Recurrent, x: Tensor, y: Tensor, state: Any = None, **given: Any) -> tuple[Tensor, Any]:
    """The cross-entropies of the words y [B, T] after the words x [B, T], in nats: [B * T]; and the state after them.

    Only what they need is computed of an adaptive softmax. The other arguments are those of `treadle.Recurrent`.
    """
    graph: Any = model.cell
    hidden = Recurrent(graph.features, True, model.gradient, model.engine)
    hidden.training = model.training
    hs, after = hidden(x, None if state is None else state["features"], **given)
    head, hs, y = graph.scores, hs.flatten(0, 1), y.flatten()
    found = head.losses(hs, y) if isinstance(head, AdaptiveSoftmax) else F.cross_entropy(head(hs), y, reduction="none")
    return found, {"features": after}


@dataclasses.dataclass
class WordModel:
    """A word-level language model with its vocabulary, which share one model file.

    Attributes:
        model: the network, such as `word_model` builds.
        vocabulary: words and their tokens.

    Example:
        >>> import treadle as td
        >>> from treadle.training import WordModel, word_model
        >>> vocabulary = td.streams.Vocabulary.of(["to be or not to be"], "words", size=10)
        >>> WordModel(word_model(len(vocabulary), hidden_size=4), vocabulary).save("words.safetensors")
        >>> WordModel.load("words.safetensors").vocabulary == vocabulary
        True
    """

    model: Recurrent
    vocabulary: Vocabulary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write both to one model file; `treadle.load` reads only the network of it.

        Raises:
            OSError: the file cannot be written.
        """
        model_file.save(path, self.model, {"vocabulary": self.vocabulary.as_json()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "WordModel":
        """Read what `save` wrote. Nothing that the file names is imported or run.

        Raises:
            ModelFileError: the file is damaged, or holds something else.
            OSError: the file cannot be read.
        """
        notes, model = model_file.read_notes(path), model_file.load(path)
        if not has_vocabulary(notes) or not isinstance(model, Recurrent) or not hasattr(model.cell, "features"):
            raise ModelFileError(
                f"{path} does not hold a word-level language model: make one with 'treadle fit FILE --words -o MODEL'"
            )
        try:
            vocabulary = Vocabulary.from_json(notes["vocabulary"])
            if vocabulary.unit != "words" or vocabulary.unknown is None:
                raise ValueError("it is not one of words")
            with torch.no_grad():
                last = torch.tensor([[len(vocabulary) - 1]])
                scores, _ = model.eval()(last)
                losses(model, last, last)
            if scores.shape[2] != len(vocabulary):
                raise ValueError(f"{len(vocabulary)} words, scores of {scores.shape[2]}")
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise ModelFileError(f"{path} is damaged: its vocabulary does not fit its network ({error})") from None
        return cls(model, vocabulary)


def has_vocabulary(notes: Mapping[str, Any]) -> bool:
    """Whether a model file with these notes holds a word-level language model."""
    return "vocabulary" in notes
