"""A model of Keras as a module: its layers by name, and who reads what."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from treadle.errors import InteropError
from treadle.files.description import kept_in_files
from treadle.interop.graph import GraphNetwork, Node
from treadle.interop.keras_in.architecture import Architecture, Call, values_of
from treadle.interop.keras_in.layer import KerasLayer, Masked
from treadle.running.recurrent import Recurrent
from treadle.wiring import Graph


@kept_in_files("treadle.KerasNetwork")
class KerasNetwork(GraphNetwork):
    """A model of Keras; called with the model's inputs in their order, it gives the model's outputs in theirs.

    It can be trained further, and saved by `treadle.save` like any other network.

    Args:
        layers: the layers.
        nodes: their calls.
        inputs: the names of what the model reads.
        outputs: of what it gives.

    Attributes:
        report: how far it agrees with the model; None of one that was loaded.
    """

    part = "layer"

    def __init__(
        self, layers: list[KerasLayer], nodes: tuple[Node, ...], inputs: tuple[str, ...], outputs: tuple[str, ...]
    ):
        super().__init__(nodes, inputs, outputs)
        self.layers = nn.ModuleList(layers)
        self.eval()

    def constructor_arguments(self) -> dict[str, Any]:
        """For model files."""
        return {"layers": list(self.layers), "nodes": self.nodes, "inputs": self.inputs, "outputs": self.outputs}

    def layer(self, name: str) -> Any:
        """A layer by its name in Keras; the ``network`` of a recurrent one is a `treadle.Recurrent`.

        Raises:
            KeyError: there is none.
        """
        for node in self.nodes:
            if node.name == repr(name):
                return self.layers[node.attributes["layer"]]
        raise KeyError(f"there is no layer {name!r}: {', '.join(dict.fromkeys(node.name for node in self.nodes))}")

    def entered(self, name: str, value: Any) -> Masked:
        """An input, which nothing masks."""
        return Masked(torch.as_tensor(value))

    def run(self, number: int, node: Node, known: Mapping[str, Any]) -> Any:
        """What a layer gives."""
        read = [known[one] if isinstance(one, str) else one for one in node.attributes["reads"]]
        layer: Any = self.layers[node.attributes["layer"]]
        weight = next(layer.parameters(), None)
        if weight is not None:  # Keras casts what a layer reads to the layer's precision
            read = [_cast(one, weight.dtype) if isinstance(one, Masked) else one for one in read]
        options: dict[str, Any] = {}
        if node.attributes.get("mask"):
            read[0] = Masked(read[0].x, known[node.attributes["mask"]].x.bool())
        if node.attributes.get("state"):
            options["initial_state"] = [known[one] for one in node.attributes["state"]]
        if node.attributes.get("ignore_mask"):
            options["ignore_mask"] = True
        return layer(*read, **options)

    def forward(self, *inputs: Any) -> Any:
        """The model's outputs: a tensor, or a tuple of several.

        Args:
            inputs: tensors or arrays, in the order of the model's inputs (``self.inputs``).

        Raises:
            InteropError: another number of inputs, or a layer fails on them.
        """
        known = self.values(*inputs)
        found = tuple(known[name].x for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def recurrent(self) -> Recurrent:
        """The model as a network over time that gives an output at every step, for sessions and exports.

        The output of the model itself is that of the last step, where its last recurrent layer gives no more.

        Raises:
            InteropError: it is no chain of layers that go forwards step by step.
        """
        steps = self._steps()
        graph = Graph(_input_size(next(iter(steps.values()))))
        read: Any = graph.x
        for name, step in steps.items():
            read = graph.add(name, step, reads=read)
        return Recurrent(graph.outputs(read))

    def _steps(self) -> dict[str, nn.Module]:
        """What each layer does with one step, by its name; a refusal if it takes more than that."""
        found: dict[str, nn.Module] = {}
        for node, layer in self.chain():
            step = layer.step()
            if step is None:
                raise InteropError(f"layer {node.name} ({node.kind}) does not go forwards step by step")
            found[re.sub(r"\W", "_", node.name.strip("'\"")) + "_" * (node.name in found)] = step
        return found

    def chain(self) -> list[tuple[Node, Any]]:
        """The layers in their order, if each reads what the one before it gives, and that alone.

        Raises:
            InteropError: they are no chain.
        """
        if len(self.inputs) != 1 or len(self.outputs) != 1 or not self.nodes:
            raise InteropError("only a model of one input and one output is a chain of layers")
        found, before = [], self.inputs[0]
        for node in self.nodes:
            if node.inputs != (before,) or {"state", "mask"} & node.attributes.keys():
                raise InteropError(f"layer {node.name} does not read what the layer before it gives, and that alone")
            found.append((node, self.layers[node.attributes["layer"]]))
            before = node.outputs[0]
        if before != self.outputs[0]:
            raise InteropError("the model gives what is not the output of its last layer")
        return found


def _cast(value: Masked, dtype: torch.dtype) -> Masked:
    return Masked(value.x.to(dtype), value.mask) if value.x.is_floating_point() else value


def _input_size(step: nn.Module) -> Any:
    if isinstance(step, nn.Embedding):
        return ()
    for module in step.modules():
        for attribute in ("in_features", "normalized_shape", "input_size"):
            if hasattr(module, attribute):
                return getattr(module, attribute)
    raise InteropError("the first layer does not say how many features it reads")


def nodes_of(architecture: Architecture, numbers: Mapping[str, int]) -> tuple[Node, ...]:
    """The calls of a model as nodes; ``numbers`` say where each layer stands.

    Raises:
        InteropError: a layer is called with what it does not know.
    """
    most: dict[str, int] = {}
    for value in (*(value for call in architecture.calls for value in values_of(call)), *architecture.outputs):
        most[value[0]] = max(most.get(value[0], 0), value[1])
    return tuple(_node(call, architecture, numbers, most) for call in architecture.calls)


def value_name(value: tuple[str, int]) -> str:
    """What a graph calls an output of a call."""
    return value[0] if value[1] == 0 else f"{value[0]}:{value[1]}"


def _node(call: Call, architecture: Architecture, numbers: Mapping[str, int], most: Mapping[str, int]) -> Node:
    layer = architecture.layers[call.layer]
    options = {key: value for key, value in call.options.items() if value is not None}
    options.pop("training", None)  # a network here is told by train() and eval()
    mask, state = options.pop("mask", None), options.pop("initial_state", None)
    attributes: dict[str, Any] = {"layer": numbers[call.layer]}
    reads = [value_name(one) if isinstance(one, tuple) else one for one in call.inputs]
    if not all(isinstance(one, str | int | float) for one in reads) or not reads or not isinstance(reads[0], str):
        raise InteropError(
            f"layer {layer.name!r} ({layer.kind}) is called with what is no tensor, which cannot be read"
        )
    if isinstance(mask, tuple) and not layer.is_operation:
        attributes["mask"] = value_name(mask)
    elif mask is not None:
        options["mask"] = mask
    if state is not None:
        states = state if isinstance(state, list) else [state]
        attributes["state"] = [value_name(one) for one in states]
    if options.pop("ignore_mask", False):
        attributes["ignore_mask"] = True
    if options:
        raise InteropError(
            f"layer {layer.name!r} ({layer.kind}) is called with {', '.join(options)}, which cannot be read"
        )
    attributes["reads"] = reads
    outputs = tuple(value_name((call.output, n)) for n in range(most.get(call.output, 0) + 1))
    named = tuple(one for one in reads if isinstance(one, str))
    return Node(layer.kind, repr(layer.name), named, outputs, attributes)


def build(architecture: Architecture, reader: Any, arrays: Mapping[str, list[np.ndarray]]) -> KerasNetwork:
    """The network of a model, its layers read with their weights.

    Raises:
        InteropError: a layer cannot be read, by its name.
    """
    used = dict.fromkeys(call.layer for call in architecture.calls)
    layers = [reader.read(architecture.layers[name], arrays.get(name, [])) for name in used]
    numbers = {name: number for number, name in enumerate(used)}
    outputs = tuple(value_name(value) for value in architecture.outputs)
    return KerasNetwork(layers, nodes_of(architecture, numbers), architecture.inputs, outputs)
