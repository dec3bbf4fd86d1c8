"""Networks as ONNX files: a live step, or whole sequences."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from treadle import state as states
from treadle.atomic import replacing
from treadle.compiler.program import Value
from treadle.errors import InteropError
from treadle.interop.exported_step import ExportedStep, Numbers, as_array, exported_step
from treadle.interop.installed import installed
from treadle.interop.onnx_nodes.operations import ProgramNodes
from treadle.interop.onnx_nodes.stages import Stages
from treadle.interop.onnx_nodes.writer import TYPES, Writer
from treadle.interop.report import Report, check_agreement, relative_difference
from treadle.interop.sequence import SequenceNetwork, as_sequence

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
    and the final state. An LSTM, GRU or RNN is a node of that kind; of any other network, what no state has a part in
    is computed for all steps at once, and each loop is a Scan. What reads in both directions is a bidirectional node,
    or reads mirrored rows. Past the length of its row an output is zero, and the state stands still.

    The state before the first step is in the file as the initialisers ``layer0.h_rest`` [1, H], …, and in its metadata
    as JSON under ``treadle``, beside the name that each component has after the step.

    Before the file is written, it is run by ONNX Runtime beside the network, and compared.

    Args:
        network: a `treadle.Recurrent`, a drop-in, a cell, or a `torch.nn.Sequential` that has these between layers
            without memory; as a sequence also a `treadle.Bidirectional` or `treadle.Reversed`. It is exported in
            evaluation mode.
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
    model, dtype, compared_by = _written(network, form, input_size)
    onnx.checker.check_model(model)
    tolerance = _TOLERANCES.get(dtype, 1e-5) if tolerance is None else tolerance
    content = model.SerializeToString()
    difference, compared = compared_by(content)
    check_agreement(difference, tolerance, "the ONNX file")
    with replacing(path) as beside:
        beside.write_bytes(content)
    return Report(str(path), compared, difference, _kinds(model))


def _kinds(model: Any) -> tuple[str, ...]:
    """What the loops of a file are."""
    found = Counter(node.op_type for node in model.graph.node if node.op_type in ("LSTM", "GRU", "RNN", "Scan"))
    words = [f"{count} {kind} node{'s' * (count > 1)}" for kind, count in found.items()]
    return (" and ".join(words),) if words else ()


def _written(network: Any, form: str, input_size: Any) -> tuple[Any, torch.dtype, Callable[[bytes], tuple[float, str]]]:
    """The file, the precision of its numbers, and how to compare it with the network."""
    if form == "step":
        step = exported_step(network, input_size)
        return _step_model(step), step.dtype, lambda content: _compared_steps(content, step)
    sequence = as_sequence(network, input_size)
    steps = [[exported_step(one.network, tuple(one.x.shape[1:])) for one in stage] for stage in sequence.stages]
    model, first = _sequence_model(sequence, steps), steps[0][0]
    return model, first.dtype, lambda content: _compared_sequences(content, sequence, first)


# The file


def dotted(component: str) -> str:
    """What a component of the state is called in the file: ``"layer0.h"``."""
    return component.removeprefix("state/").replace("/", ".")


def _info(name: str, dtype: torch.dtype, *shape: Any) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, TYPES[dtype], shape)


def _state_inputs(writer: Writer, initial: Mapping[str, Tensor]) -> tuple[list[Any], dict[str, str]]:
    """The inputs of the graph; what they are before the first step lies beside them."""
    inputs, given = [], {}
    for name, tensor in initial.items():
        rest = writer.constant(as_array(tensor), name=f"{name}_rest")
        # The same state, of as many features as that one: runtimes complain of constants that nobody reads.
        given[name] = writer.node("Expand", name, writer.node("Shape", rest))
        inputs.append(_info(name, tensor.dtype, "B", *tensor.shape[1:]))
    return inputs, given


def _state_outputs(writer: Writer, initial: Mapping[str, Tensor], after: Mapping[str, str]) -> list[Any]:
    outputs = []
    for component, tensor in initial.items():
        name = f"{component}_after"
        writer.node("Identity", after[component], output=name)
        outputs.append(_info(name, tensor.dtype, "B", *tensor.shape[1:]))
    return outputs


def _step_model(step: ExportedStep) -> Any:
    writer, program = Writer(), step.program
    initial = {dotted(component): tensor for component, tensor in step.initial.items()}
    inputs, given = _state_inputs(writer, initial)
    values = {program.inputs[component]: given[dotted(component)] for component in step.initial}
    nodes = ProgramNodes(writer, program, Numbers(step.constants), {program.inputs["x"]: "x", **values}, "x")
    names = nodes.outputs()
    y = program.outputs["y"]
    writer.node("Identity", names["y"], output="y")
    after = {dotted(component): names[component] for component in step.initial}
    outputs = [_info("y", y.dtype, "B", *y.row_shape), *_state_outputs(writer, initial, after)]
    return _model(
        writer,
        type(step.network.cell).__name__,
        initial,
        [_info("x", step.x.dtype, "B", *step.x.shape[1:]), *inputs],
        outputs,
    )


def _sequence_model(sequence: SequenceNetwork, steps: list[list[ExportedStep]]) -> Any:
    writer, x = Writer(), steps[0][0].x
    y, size = _output(steps[-1])
    initial = sequence.initial()
    inputs, given = _state_inputs(writer, initial)
    stages = Stages(writer, "xs", "lengths", not sequence.batch_first, x.ndim == 1 and x.dtype == torch.int64, given)
    for number, (stage, own) in enumerate(zip(sequence.stages, steps, strict=True)):
        stages.put(stage, own, last=number == len(steps) - 1)
    writer.node("Identity", stages.outputs(), output="ys")
    around = ("B", "T") if sequence.batch_first else ("T", "B")
    given_inputs = [_info("xs", x.dtype, *around, *x.shape[1:]), _info("lengths", torch.int64, "B"), *inputs]
    outputs = [_info("ys", y.dtype, *around, *size), *_state_outputs(writer, initial, stages.after)]
    return _model(writer, "sequence", initial, given_inputs, outputs)


def _output(steps: list[ExportedStep]) -> tuple[Value, tuple[int, ...]]:
    """What the directions of a stage give at a step, together: a value of one of them, and the shape of a row."""
    given = [step.program.outputs["y"] for step in steps]
    if len(given) == 1:
        return given[0], given[0].row_shape
    return given[0], (*given[0].row_shape[:-1], sum(one.row_shape[-1] for one in given))


def _model(writer: Writer, name: str, initial: Mapping[str, Tensor], inputs: list[Any], outputs: list[Any]) -> Any:
    from onnx import helper

    graph = helper.make_graph(writer.nodes, name, inputs, outputs, writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    model.producer_name = "treadle"
    about = {c: {"after": f"{c}_after", "rest": t[0].tolist()} for c, t in initial.items()}
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


@torch.no_grad()
def _compared_sequences(content: bytes, sequence: SequenceNetwork, first: ExportedStep) -> tuple[float, str]:
    """A batch of three rows of which two end early, and then the same rows from where they were."""
    session = _session(content)
    read = {given.name for given in session.get_inputs()}
    state, worst = sequence.initial(3), 0.0
    for seed, steps, lengths in ((0, 23, [23, 1, 11]), (1, 9, [9, 9, 9])):
        xs = first.random_inputs(steps, 3, seed)
        xs = xs.transpose(0, 1).contiguous() if sequence.batch_first else xs
        ys, after = sequence(xs, torch.tensor(lengths), state)
        given = {"xs": as_array(xs), "lengths": np.array(lengths)} | {name: as_array(t) for name, t in state.items()}
        out = session.run(None, {name: array for name, array in given.items() if name in read})
        worst = max(worst, relative_difference([torch.from_numpy(o) for o in out], [ys, *after.values()]))
        state = after
    return worst, "32 steps of 3 rows, two of them shorter, in ONNX Runtime"
