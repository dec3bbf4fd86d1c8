"""LSTM, GRU and RNN nodes of ONNX in place of a loop, where a network is nothing but these on top of each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from treadle import cells
from treadle.adapt import gate_orders
from treadle.interop.exported_step import as_array
from treadle.interop.onnx_nodes.writer import Writer
from treadle.wiring import Stack


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of node, and what it is told."""

    name: str
    attributes: Mapping[str, Any]


def classic_layers(cell: Any) -> list[tuple[str, Any]] | None:
    """The layers of a network with the paths of their states, if each is a classic cell of float32; None if one is not.

    ONNX Runtime has no GRU and no RNN of doubles.
    """
    if isinstance(cell, Stack) and cell.wiring == "stack":
        layers = [(f"layer{i}", one) for i, one in enumerate(cell.cells)]
    else:
        layers = [("", cell)]
    known = all(_kind(one) is not None and one.weight_hh.dtype == torch.float32 for _, one in layers)
    return layers if known else None


_FUNCTIONS: dict[str, tuple[str, list[float], list[float]]] = {
    "tanh": ("Tanh", [], []),
    "sigmoid": ("Sigmoid", [], []),
    "relu": ("Relu", [], []),
    "softsign": ("Softsign", [], []),
    "softplus": ("Softplus", [], []),
    "elu": ("Elu", [1.0], []),
    "linear": ("Affine", [1.0], [0.0]),
    "hard_sigmoid_0.2": ("HardSigmoid", [0.2], [0.5]),
    "hard_sigmoid_1/6": ("HardSigmoid", [1 / 6], [0.5]),
}
"""Our activations as those of the nodes, with their alpha and beta."""


def _kind(cell: Any) -> _Kind | None:
    if type(cell) is cells.LSTMCell and not cell.proj_size:
        last = cell.activation if cell.output_activation is None else cell.output_activation
        return _node("LSTM", cell.gate_activation, cell.activation, last)
    if type(cell) is cells.GRUCell:
        kind = _node("GRU", cell.gate_activation, cell.activation)
        return kind and dataclasses.replace(
            kind, attributes={**kind.attributes, "linear_before_reset": int(cell.reset_after)}
        )
    return _node("RNN", cell.nonlinearity) if type(cell) is cells.RNNCell else None


def _node(name: str, *activations: Any) -> _Kind | None:
    """A kind of node with its activations; None if the nodes have one of them not."""
    if not all(isinstance(one, str) and one in _FUNCTIONS for one in activations):
        return None
    names, alphas, betas = zip(*(_FUNCTIONS[one] for one in activations), strict=True)
    found = {"activations": [*names], "activation_alpha": [*chain(*alphas)], "activation_beta": [*chain(*betas)]}
    attributes = {key: numbers for key, numbers in found.items() if numbers}  # an empty list has no type
    return _Kind(name, attributes)


def put_layers(
    writer: Writer,
    layers: Sequence[Sequence[tuple[str, Any]]],
    xs: str,
    lengths: str,
    states: Mapping[str, str],
    reverse: bool = False,
) -> tuple[str, dict[str, str]]:
    """Layers over a sequence, as nodes.

    Args:
        writer: of the graph.
        layers: each a cell with the path of its states, or two of one kind, of which the second reads from the end.
        xs: the name of the sequence, [T, B, I].
        lengths: of the steps of each row, int32.
        states: the names of the states before the first step, [B, H], by their paths.
        reverse: whether layers of one cell read from the end.

    Returns:
        The name of the outputs [T, B, H of all directions], and of each state after the last step.
    """
    after: dict[str, str] = {}
    any_step = writer.node("Greater", writer.node("Unsqueeze", lengths, writer.indices(1)), writer.constant(0, "int32"))
    for cells_of in layers:
        xs, ends = _put_layer(writer, cells_of, xs, lengths, states, reverse)
        for name, end in ends.items():
            # Of a row without steps the nodes give zeros.
            after[name] = writer.node("Where", any_step, end, states[name])
    return xs, after


def _put_layer(
    writer: Writer,
    directions: Sequence[tuple[str, Any]],
    xs: str,
    lengths: str,
    states: Mapping[str, str],
    reverse: bool,
) -> tuple[str, dict[str, str]]:
    cell, kind = directions[0][1], _kind(directions[0][1])
    assert kind is not None
    first = writer.indices(0)
    parts = ["h", "c"] if kind.name == "LSTM" else ["h"]
    names = {part: [f"{path}.{part}" if path else part for path, _ in directions] for part in parts}
    given = [
        writer.node("Concat", *(writer.node("Unsqueeze", states[name], first) for name in names[part]), axis=0)
        for part in parts
    ]
    weights = [writer.constant(array) for array in _weights([one for _, one in directions], kind)]
    both = {key: list(value) * len(directions) for key, value in kind.attributes.items() if key in _PER_DIRECTION}
    found = writer.node(
        kind.name, xs, *weights, *([""] if len(weights) == 2 else []), lengths, *given, outputs=1 + len(parts),
        hidden_size=cell.hidden_size, direction=_DIRECTIONS[len(directions), reverse],
        **{**kind.attributes, **both},
    )  # fmt: skip
    if len(directions) == 1:
        ys = writer.node("Squeeze", found[0], writer.indices(1))
    else:  # [T, directions, B, H]
        ys = writer.node("Transpose", found[0], perm=[0, 2, 1, 3])
        ys = writer.node("Reshape", ys, writer.indices(0, 0, -1))
    ends = {}
    for part, end in zip(parts, found[1:], strict=True):
        for n, name in enumerate(names[part]):
            ends[name] = writer.node("Gather", end, writer.constant(n, "int64"), axis=0)
    return ys, ends


_PER_DIRECTION = ("activations", "activation_alpha", "activation_beta")
_DIRECTIONS = {(1, False): "forward", (1, True): "reverse", (2, False): "bidirectional"}


def go_together(one: Any, other: Any) -> bool:
    """Whether two classic cells can be both directions of one node."""
    alike = (
        _kind(one) == _kind(other)
        and one.hidden_size == other.hidden_size
        and one.weight_ih.shape == other.weight_ih.shape
    )
    return alike and (one.bias_ih is None) == (other.bias_ih is None)


def _weights(directions: Sequence[Any], kind: _Kind) -> list[Any]:
    """W, R and, where there is one, B: an axis for the directions first."""
    names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if directions[0].bias_ih is not None else [])
    orders = gate_orders.OURS[kind.name], gate_orders.ONNX[kind.name]
    found = {
        name: np.stack([gate_orders.reordered(as_array(getattr(one, name)), *orders) for one in directions])
        for name in names
    }
    biases = [np.concatenate([found.pop("bias_ih"), found.pop("bias_hh")], 1)] if "bias_ih" in found else []
    return [*found.values(), *biases]
