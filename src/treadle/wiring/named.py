"""The wirings that have names: each a few lines over `treadle.Graph`. A new one is a function and a row of `WIRINGS`.

x(t) is the input, y_l(t) the output of layer l, all at the same step unless said. Each function gets the graph, the
layers (name and cell, from below to above) and ``between``, which is applied to what a layer hands upwards (dropout).
It returns what the wiring gives.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from treadle.errors import ShapeError
from treadle.wiring.graph import Graph, Read, sum_of
from treadle.wiring.sizes import output_size

Layers: TypeAlias = list[tuple[str, nn.Module]]
Between: TypeAlias = Callable[[str, Read], Read]


def stack(g: Graph, layers: Layers, between: Between) -> Read:
    """Layer l reads y_{l-1}(t). This is what `torch.nn.LSTM` does with ``num_layers``."""
    y = g.x
    for name, cell in layers:
        y = between(name, g.add(name, cell, reads=y))
    return y


def relay(g: Graph, layers: Layers, between: Between) -> Read:
    """Every layer reads x(t) and steps from the hidden state below: its previous h is h_{l-1}(t); its c is its own."""
    below, y = None, g.x
    for name, cell in layers:
        y = g.add(name, cell, reads=g.x, previous={"h": below} if below else None)
        below = between(name, y.state("h"))
    return y


def skip(g: Graph, layers: Layers, between: Between) -> Read:
    """Layer l reads y_{l-1}(t) and x(t), side by side."""
    reads = [g.x]
    for name, cell in layers:
        reads = [between(name, g.add(name, cell, reads=reads)), g.x]
    return reads[0]


def lateral(g: Graph, layers: Layers, between: Between) -> Read:
    """Layer l reads y_{l-1}(t) and y_{l-1}(t-1), side by side."""
    y, reads = g.x, [g.x]
    for i, (name, cell) in enumerate(layers):
        node = g.add(name, cell, reads=reads)
        y = between(name, node)
        # What is kept for the next step is the output itself; both readings of it get masks of their own.
        reads = [y, between(f"{name}_late", node.delayed())] if i < len(layers) - 1 else []
    return y


def residual(g: Graph, layers: Layers, between: Between) -> Read:
    """Layer l reads y_{l-1}(t) and adds it to its own output wherever the sizes match."""
    y = None
    for name, cell in layers:
        node = g.add(name, cell, reads=y or g.x)
        if y is not None and (node.size is None or y.size is None):
            raise ShapeError(
                f"layer {name!r}: a residual sum needs known sizes; give its cell and the one below an output_size"
            )
        y = between(name, sum_of(y, node) if y is not None and y.size == node.size else node)
    return y  # pyright: ignore[reportReturnType]


def dense(g: Graph, layers: Layers, between: Between) -> Read:
    """Layer l reads x(t) and the outputs of all layers below, side by side."""
    reads: list[Any] = [g.x]
    for name, cell in layers:
        reads.append(between(name, g.add(name, cell, reads=reads)))
    return reads[-1]


def feedback(g: Graph, layers: Layers, between: Between) -> Read:
    """Layer l reads y_{l-1}(t); layer 0 reads x(t) and what the top layer gave one step ago, side by side."""
    top, cell = layers[-1]
    size = output_size(cell, None)
    if size is None:
        raise ShapeError(
            f"layer {top!r} is fed back, so its size must be known before the first step: give its cell an output_size"
        )
    reads: Any = [g.x, g.later(top, size).delayed()]
    for name, cell in layers:
        reads = between(name, g.add(name, cell, reads=reads))
    return reads


WIRINGS: dict[str, Callable[[Graph, Layers, Between], Read]] = {
    wiring.__name__: wiring for wiring in (stack, relay, skip, lateral, residual, dense, feedback)
}
"""The named wirings: stack, relay, skip, lateral, residual, dense, feedback. `Stack` takes their names."""


def layer_input_size(wiring: str, layer: int, input_size: int, output_sizes: list[int]) -> int:
    """How many features layer ``layer`` reads under a named wiring, from the features of x and of every layer's output.

    This is the arithmetic that a caller needs before there are cells; that it agrees with the graphs is tested.
    """
    below = output_sizes[layer - 1] if layer else input_size
    match wiring:
        case "feedback" if layer == 0:
            return input_size + output_sizes[-1]
        case "relay":
            return input_size
        case "skip" if layer:
            return below + input_size
        case "lateral" if layer:
            return 2 * below
        case "dense":
            return input_size + sum(output_sizes[:layer])
    return below
