"""A network that reads bytes and says, after each, which byte may come next."""

import bisect
import inspect
from typing import Any

import torch
from torch import nn

from treadle import cells
from treadle.errors import ModelFileError, ShapeError
from treadle.recurrent import Recurrent
from treadle.wiring import WIRINGS, Graph, Stack
from treadle.wiring.named import layer_input_size

CELLS: dict[str, type[cells.RecurrentCell]] = {
    "lstm": cells.LSTMCell,
    "gru": cells.GRUCell,
    "rnn": cells.RNNCell,
    "peephole": cells.PeepholeLSTMCell,
    "layernorm": cells.LayerNormLSTMCell,
    "zoneout": cells.ZoneoutLSTMCell,
    "coupled": cells.CoupledLSTMCell,
    "minimal": cells.MinimalGatedCell,
    "slstm": cells.SLSTMCell,
    "indrnn": cells.IndRNNCell,
    "highway": cells.RecurrentHighwayCell,
}
"""The cells that can be asked for by a short name: those that read rows of features."""

EMBEDDING_SIZE = 64
"""Features that stand for a byte. The table [256, 64] is 8 % of a network of 200,000 parameters."""

TOLERANCE = 0.02
"""How far a matched network may be from the number of parameters asked for, as a share of it."""


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
    if cell not in CELLS:
        raise ValueError(f"there is no cell {cell!r}: choose one of {', '.join(CELLS)}")
    if wiring not in WIRINGS:
        raise ValueError(f"there is no wiring {wiring!r}: choose one of {', '.join(WIRINGS)}")
    if layers < 1:
        raise ShapeError(f"a network needs at least one layer, but layers={layers} was passed")
    kind: Any = CELLS[cell]
    options = {"forget_bias": 1.0} if "forget_bias" in inspect.signature(kind).parameters else {}
    sizes = [layer_input_size(wiring, layer, EMBEDDING_SIZE, [hidden_size] * layers) for layer in range(layers)]
    graph = Graph(())  # a row of the input is one number, the byte
    embedded = graph.add("embedded", nn.Embedding(256, EMBEDDING_SIZE), reads=graph.x)
    stack = graph.add("layers", Stack([kind(size, hidden_size, **options) for size in sizes], wiring), reads=embedded)
    return Recurrent(graph.outputs(graph.add("scores", nn.Linear(hidden_size, 256), reads=stack)))


def parameter_count(model: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in model.parameters())


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

    def count(hidden_size: int) -> int:
        with torch.device("meta"):  # shapes without memory
            return parameter_count(language_model(cell, wiring, layers, hidden_size))

    sizes = range(1, parameters // 256 + 2)  # the scores alone have 256 parameters for each unit of the hidden size
    enough = sizes[min(bisect.bisect_left(sizes, parameters, key=count), len(sizes) - 1)]
    reachable = {size: count(size) for size in (max(enough - 1, 1), enough)}
    best = min(reachable, key=lambda size: abs(reachable[size] - parameters))
    if abs(reachable[best] - parameters) > TOLERANCE * parameters:
        what = f"{layers} {'layers' if layers > 1 else 'layer'} of {cell} wired as {wiring}"
        near = " or ".join(f"{total:,} (hidden size {size})" for size, total in reachable.items())
        raise ShapeError(
            f"{what} cannot have {parameters:,} parameters to within {TOLERANCE:.0%}: the nearest it can have is {near}"
        )
    return best, reachable[best]


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
