"""A recurrent network between layers without memory, as people write it in a `torch.nn.Sequential`, as one wiring."""

from typing import Any

from torch import nn

from treadle import state as states
from treadle.errors import ShapeError
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import OverTime
from treadle.wiring import Graph

LAYERS = (
    nn.Embedding, nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU,
    nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Softplus, nn.Softmax, nn.LogSoftmax,
)  # fmt: skip
"""The layers without memory that are exported together with a recurrent network: each treats every step alike."""


def as_recurrent(network: Any) -> Recurrent:
    """A network over time: one, a drop-in, a cell, or a `torch.nn.Sequential` that has them between `LAYERS`.

    Raises:
        TypeError: it is none of these; the part that is not known is named.
    """
    if isinstance(network, Recurrent):
        return network
    if states.takes_hx(network):
        return states.over_time(network)
    if isinstance(network, OverTime):
        raise TypeError(f"a {type(network).__name__} reads a sequence from its end: it has no steps to be exported")
    if hasattr(network, "initial_state"):
        return Recurrent(network)
    if isinstance(network, nn.Sequential):
        return as_one(list(network.named_children()))
    raise TypeError(
        f"a network over time can be exported, but this is a {type(network).__name__}: pass a treadle.Recurrent, a"
        " treadle.LSTM, GRU or RNN, a cell, or a torch.nn.Sequential with one of them"
    )


def as_one(parts: list[tuple[str, nn.Module]], input_size: Any = None) -> Recurrent:
    """Parts of a `torch.nn.Sequential`, each by its name, as one network over time.

    Args:
        parts: cells, networks over time, and layers of `LAYERS`.
        input_size: what the first one reads; unless it says so itself.
    """
    g = Graph(_input_size(parts) if input_size is None else input_size)
    reads: Any = g.x
    batch_first = True
    for name, part in parts:
        if isinstance(part, LAYERS):
            if getattr(part, "dim", -1) != -1:
                raise TypeError(
                    f"part {name} is a {type(part).__name__} over dim={part.dim}: only over the last, dim=-1"
                )
            cell: nn.Module = part
        elif type(part).__module__.startswith("torch."):
            known = ", ".join(layer.__name__ for layer in LAYERS)
            raise TypeError(
                f"part {name} of the Sequential is a {type(part).__name__}, which cannot be exported: recurrent"
                f" networks of treadle can, and {known}"
            )
        else:
            recurrent = as_recurrent(part)
            batch_first, cell = recurrent.batch_first, recurrent.cell
        reads = g.add(part_name(name), cell, reads=reads)
    return Recurrent(g.outputs(reads), batch_first=batch_first)


def part_name(name: str) -> str:
    """What a part of a Sequential is called where names are words: ``"part0"``."""
    return f"part{name}" if name.isdigit() else name


def _input_size(parts: list[tuple[str, nn.Module]]) -> Any:
    for _, part in parts:
        if isinstance(part, nn.Embedding):
            return ()
        for attribute in ("in_features", "normalized_shape", "input_size"):
            if hasattr(part, attribute):
                return getattr(part, attribute)
    raise ShapeError("no part of the Sequential says what it reads: begin with a Linear or an Embedding")
