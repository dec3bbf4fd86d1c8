"""ONNX files of networks give ONNX Runtime what PyTorch has, for sequences of any length, or are refused."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import treadle as td
from tests.tolerances import assert_close

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own: its exporters are changing

CLASSIC = {
    "lstm": lambda: td.LSTM(3, 4, 2, batch_first=True),
    "gru in both directions": lambda: td.GRU(3, 4, bidirectional=True, batch_first=True),
    "rnn": lambda: td.RNN(3, 4, batch_first=True),
}
OTHERS = {
    "recurrent": lambda: td.Recurrent(td.LSTMCell(3, 4)),
    "skip": lambda: td.LSTM(3, 4, 2, wiring="skip", batch_first=True),
    "both directions": lambda: td.Bidirectional(td.GRUCell(3, 4), td.GRUCell(3, 4)),
}


def is_run_by_onnx_runtime(path, network):
    session = onnxruntime.InferenceSession(path)
    for B, T in ((3, 20), (1, 1), (2, 9)):
        xs = torch.randn(B, T, 3)
        assert_close(torch.as_tensor(session.run(None, {"input": xs.numpy()})[0]), network(xs)[0])


@pytest.mark.parametrize("kind", CLASSIC)
def test_classic_drop_ins_are_operators_of_onnx(kind, tmp_path):
    onnx = pytest.importorskip("onnx")
    network, path = CLASSIC[kind]().eval(), tmp_path / "network.onnx"
    axes = {"input": {0: "B", 1: "T"}}
    torch.onnx.export(network, (torch.randn(2, 9, 3),), path, dynamo=False, input_names=["input"], dynamic_axes=axes)
    assert type(network).__name__ in [node.op_type for node in onnx.load(path).graph.node]
    is_run_by_onnx_runtime(path, network)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*CLASSIC, *OTHERS])
def test_every_network_is_a_loop_of_onnx(kind, tmp_path):
    pytest.importorskip("onnxscript")
    network, path = (CLASSIC | OTHERS)[kind]().eval(), tmp_path / "network.onnx"
    shapes = ({0: torch.export.Dim("B", min=1), 1: torch.export.Dim("T", min=1)},)
    xs = torch.randn(2, 9, 3)
    torch.onnx.export(network, (xs,), path, dynamo=True, input_names=["input"], dynamic_shapes=shapes, verbose=False)
    is_run_by_onnx_runtime(path, network)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_trace_of_one_length_is_refused(kind, tmp_path):
    network, xs = OTHERS[kind](), torch.randn(2, 9, 3)
    for trace in (torch.jit.trace, lambda network, xs: torch.onnx.export(network, (xs,), tmp_path / "n", dynamo=False)):
        with pytest.raises(td.errors.EngineError, match=r"number of steps of its example alone.*use torch\.export"):
            trace(network, xs)


def test_a_step_is_traced_and_a_live_one_is_not():
    rnn, x = td.Recurrent(td.GRUCell(3, 4)), torch.randn(2, 3)
    session = rnn.session(batch_size=2)

    class Step(nn.Module):
        def __init__(self, step):
            super().__init__()
            self.rnn, self.step = rnn, step

        def forward(self, x):
            return self.step(x)

    traced = torch.jit.trace(Step(lambda x: rnn.step(x)[0]), x, check_trace=False)
    x = torch.randn(2, 3)
    assert_close(traced(x), rnn.step(x)[0])
    live = Step(session.step)
    for trace in (torch.jit.trace, lambda module, x: torch.export.export(module, (x,)), lambda m, x: make_fx(m)(x)):
        with pytest.raises(td.errors.EngineError, match=r"no trace or export finds it: use rnn\.step"):
            trace(live, x)
