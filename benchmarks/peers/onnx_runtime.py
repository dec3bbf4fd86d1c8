"""ONNX Runtime on one step of a stack of LSTMs, the states fed back."""

import logging
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks.timing import block, interleave

FLOAT = TensorProto.FLOAT
Step = Callable[[], np.ndarray]


def fastest_step(lstm: nn.LSTM, x: np.ndarray, threads: int, rest: float, int8: bool = False) -> Step:
    """A step from where the last one ended, for one row, on one thread or several, the way that is fastest here.

    Every step reads ``x`` [I] as it is then; the answer [H] is overwritten by the next. With ``int8`` it is quantised
    as ONNX Runtime does it for LSTMs: weights beforehand, what they are multiplied with at every step.
    """
    made = model(lstm)
    serialized = (quantised(made) if int8 else made).SerializeToString()
    ways = {}
    for count in {1, threads}:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = count, 1
        session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
        ways |= {f"{way.__name__} {count}": partial(way, session, lstm, x) for way in (plain_step, bound_step)}
    seconds = interleave({name: block(make()) for name, make in ways.items()}, budget=1.0, rest=rest)
    fastest = min(ways, key=lambda name: np.median(seconds[name]))
    return ways[fastest]()  # anew, so that it starts from zeros


def plain_step(session: onnxruntime.InferenceSession, lstm: nn.LSTM, x: np.ndarray) -> Step:
    """`run` with the states of the last step as inputs."""
    inputs, states = {"x": x.reshape(1, 1, -1)}, _state_names(lstm)
    for name in states:
        inputs[name] = np.zeros((1, 1, lstm.hidden_size), np.float32)
    feeds = list(states)

    def step() -> np.ndarray:
        y, *after = session.run(None, inputs)
        for name, state in zip(feeds, after, strict=True):
            inputs[name] = state
        return y.reshape(-1)

    return step


def bound_step(session: onnxruntime.InferenceSession, lstm: nn.LSTM, x: np.ndarray) -> Step:
    """`run_with_iobinding` on memory of our own: two sets of states, which take turns as input and output."""
    names, shape = _state_names(lstm), (1, 1, lstm.hidden_size)
    states = [{name: np.zeros(shape, np.float32) for name in names} for _ in range(2)]
    y = np.zeros(shape, np.float32)
    bindings = []
    for before, after in (states, states[::-1]):
        binding = session.io_binding()
        x_row = x.reshape(1, 1, -1)
        binding.bind_input("x", "cpu", 0, np.float32, x_row.shape, x_row.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
        for name in names:
            binding.bind_input(name, "cpu", 0, np.float32, shape, before[name].ctypes.data)
            binding.bind_output(f"{name}_after", "cpu", 0, np.float32, shape, after[name].ctypes.data)
        bindings.append(binding)
    answer = y.reshape(-1)
    turn = 0

    def step(memory: object = (states, x)) -> np.ndarray:  # a binding has addresses only, the memory must stay
        nonlocal turn
        session.run_with_iobinding(bindings[turn])
        turn = 1 - turn
        return answer

    return step


def model(lstm: nn.LSTM) -> onnx.ModelProto:
    """One step of one row: x, h0, c0, h1, c1, … to y, and the states after it in the same order."""
    H, nodes, weights, above = lstm.hidden_size, [], [], "x"
    for layer in range(lstm.num_layers):
        matrices = [_in_onnx_order(getattr(lstm, f"weight_{part}_l{layer}"), H)[None] for part in ("ih", "hh")]
        biases = [_in_onnx_order(getattr(lstm, f"bias_{part}_l{layer}"), H) for part in ("ih", "hh")]
        for name, value in zip("WRB", [*matrices, np.concatenate(biases)[None]], strict=True):
            weights.append(numpy_helper.from_array(value, f"{name}{layer}"))
        given = [above, f"W{layer}", f"R{layer}", f"B{layer}", "", f"h{layer}", f"c{layer}"]
        nodes.append(helper.make_node("LSTM", given, ["", f"h{layer}_after", f"c{layer}_after"], hidden_size=H))
        above = f"h{layer}_after"  # [directions, B, H], which for one step is [T, B, H]
    nodes.append(helper.make_node("Identity", [above], ["y"]))
    state = _state_names(lstm)
    values = {"x": lstm.input_size, "y": H} | dict.fromkeys([*state, *(f"{name}_after" for name in state)], H)
    infos = {name: helper.make_tensor_value_info(name, FLOAT, [1, 1, size]) for name, size in values.items()}
    graph = helper.make_graph(
        nodes,
        "step",
        [infos[name] for name in ("x", *state)],
        [infos[name] for name in ("y", *(f"{name}_after" for name in state))],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def quantised(made: onnx.ModelProto) -> onnx.ModelProto:
    """The model with dynamic quantisation, a factor for each row of a matrix.

    Weights have 7 bits: of 8, ONNX Runtime's sums overflow on CPUs without VNNI, and answers are a fifth off.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    logging.disable(logging.WARNING)  # it recommends what is for images
    try:
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(made, f"{folder}/float.onnx")
            quantize_dynamic(f"{folder}/float.onnx", f"{folder}/int8.onnx", **options)
            return onnx.load(f"{folder}/int8.onnx")
    finally:
        logging.disable(logging.NOTSET)


def _state_names(lstm: nn.LSTM) -> list[str]:
    return [f"{field}{layer}" for layer in range(lstm.num_layers) for field in "hc"]


def _in_onnx_order(parameter: nn.Parameter, hidden_size: int) -> np.ndarray:
    """Rows in the order i, f, g, o to rows in the order i, o, f, g."""
    i, f, g, o = parameter.detach().numpy().reshape(4, hidden_size, -1)
    return np.concatenate([i, o, f, g]).reshape(parameter.shape)
