"""A network that reads bytes and says, after each, which byte may come next."""

from typing import Any

import torch
from torch import nn

from treadle.errors import ModelFileError
from treadle.running.recurrent import Recurrent
from treadle.training.layered_networks import layers_of, nearest_hidden_size
from treadle.wiring import Graph

EMBEDDING_SIZE = 64
"""Features that stand for a byte. The table [256, 64] is 8 % of a network of 200,000 parameters."""


def language_model(cell: str, wiring: str = "stack", layers: int = 2, hidden_size: int = 128) -> Recurrent:
    """A byte-level language model: embedding, layers of one cell under a named wiring, scores of the 256 bytes.

    Forget gates start open (bias 1) in the cells that have this option, so that gradients reach back from the start.

    Args:
        cell: a name in `CELLS`.
        wiring: a name in `treadle.WIRINGS`.
        layers: how many layers of the cell.
        hidden_size: ``H`` of every layer.

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
    """The hidden size that brings a language model nearest to a number of parameters, all of its parameters counted.

    Args:
        cell: a name in `CELLS`.
        wiring: a name in `treadle.WIRINGS`.
        layers: how many layers of the cell.
        parameters: the number to match.

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
    what = f"{layers} {'layers' if layers > 1 else 'layer'} of {cell} wired as {wiring}"
    return nearest_hidden_size(lambda size: language_model(cell, wiring, layers, size), parameters, what)


def require_language_model(model: Any, name: str = "this") -> Recurrent:
    """``model`` if it reads bytes and scores the next one.

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
