"""The seven named wirings, and a graph of one's own, as `treadle.show.draw_wiring` draws them."""

import functools
from collections.abc import Callable

import torch

import treadle as td
from treadle.show.wiring import wiring_figure
from treadle.wiring.named import layer_input_size

from .plots import themed


def named(wiring: str) -> td.Graph:
    """Three layers of a named wiring."""
    input_size, hidden_sizes = 40, [64, 64, 64]
    reads = [layer_input_size(wiring, layer, input_size, hidden_sizes) for layer in range(len(hidden_sizes))]
    return td.Stack([td.LSTMCell(I, H) for I, H in zip(reads, hidden_sizes, strict=True)], wiring)


def own() -> td.Graph:
    """The example of "How layers connect", as written there."""
    g = td.Graph(())
    embedded = g.add("embedded", torch.nn.Embedding(100, 32), reads=g.x)
    upper = g.later("high", 64)
    low = g.add("low", td.LSTMCell(96, 64), reads=[embedded, upper.delayed()])
    high = g.add("high", td.GRUCell(128, 64), reads=[low, low.delayed(2)])
    scores = g.add("scores", torch.nn.Linear(64, 100), reads=td.sum_of(low, high))
    return g.outputs(scores)


def _drawn(network: Callable[[], td.Graph]) -> str:
    return themed(wiring_figure(network()))


WIRINGS = {name: functools.partial(_drawn, functools.partial(named, name)) for name in td.WIRINGS}
WIRINGS["graph"] = functools.partial(_drawn, own)
