"""ONNX files as networks."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from treadle.errors import InteropError
from treadle.interop.installed import installed
from treadle.interop.onnx_in.file import read_graph
from treadle.interop.onnx_in.network import Graph, OnnxNetwork
from treadle.interop.report import Report, check_finite, relative_difference

_SIZES = (2, 5, 3, 4, 6)
"""What the sizes that a file leaves open are where both sides are run, in the order in which they are met."""
_OF_BYTES = 0.1
"""How far floats may be from products of bytes, relative to the largest number."""


def from_onnx(
    path: str | os.PathLike[str],
    engine: str = "auto",
    inputs: Sequence[Any] | None = None,
    tolerance: float = 1e-5,
) -> OnnxNetwork:
    """Read an ONNX file as a network whose LSTM, GRU and RNN nodes run as treadle's.

    All attributes of these nodes are taken: direction, layout, clip, activations, input_forget, linear_before_reset,
    peepholes, sequence_lens, initial states. ``DynamicQuantizeLSTM`` is read with its weights dequantised. The nodes
    around them (`treadle.interop.onnx_in.operations.OPERATIONS`) run as PyTorch's. A file that holds anything else is
    refused, with the node's name. Nothing in a file is code.

    The network is run beside ONNX Runtime on random inputs (or on yours), and compared; where that does not take the
    file, beside ONNX's own reference.

    Args:
        path: the file.
        engine: what runs the recurrent nodes, as of `treadle.Recurrent`.
        inputs: what both sides are given, in the order of the graph's inputs; random numbers of small sizes unless given.
        tolerance: how far both sides may differ, relative to the largest number.

    Returns:
        A module, called with the graph's inputs in their order (its ``inputs`` names them), that gives the outputs in
        theirs; its ``report`` says how far both sides agree. `treadle.save` writes it like any other network.

    Raises:
        ModelFileError: the file is no ONNX file, or refers to other files.
        InteropError: a node cannot be read; ONNX is not installed; both sides differ.
    """  # noqa: E501
    onnx = installed("onnx")
    model, graph, numbers = read_graph(path)
    network = OnnxNetwork(graph, engine, numbers)
    given = _random(graph) if inputs is None else [np.asarray(one) for one in inputs]
    wanted, who, why = _by_others(onnx, model, dict(zip(network.inputs, given, strict=True)))
    if wanted is None:
        network.report = Report(str(path), "", None, (f"not compared: {why}",))
        return network
    with torch.no_grad():
        found = network(*given)
    found = found if isinstance(found, tuple) else (found,)
    wanted = [torch.as_tensor(one) for one in wanted]
    difference = relative_difference([torch.as_tensor(one) for one in found], wanted)
    notes = ("quantised nodes run in floats here",) if any(n.kind.startswith("Dynamic") for n in graph.nodes) else ()
    if notes and _saturates() and difference > _OF_BYTES:
        saturated = f"{who} differs by {difference:.1e}: its products of bytes saturate on a CPU without VNNI"
        network.report = Report(str(path), "", None, (*notes, f"not compared: {saturated}"))
        return network
    if not difference <= (tolerance if not notes else max(tolerance, _OF_BYTES)):
        check_finite(wanted)
        raise InteropError(
            f"the network differs from {who} by {difference:.1e}, more than tolerance={tolerance:g}", difference
        )
    network.report = Report(str(path), f"random inputs, {who}", difference, notes)
    return network


def _saturates() -> bool:
    """Whether ONNX Runtime adds up products of bytes in 16 bits on this CPU, where they do not fit.

    Its own documentation says so of x86 without VNNI, and advises to quantise to seven bits.
    """
    import llvmlite.binding as llvm  # not where treadle is imported: it takes its time

    present = {feature for feature, is_there in llvm.get_host_cpu_features().items() if is_there}
    return "avx2" in present and not present & {"avx512vnni", "avxvnni"}


def _random(graph: Graph) -> list[np.ndarray]:
    """Inputs such as the graph reads."""
    random = torch.Generator().manual_seed(0)
    names = dict.fromkeys(size for one in graph.inputs for size in one.shape if isinstance(size, str))
    sizes = dict(zip(names, itertools.cycle(_SIZES), strict=False))
    return [one.tensor(sizes, random).numpy() for one in graph.inputs]


def _by_others(onnx: Any, model: Any, given: dict[str, Any]) -> tuple[Any, str, str]:
    """What ONNX Runtime, or ONNX's own reference, makes of inputs; who it was; and why none did."""
    why = ""
    try:
        onnxruntime = installed("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, given), "ONNX Runtime", ""
    except Exception as error:  # ONNX Runtime's own errors have no common base
        why = (str(error).splitlines() or [""])[0]
    try:
        reference = onnx.reference.ReferenceEvaluator(model)
        return reference.run(None, given), "ONNX's reference", ""
    except Exception:  # whatever it is, this file has nobody to be compared with
        return None, "", why
