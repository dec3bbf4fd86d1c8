"""A whole graph of ONNX as a module: recurrent nodes run as treadle's, the others as PyTorch does them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.errors import InteropError
from treadle.interop.onnx_in.operations import OPERATIONS, NodeCall
from treadle.interop.onnx_in.recurrent import NodeWeights, RecurrentNode

_RECURRENT = ("LSTM", "GRU", "RNN")
_PLACES = {"LSTM": ("W", "R", "B", "P"), "GRU": ("W", "R", "B", ""), "RNN": ("W", "R", "B", "")}


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a graph: an operator, the names of what it reads and gives, and its attributes."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Graph:
    """What a file holds."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int


class OnnxNetwork(nn.Module):
    """A graph of ONNX; called with the graph's inputs in their order, it gives the graph's outputs in theirs.

    Args:
        graph: what the file holds.
        engine: what runs recurrent nodes, as of `treadle.Recurrent`.

    Raises:
        InteropError: a node that cannot be read, by its name.
    """

    def __init__(self, graph: Graph, engine: str):
        super().__init__()
        self.graph, self.inputs, self.outputs = graph, graph.inputs, graph.outputs
        self.report: Any = None
        self._constants = dict(graph.constants)
        self.recurrent = nn.ModuleDict()
        for number, node in enumerate(graph.nodes):
            if node.kind in (*_RECURRENT, "DynamicQuantizeLSTM"):
                self.recurrent[str(number)] = self._recurrent(node, engine)
            elif node.kind not in OPERATIONS:
                raise InteropError(f"node {node.name}: there is no {node.kind} here, so this file cannot be read")
        self.eval()

    def _recurrent(self, node: Node, engine: str) -> RecurrentNode:
        if node.kind == "DynamicQuantizeLSTM":
            return RecurrentNode("LSTM", node.attributes, node.name, engine, _dequantised(node, self._constants))
        given = [name for name in _weight_names(node) if name]
        constant = all(name in self._constants for name in given)
        weights = _weights(node, self._constants) if constant else None
        return RecurrentNode(node.kind, node.attributes, node.name, engine, weights)

    def forward(self, *inputs: Any) -> Any:
        """The graph's outputs: a tensor, or a tuple of several.

        Args:
            inputs: tensors or arrays, in the order of the graph's inputs (``self.inputs``).

        Raises:
            InteropError: another number of inputs, or a node fails on them.
        """
        if len(inputs) != len(self.inputs):
            raise InteropError(
                f"the graph reads {len(self.inputs)} inputs ({', '.join(self.inputs)}), but {len(inputs)} were passed"
            )
        known: dict[str, Any] = {"": None, **self._constants}
        known |= {name: torch.as_tensor(value) for name, value in zip(self.inputs, inputs, strict=True)}
        for number, node in enumerate(self.graph.nodes):
            try:
                found = self._run(number, node, known)
            except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise InteropError(f"node {node.name} ({node.kind}) fails on what it is given: {first}") from error
            known |= dict(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
            known[""] = None
        results = tuple(known[name] for name in self.outputs)
        return results[0] if len(results) == 1 else results

    def _run(self, number: int, node: Node, known: Mapping[str, Any]) -> Any:
        if str(number) not in self.recurrent:
            return OPERATIONS[node.kind](
                NodeCall([known[name] for name in node.inputs], node.attributes, self.graph.opset)
            )
        network: Any = self.recurrent[str(number)]
        if not all(name in self._constants for name in _weight_names(node) if name):
            network.give(_weights(node, known))
        xs, lengths, h, c = (known[_input(node, n)] for n in (0, 4, 5, 6))
        return network(xs, lengths, h, c if network.kind == "LSTM" else None)


def _input(node: Node, n: int) -> str:
    return node.inputs[n] if n < len(node.inputs) else ""


def _weight_names(node: Node) -> list[str]:
    places = (1, 2, 3, 7) if node.kind in ("LSTM", "DynamicQuantizeLSTM") else (1, 2, 3)
    return [_input(node, n) for n in places]


def _weights(node: Node, known: Mapping[str, Any]) -> NodeWeights:
    W, R, *rest = _weight_names(node)
    return NodeWeights(known[W], known[R], *(known.get(name) if name else None for name in rest))


def _dequantised(node: Node, known: Mapping[str, Any]) -> NodeWeights:
    """The weights of a quantised node: W and R lie transposed, with a factor and a zero point of each direction or column."""  # noqa: E501
    W, R, B, P = (known.get(name) if name else None for name in _weight_names(node))
    W_scale, W_zero, R_scale, R_zero = (known.get(_input(node, n)) for n in (8, 9, 10, 11))
    if W is None or R is None or W_scale is None or R_scale is None:
        raise InteropError(f"node {node.name}: the weights of a quantised LSTM have to be constants")

    def real(matrix: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        shape = (len(matrix), 1, -1)
        shift = 0 if zero is None else zero.reshape(shape).float()
        return ((matrix.float() - shift) * scale.reshape(shape)).transpose(1, 2).contiguous()

    return NodeWeights(real(W, W_scale, W_zero), real(R, R_scale, R_zero), B, P)
