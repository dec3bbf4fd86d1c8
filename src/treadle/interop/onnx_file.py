"""Networks as ONNX files: a live step, or whole sequences."""

import json
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from treadle import state as states
from treadle.atomic import replacing
from treadle.errors import InteropError
from treadle.interop.exported_step import ExportedStep, Numbers, as_array, exported_step
from treadle.interop.installed import installed
from treadle.interop.onnx_nodes.classic import classic_layers, put_layers
from treadle.interop.onnx_nodes.operations import ProgramNodes
from treadle.interop.onnx_nodes.writer import TYPES, Writer
from treadle.interop.report import Report, check_agreement, relative_difference

_OPSET, _IR = 18, 8
"""Old enough for any ONNX Runtime since 1.14, new enough for axes as inputs."""
_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def to_onnx(
    network: Any,
    path: str | os.PathLike[str],
    form: Literal["step", "sequence"] = "step",
    input_size: int | tuple[int, ...] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Write a network as an ONNX file, for ONNX Runtime and others, for any batch size.

    ``form="step"`` is a live step. Inputs: ``x`` [B, I] and every component of the state, such as ``layer0.h`` [B, H];
    outputs: ``y`` [B, H] and the components after the step, ``layer0.h_after``. Feed these back to go on.

    ``form="sequence"`` is a whole sequence of any length. Inputs: ``xs`` [B, T, I] ([T, B, I] where the network is not
    ``batch_first``), ``lengths`` [B] (int64; T, or more, where a row is whole), and the initial state; outputs: ``ys``
    and the final state. An LSTM, GRU or RNN is a node of that kind, any other network a Scan over its traced
    step. Past the length of its row an output is zero, and the state stands still.

    The state before the first step is in the file as the initialisers ``layer0.h_rest`` [1, H], …, and in its metadata
    as JSON under ``treadle``, beside the name that each component has after the step.

    Before the file is written, it is run by ONNX Runtime beside the network, and compared.

    Args:
        network: a `treadle.Recurrent`, a drop-in that is not bidirectional, a cell, or a `torch.nn.Sequential` that has
            one of these between layers without memory; exported in evaluation mode.
        path: the file.
        form: ``"step"`` or ``"sequence"``.
        input_size: what a step reads; needed only where the cell does not say it.
        tolerance: how far both sides may differ, relative to the largest number; 1e-5 unless given (1e-10 for float64).

    Returns:
        A `Report`: how far both sides agree.

    Raises:
        TraceError: the step cannot be traced, or holds an operation that cannot be said in ONNX.
        InteropError: ONNX or ONNX Runtime is not installed, or both sides differ; nothing is written.
        ValueError: another ``form``.

    Example:
        >>> import treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 8), td.LSTMCell(8, 8)]))
        >>> report = td.interop.to_onnx(rnn, "net.onnx", form="sequence")  # doctest: +SKIP
    """
    if form not in ("step", "sequence"):
        raise ValueError(f"form is 'step' or 'sequence', but {form!r} was passed")
    onnx = installed("onnx")
    step = exported_step(network, input_size)
    model = _step_model(step) if form == "step" else _sequence_model(step)
    onnx.checker.check_model(model)
    dtype = next((t.dtype for t in (*step.constants.values(), step.x) if t.is_floating_point()), torch.float32)
    tolerance = _TOLERANCES.get(dtype, 1e-5) if tolerance is None else tolerance
    content = model.SerializeToString()
    difference, compared = (_compared_steps if form == "step" else _compared_sequences)(content, step)
    check_agreement(difference, tolerance, "the ONNX file")
    with replacing(path) as beside:
        beside.write_bytes(content)
    return Report(str(path), compared, difference)


# The file


def dotted(component: str) -> str:
    """What a component of the state is called in the file: ``"layer0.h"``."""
    return component.removeprefix("state/").replace("/", ".")


def _info(name: str, dtype: torch.dtype, *shape: Any) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, TYPES[dtype], shape)


def _state_inputs(writer: Writer, step: ExportedStep) -> tuple[list[Any], dict[str, str]]:
    """The inputs of the graph; what they are before the first step lies beside them."""
    inputs, given = [], {}
    for component, tensor in step.initial.items():
        name = dotted(component)
        rest = writer.constant(as_array(tensor), name=f"{name}_rest")
        # The same state, of as many features as that one: runtimes complain of constants that nobody reads.
        given[component] = writer.node("Expand", name, writer.node("Shape", rest))
        inputs.append(_info(name, tensor.dtype, "B", *tensor.shape[1:]))
    return inputs, given


def _state_outputs(writer: Writer, step: ExportedStep, after: Mapping[str, str]) -> list[Any]:
    outputs = []
    for component, tensor in step.initial.items():
        name = f"{dotted(component)}_after"
        writer.node("Identity", after[component], output=name)
        outputs.append(_info(name, tensor.dtype, "B", *tensor.shape[1:]))
    return outputs


def _step_model(step: ExportedStep) -> Any:
    writer, program = Writer(), step.program
    inputs, given = _state_inputs(writer, step)
    values = {program.inputs[component]: name for component, name in given.items()}
    names = ProgramNodes(writer, program, Numbers(step.constants), {program.inputs["x"]: "x", **values}).outputs()
    y = program.outputs["y"]
    writer.node("Identity", names["y"], output="y")
    outputs = [_info("y", y.dtype, "B", *y.row_shape), *_state_outputs(writer, step, names)]
    return _model(writer, step, [_info("x", step.x.dtype, "B", *step.x.shape[1:]), *inputs], outputs)


def _sequence_model(step: ExportedStep) -> Any:
    writer, y = Writer(), step.program.outputs["y"]
    time = 1 if step.network.batch_first else 0
    inputs, given = _state_inputs(writer, step)
    steps = writer.node("Shape", "xs", start=time, end=time + 1)
    lengths = writer.node("Min", "lengths", steps)
    layers = classic_layers(step.network.cell)
    if layers is None:
        ys, after = _scan(writer, step, given, lengths, steps, time)
    else:
        ys, after = _nodes(writer, layers, given, lengths, time)
    writer.node("Identity", ys, output="ys")
    around = ("B", "T") if time else ("T", "B")
    given_inputs = [
        _info("xs", step.x.dtype, *around, *step.x.shape[1:]), _info("lengths", torch.int64, "B"), *inputs
    ]  # fmt: skip
    outputs = [_info("ys", y.dtype, *around, *y.row_shape), *_state_outputs(writer, step, after)]
    return _model(writer, step, given_inputs, outputs)


def _nodes(
    writer: Writer, layers: list[tuple[str, Any]], given: Mapping[str, str], lengths: str, time: int
) -> tuple[str, dict[str, str]]:
    """The layers as nodes of ONNX, which read [T, B, I]."""
    xs = writer.node("Transpose", "xs", perm=[1, 0, 2]) if time else "xs"
    lengths = writer.node("Cast", lengths, to=TYPES[torch.int32])
    own = {component.removeprefix("state/"): name for component, name in given.items()}
    ys, after = put_layers(writer, layers, xs, lengths, own)
    return writer.node("Transpose", ys, perm=[1, 0, 2]) if time else ys, {f"state/{k}": v for k, v in after.items()}


def _scan(
    writer: Writer, step: ExportedStep, given: Mapping[str, str], lengths: str, steps: str, time: int
) -> tuple[str, dict[str, str]]:
    """A loop over the traced step: rows that have ended keep their states, and their outputs are zero."""
    from onnx import helper

    program, y = step.program, step.program.outputs["y"]
    zero, one = writer.constant(0, np.int64), writer.constant(1, np.int64)
    each = writer.node("Range", zero, writer.node("Squeeze", steps, writer.indices(0)), one)
    active = writer.node(
        "Less", writer.node("Unsqueeze", each, writer.indices(0)), writer.node("Unsqueeze", lengths, writer.indices(1))
    )
    body = Writer(writer)
    names = {component: body.name("before") for component in given}
    x, now = body.name("x"), body.name("active")
    values = {program.inputs[component]: name for component, name in names.items()}
    found = ProgramNodes(body, program, Numbers(step.constants), {program.inputs["x"]: x, **values}).outputs()

    def where_active(name: str, other: str, axes: int) -> str:
        condition = body.node("Unsqueeze", now, body.indices(*range(1, axes))) if axes > 1 else now
        return body.node("Where", condition, name, other)

    nothing = writer.constant(np.zeros((), as_array(torch.zeros(0, dtype=y.dtype)).dtype))
    results = {c: where_active(found[c], names[c], step.initial[c].ndim) for c in given}
    out = where_active(found["y"], nothing, len(y.shape))
    graph = helper.make_graph(
        body.nodes,
        "one step",
        [
            *(_info(names[c], t.dtype, None, *t.shape[1:]) for c, t in step.initial.items()),
            _info(x, step.x.dtype, None, *step.x.shape[1:]),
            _info(now, torch.bool, None),
        ],
        [
            *(_info(results[c], t.dtype, None, *t.shape[1:]) for c, t in step.initial.items()),
            _info(out, y.dtype, None, *y.row_shape),
        ],
    )
    *after, ys = (lambda made: [made] if isinstance(made, str) else made)(
        writer.node(
            "Scan", *given.values(), "xs", active, outputs=len(given) + 1, body=graph, num_scan_inputs=2,
            scan_input_axes=[time, 1], scan_output_axes=[time],
        )
    )  # fmt: skip
    return ys, dict(zip(given, after, strict=True))


def _model(writer: Writer, step: ExportedStep, inputs: list[Any], outputs: list[Any]) -> Any:
    from onnx import helper

    graph = helper.make_graph(writer.nodes, type(step.network.cell).__name__, inputs, outputs, writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    model.producer_name = "treadle"
    about = {dotted(c): {"after": f"{dotted(c)}_after", "rest": t[0].tolist()} for c, t in step.initial.items()}
    helper.set_model_props(model, {"treadle": json.dumps({"states": about})})
    return model


# Both sides


def _session(content: bytes) -> Any:
    onnxruntime = installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors have no common base
        raise InteropError(f"ONNX Runtime does not take the file: {str(error).splitlines()[0]}") from None


def _rest(step: ExportedStep, rows: int) -> dict[str, np.ndarray]:
    """What is fed for the state before the first step."""
    return {dotted(c): np.repeat(as_array(tensor), rows, 0) for c, tensor in step.initial.items()}


def _compared_steps(content: bytes, step: ExportedStep) -> tuple[float, str]:
    """Thirty steps of three rows, from the initial state on."""
    steps, rows = 30, 3
    session, state = _session(content), step.network.initial_state(rows)
    fed = _rest(step, rows)
    worst = 0.0
    xs = step.random_inputs(steps, rows)
    read = {given.name for given in session.get_inputs()}
    with torch.no_grad():
        for x in xs:
            y, state = step.network.cell(x, state)
            given = {"x": as_array(x), **fed}
            out = session.run(None, {name: array for name, array in given.items() if name in read})
            after = [tensor for _, tensor in states.named_tensors(state)]
            worst = max(worst, relative_difference([torch.from_numpy(o) for o in out], [y, *after]))
            fed = {dotted(component): array for component, array in zip(step.initial, out[1:], strict=True)}
    return worst, f"{steps} steps of {rows} rows in ONNX Runtime"


def _compared_sequences(content: bytes, step: ExportedStep) -> tuple[float, str]:
    """A batch of three rows of which two end early, and one row from another state."""
    session, network = _session(content), step.network
    read = {given.name for given in session.get_inputs()}

    def both(xs: Tensor, fed: Mapping[str, Any], **options: Any) -> tuple[float, Any, list[np.ndarray]]:
        xs = xs.transpose(0, 1).contiguous() if network.batch_first else xs
        reference = type(network)(network.cell, network.batch_first, engine="reference")
        with torch.no_grad():
            ys, state = reference(xs, **options)
        given = {"xs": as_array(xs), **fed}
        out = session.run(None, {name: array for name, array in given.items() if name in read})
        after = [tensor for _, tensor in states.named_tensors(state)]
        return relative_difference([torch.from_numpy(o) for o in out], [ys, *after]), state, out

    lengths = torch.tensor([23, 1, 11])
    first, state, out = both(
        step.random_inputs(23, 3),
        {"lengths": lengths.numpy(), **_rest(step, 3)},
        state=network.initial_state(3),
        lengths=lengths,
    )
    after = {dotted(component): array for component, array in zip(step.initial, out[1:], strict=True)}
    fed = {"lengths": np.full(3, 9), **after}
    second, _, _ = both(step.random_inputs(9, 3, seed=1), fed, state=state)
    return max(first, second), "32 steps of 3 rows, two of them shorter, in ONNX Runtime"
