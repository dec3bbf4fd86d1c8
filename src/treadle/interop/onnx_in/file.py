"""Reads ONNX files without trusting them: no data outside the file, no graphs within nodes, bounded sizes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.atomic import regular
from treadle.errors import InteropError, ModelFileError
from treadle.interop.graph import Node
from treadle.interop.onnx_in.network import Constant, Graph, Input
from treadle.interop.onnx_in.operations import NUMBERS, TYPES

_LARGEST = 2 * 1024**3
"""The format itself allows no file above 2 GB."""
_DOMAINS = ("", "ai.onnx", "com.microsoft")


def read_graph(path: str | os.PathLike[str]) -> tuple[Any, Graph, dict[str, Tensor]]:
    """The model of a file, its graph, and the numbers of the graph's constants by name.

    Raises:
        ModelFileError: the file is no ONNX file, is too large, or refers to other files.
        InteropError: it holds what cannot be read, which is named.
    """
    import onnx

    if os.path.getsize(regular(path)) > _LARGEST:
        raise ModelFileError(f"{path} has more than 2 GB, which no ONNX file has")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(Path(path).read_bytes())
        if not model.graph.output:
            raise ValueError("no outputs")
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ModelFileError(f"{path} keeps {tensor.name!r} in another file: pass one that holds its weights")
    except ModelFileError:
        raise
    except Exception as error:  # protobuf's and the checker's own errors have no common base
        raise ModelFileError(f"{path} is no ONNX file: {(str(error).splitlines() or ['it is empty'])[0]}") from None
    return model, *_graph(model)


def _graph(model: Any) -> tuple[Graph, dict[str, Tensor]]:
    from onnx import numpy_helper

    numbers = {one.name: _tensor(numpy_helper.to_array(one)) for one in model.graph.initializer}
    inputs = tuple(_input(one) for one in model.graph.input if one.name not in numbers)
    nodes = [_node(number, node, numbers) for number, node in enumerate(model.graph.node)]
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    constants = tuple(
        Constant(name, str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in numbers.items()
    )
    return Graph(
        tuple(node for node in nodes if node is not None),
        constants,
        inputs,
        tuple(one.name for one in model.graph.output),
        opset,
    ), numbers


def _input(one: Any) -> Input:
    kind = TYPES.get(one.type.tensor_type.elem_type)
    if kind is None:
        raise InteropError(f"input {one.name}: only tensors of numbers can be read")
    dims = enumerate(one.type.tensor_type.shape.dim)
    shape = tuple(dim.dim_value or dim.dim_param or f"{one.name}.{n}" for n, dim in dims)
    return Input(one.name, str(kind).removeprefix("torch."), shape)


def _node(number: int, node: Any, numbers: dict[str, Tensor]) -> Node | None:
    """A node; what is nothing but numbers goes to these, and is none."""
    name = repr(node.name) if node.name else f"{number} ({node.op_type})"
    if node.domain not in _DOMAINS:
        raise InteropError(f"node {name}: operators of {node.domain} cannot be read")
    attributes = {one.name: _attribute(name, one) for one in node.attribute}
    inputs = tuple(node.input)
    if node.op_type == "Constant":
        numbers[node.output[0]] = _constant(name, attributes)
        return None
    for attribute, value in list(attributes.items()):
        if isinstance(value, Tensor):  # of ConstantOfShape: a further input here
            numbers[f"{node.output[0]} {attribute}"] = attributes.pop(attribute)
            inputs = (*inputs, f"{node.output[0]} {attribute}")
    for n, attribute in NUMBERS.get(node.op_type, {}).items():
        if n < len(inputs) and inputs[n] in numbers:
            attributes[attribute] = [int(one) for one in numbers[inputs[n]].reshape(-1)]
            inputs = (*inputs[:n], "", *inputs[n + 1 :])
    if node.op_type == "Gather" and inputs[1] in numbers and not numbers[inputs[1]].ndim:
        attributes["index"], inputs = int(numbers[inputs[1]]), (inputs[0], "")
    return Node(node.op_type, name, inputs, tuple(node.output), attributes)


def _constant(node: str, attributes: dict[str, Any]) -> Tensor:
    kind = next(iter(attributes), "no value")
    if kind == "value":
        return attributes[kind]
    if kind not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise InteropError(f"node {node}: a constant with {kind} cannot be read")
    return torch.tensor(attributes[kind], dtype=torch.float32 if "float" in kind else torch.int64)


def _attribute(node: str, attribute: Any) -> Any:
    import onnx
    from onnx import helper, numpy_helper

    kinds = onnx.AttributeProto
    if attribute.type in (kinds.GRAPH, kinds.GRAPHS):
        raise InteropError(f"node {node}: a graph within a node cannot be read")
    if attribute.type == kinds.TENSOR:
        return _tensor(numpy_helper.to_array(attribute.t))
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type == kinds.STRINGS:
        return [one.decode(errors="replace") for one in value]
    if attribute.type in (kinds.INTS, kinds.FLOATS):
        return list(value)
    if not isinstance(value, int | float):
        raise InteropError(f"node {node}: its attribute {attribute.name} cannot be read")
    return value


def _tensor(array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:
        raise InteropError(f"a constant of {array.dtype} cannot be read") from None
