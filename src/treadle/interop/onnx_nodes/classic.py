"""LSTM, GRU and RNN nodes of ONNX in place of a loop, where a network is nothing but these on top of each other."""

import dataclasses
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch

from treadle import cells
from treadle.interop.exported_step import as_array
from treadle.interop.onnx_nodes.writer import Writer
from treadle.wiring import Stack


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of node: which of our gates, in order, are its gates, and what else it is told."""

    name: str
    gates: tuple[int, ...]
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
        return _node("LSTM", (0, 3, 1, 2), cell.gate_activation, cell.activation, last)  # i f g o here, i o f c there
    if type(cell) is cells.GRUCell:
        kind = _node("GRU", (1, 0, 2), cell.gate_activation, cell.activation)  # r z n here, z r h there
        return kind and dataclasses.replace(
            kind, attributes={**kind.attributes, "linear_before_reset": int(cell.reset_after)}
        )
    return _node("RNN", (0,), cell.nonlinearity) if type(cell) is cells.RNNCell else None


def _node(name: str, gates: tuple[int, ...], *activations: Any) -> _Kind | None:
    """A kind of node with its activations; None if the nodes have one of them not."""
    if not all(isinstance(one, str) and one in _FUNCTIONS for one in activations):
        return None
    names, alphas, betas = zip(*(_FUNCTIONS[one] for one in activations), strict=True)
    found = {"activations": [*names], "activation_alpha": [*chain(*alphas)], "activation_beta": [*chain(*betas)]}
    attributes = {key: numbers for key, numbers in found.items() if numbers}  # an empty list has no type
    return _Kind(name, gates, attributes)


def put_layers(
    writer: Writer, layers: list[tuple[str, Any]], xs: str, lengths: str, states: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """The layers over a sequence [T, B, I]: the name of their outputs [T, B, H], and of each state after the last step."""  # noqa: E501
    after: dict[str, str] = {}
    first = writer.indices(0)
    any_step = writer.node("Greater", writer.node("Unsqueeze", lengths, writer.indices(1)), writer.constant(0, "int32"))
    for path, cell in layers:
        kind = _kind(cell)
        assert kind is not None
        parts = ["h", "c"] if kind.name == "LSTM" else ["h"]
        names = [f"{path}/{part}" if path else part for part in parts]
        given = [writer.node("Unsqueeze", states[name], first) for name in names]
        weights = [
            writer.constant(_gates(getattr(cell, name), kind.gates)[None]) for name in ("weight_ih", "weight_hh")
        ]
        bias = ""
        if cell.bias_ih is not None:
            both = [_gates(getattr(cell, name), kind.gates) for name in ("bias_ih", "bias_hh")]
            bias = writer.constant(torch.cat([torch.from_numpy(b) for b in both]).numpy()[None])
        found = writer.node(
            kind.name, xs, *weights, bias, lengths, *given, outputs=1 + len(parts), hidden_size=cell.hidden_size,
            **kind.attributes,
        )  # fmt: skip
        xs = writer.node("Squeeze", found[0], writer.indices(1))
        for name, out in zip(names, found[1:], strict=True):
            # Of a row without steps the nodes give zeros.
            after[name] = writer.node("Where", any_step, writer.node("Squeeze", out, first), states[name])
    return xs, after


def _gates(parameter: torch.Tensor, order: tuple[int, ...]) -> Any:
    """The blocks of a parameter, one a gate, in another order."""
    return as_array(torch.cat([parameter.chunk(len(order))[gate] for gate in order]))
