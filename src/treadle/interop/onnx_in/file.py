"""Reads ONNX files without trusting them: no data outside the file, no graphs within nodes, bounded sizes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.atomic import regular
from treadle.errors import InteropError, ModelFileError
from treadle.interop.onnx_in.network import Graph, Node

_LARGEST = 2 * 1024**3
"""The format itself allows no file above 2 GB."""
_DOMAINS = ("", "ai.onnx", "com.microsoft")


def read_graph(path: str | os.PathLike[str]) -> tuple[Any, Graph]:
    """The model of a file, and its graph.

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
    return model, _graph(model)


def _graph(model: Any) -> Graph:
    from onnx import numpy_helper

    constants = {one.name: _tensor(numpy_helper.to_array(one)) for one in model.graph.initializer}
    nodes = tuple(_node(number, node) for number, node in enumerate(model.graph.node))
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    return Graph(
        nodes,
        constants,
        tuple(one.name for one in model.graph.input if one.name not in constants),
        tuple(one.name for one in model.graph.output),
        opset,
    )


def _node(number: int, node: Any) -> Node:
    name = repr(node.name) if node.name else f"{number} ({node.op_type})"
    if node.domain not in _DOMAINS:
        raise InteropError(f"node {name}: operators of {node.domain} cannot be read")
    return Node(
        node.op_type,
        name,
        tuple(node.input),
        tuple(node.output),
        {one.name: _attribute(name, one) for one in node.attribute},
    )


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
    return list(value) if attribute.type in (kinds.INTS, kinds.FLOATS) else value


def _tensor(array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:
        raise InteropError(f"a constant of {array.dtype} cannot be read") from None
