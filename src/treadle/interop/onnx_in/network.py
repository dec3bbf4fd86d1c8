"""A whole graph of ONNX as a module: recurrent nodes run as treadle's, the others as PyTorch does them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.errors import InteropError
from treadle.files.description import kept_in_files
from treadle.interop.graph import GraphNetwork, Node
from treadle.interop.onnx_in.operations import OPERATIONS, TYPES, NodeCall
from treadle.interop.onnx_in.recurrent import NodeWeights, RecurrentNode
from treadle.interop.onnx_in.step import as_steps
from treadle.running.recurrent import Recurrent

_RECURRENT = ("LSTM", "GRU", "RNN")
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in TYPES.values()}


@kept_in_files("treadle.OnnxConstant")
@dataclasses.dataclass(frozen=True)
class Constant:
    """What a graph says of a constant: its name, what kind of numbers it holds (``"float32"``), and its shape."""

    name: str
    kind: str
    shape: tuple[int, ...]

    def zeros(self) -> Tensor:
        """A constant of this form."""
        return torch.zeros(self.shape, dtype=_BY_NAME[self.kind])


@kept_in_files("treadle.OnnxInput")
@dataclasses.dataclass(frozen=True)
class Input:
    """What a graph says of an input: its name, what kind of numbers it takes, and its shape.

    A size that it leaves open is a name, the same wherever it is the same size.
    """

    name: str
    kind: str
    shape: tuple[int | str, ...]

    def tensor(self, sizes: Mapping[str, int], random: torch.Generator) -> Tensor:
        """Random numbers of this form, ones in place of whole numbers, where open sizes are these."""
        shape, dtype = [sizes[size] if isinstance(size, str) else size for size in self.shape], _BY_NAME[self.kind]
        if dtype.is_floating_point:
            return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
        return torch.ones(shape, dtype=dtype)


@kept_in_files("treadle.OnnxGraph")
@dataclasses.dataclass(frozen=True)
class Graph:
    """What a file holds, but for the numbers."""

    nodes: tuple[Node, ...]
    constants: tuple[Constant, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    opset: int


@kept_in_files("treadle.OnnxNetwork")
class OnnxNetwork(GraphNetwork):
    """A graph of ONNX; called with the graph's inputs in their order, it gives the graph's outputs in theirs.

    It can be saved by `treadle.save` and loaded by `treadle.load`, which needs no ONNX.

    Args:
        graph: what the file holds.
        engine: what runs recurrent nodes, as of `treadle.Recurrent`.
        numbers: those of the graph's constants, by name; zeros unless given, to be filled from a file.

    Attributes:
        report: how far the network agrees with the file that it was read from; None of one that was loaded.

    Raises:
        InteropError: a node that cannot be read, by its name.
    """

    def __init__(self, graph: Graph, engine: str = "auto", numbers: Mapping[str, Tensor] | None = None):
        super().__init__(graph.nodes, tuple(one.name for one in graph.inputs), graph.outputs)
        self.graph, self.engine = graph, engine
        self._of_file = {one.name for one in graph.constants}
        if numbers is None:
            numbers = {one.name: one.zeros() for one in graph.constants}
        self.over_time = nn.ModuleDict()
        for number, node in enumerate(graph.nodes):
            if node.kind in (*_RECURRENT, "DynamicQuantizeLSTM"):
                self.over_time[str(number)] = self._recurrent(node, engine, numbers)
            elif node.kind not in OPERATIONS:
                raise InteropError(f"node {node.name}: there is no {node.kind} here, so this file cannot be read")
        self._buffer_of = {name: f"constant{n}" for n, name in enumerate(self._read_as_they_are())}
        for name, buffer in self._buffer_of.items():
            self.register_buffer(buffer, numbers[name])
        self.eval()

    def constructor_arguments(self) -> dict[str, Any]:
        """For model files."""
        return {"graph": self.graph, "engine": self.engine}

    def recurrent(self) -> Recurrent:
        """The graph as a network over time that gives an output at every step, for sessions and exports.

        Its output is the graph's first. Where that is of the last step alone, it is given at each step.

        Raises:
            InteropError: the graph does not go forwards step by step.
        """
        return as_steps(self)

    def _recurrent(self, node: Node, engine: str, numbers: Mapping[str, Tensor]) -> RecurrentNode:
        if node.kind == "DynamicQuantizeLSTM":
            return RecurrentNode("LSTM", node.attributes, node.name, engine, _dequantised(node, numbers))
        weights = _weights(node, numbers) if self._has_own_weights(node) else None
        return RecurrentNode(node.kind, node.attributes, node.name, engine, weights)

    def _has_own_weights(self, node: Node) -> bool:
        return all(name in self._of_file for name in _weight_names(node) if name)

    def _read_as_they_are(self) -> list[str]:
        """The constants that are read when the graph runs; the weights of recurrent nodes lie in these."""
        read = set(self.outputs)
        for number, node in enumerate(self.graph.nodes):
            of_cells = str(number) in self.over_time and self._has_own_weights(node)
            read |= {_input(node, n) for n in (0, 4, 5, 6)} if of_cells else set(node.inputs)
        return [one.name for one in self.graph.constants if one.name in read]

    def constants(self) -> dict[str, Any]:
        """The constants of the graph."""
        return {name: getattr(self, own) for name, own in self._buffer_of.items()}

    def run(self, number: int, node: Node, known: Mapping[str, Any]) -> Any:
        """A recurrent node over time, any other as PyTorch does it."""
        if str(number) not in self.over_time:
            return OPERATIONS[node.kind](
                NodeCall([known[name] for name in node.inputs], node.attributes, self.graph.opset)
            )
        network: Any = self.over_time[str(number)]
        if not self._has_own_weights(node):
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
    names = [*_weight_names(node), *(_input(node, n) for n in (8, 9, 10, 11))]
    if any(name and name not in known for name in names):
        raise InteropError(f"node {node.name}: the weights of a quantised LSTM have to be constants")
    W, R, B, P, W_scale, W_zero, R_scale, R_zero = (known[name] if name else None for name in names)
    if W is None or R is None or W_scale is None or R_scale is None:
        raise InteropError(f"node {node.name}: a quantised LSTM has weights and their scales, but some are left out")

    def real(matrix: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        shape = (len(matrix), 1, -1)
        shift = 0 if zero is None else zero.reshape(shape).float()
        return ((matrix.float() - shift) * scale.reshape(shape)).transpose(1, 2).contiguous()

    return NodeWeights(real(W, W_scale, W_zero), real(R, R_scale, R_zero), B, P)
