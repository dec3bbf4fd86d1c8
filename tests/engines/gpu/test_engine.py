"""What the GPU engine takes, what it refuses, and that what is wrong in it is noticed."""

import logging

import pytest
import torch

import treadle as td
from tests.registry import build, sequence
from treadle import engines
from treadle.engines import ENGINES, Refusal
from treadle.engines.gpu import device
from treadle.engines.gpu.write import expressions
from treadle.errors import EngineError

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def test_it_runs_loops_and_leaves_the_rest_to_pytorch():
    explained = td.explain(td.Recurrent(td.LSTMCell(3, 4), engine="gpu"))
    assert [(section.kind, section.engine) for section in explained.sections if section.kind != "once"] == [
        ("all steps", "PyTorch"),
        ("loop", "gpu"),
    ]
    assert "runs as a kernel: 1 loop" in str(explained)


def test_normalised_inputs_are_computed_before_the_loop():
    rnn = td.Recurrent(td.LayerNormLSTMCell(3, 4))
    loops = {}
    for engine in ("cpu", "gpu"):
        rnn.engine = engine
        (loops[engine],) = td.explain(rnn).loops
    assert len(loops["gpu"].products) == len(loops["cpu"].products)
    network = engines.program_of(rnn.call(torch.zeros(1, 2, 3)))
    inside, before = (
        sum(len(s.values()) for s in network.plan(False, take_in).sections if s.kind == "loop")  # pyright: ignore
        for take_in in (True, False)
    )
    assert before < inside


def test_a_convolution_is_refused_with_its_line():
    rnn = td.Recurrent(td.ConvLSTMCell(2, 2, image_size=(3, 5)), engine="gpu")
    with pytest.raises(EngineError, match=r"conv_lstm\.py:\d+: aten.convolution.default has no machine code here"):
        rnn(torch.zeros(1, 2, 2, 3, 5))


def test_without_a_gpu_it_refuses(monkeypatch):
    monkeypatch.setattr(device, "_pretended", [])
    rnn = td.Recurrent(td.LSTMCell(3, 4), engine="gpu")
    with pytest.raises(EngineError, match="the GPU engine runs on CUDA devices, but x is on cpu"):
        rnn(torch.zeros(1, 2, 3))
    found = device.gpu_of(torch.device("meta"))
    assert isinstance(found, Refusal)
    assert found.elsewhere
    monkeypatch.setattr(device, "_has_triton", lambda: False)
    assert "pip install 'treadle[gpu]'" in str(device.gpu_of(torch.device("cuda")))


def test_float64_runs_on_the_pretended_gpu_alone(monkeypatch, gpu):
    call = td.Recurrent(td.LSTMCell(3, 4).double()).call(torch.zeros(1, 2, 3).double())
    assert ENGINES["gpu"].refusal(call) is None
    monkeypatch.setattr(device, "_pretended", [device.Gpu("real", gpu.shared_memory)])
    assert "not for float64" in str(ENGINES["gpu"].refusal(call))


def test_the_reason_is_that_of_the_engine_for_the_device(monkeypatch):
    monkeypatch.setattr(device, "_pretended", [])
    rnn = td.Recurrent(td.ConvLSTMCell(2, 2, image_size=(3, 5)))
    decision = engines.decide(rnn.call(torch.zeros(1, 2, 2, 3, 5)))
    assert decision.engine is ENGINES["cpu"]
    rnn.cell.register_forward_hook(lambda *given: None)
    assert "has hooks" in str(engines.decide(rnn.call(torch.zeros(1, 2, 2, 3, 5))).refusal)


@pytest.fixture
def one_sign_wrong(monkeypatch):
    monkeypatch.setitem(expressions.OPERATIONS, "sub", "({0} + {1})")
    engines.say_once.cache_clear()


@pytest.mark.usefixtures("one_sign_wrong")
def test_a_wrong_kernel_is_noticed():
    rnn = build("gru", torch.float32)
    rnn.engine = "gpu"
    with pytest.raises(EngineError, match=r"gru\.py:\d+: the output differs by .* from that of its own Python"):
        rnn(sequence(rnn, 2, 3, torch.float32))


@pytest.mark.usefixtures("one_sign_wrong")
def test_with_auto_the_cells_own_python_runs_in_its_place(monkeypatch, caplog):
    monkeypatch.setattr(ENGINES["cpu"], "automatic", False)
    rnn = build("gru", torch.float32)
    xs = sequence(rnn, 2, 3, torch.float32)
    with caplog.at_level(logging.WARNING):
        ys, _ = rnn(xs)
    assert "the output differs by" in caplog.text
    rnn.engine = "reference"
    torch.testing.assert_close(ys, rnn(xs)[0])


def test_auto_takes_it_where_nothing_comes_before(monkeypatch):
    monkeypatch.setattr(ENGINES["cpu"], "automatic", False)
    rnn = td.Recurrent(td.GRUCell(3, 4))
    assert engines.decide(rnn.call(torch.zeros(1, 2, 3))).engine is ENGINES["gpu"]
    rnn(torch.randn(1, 2, 3))[0].sum().backward()
    assert td.explain(rnn).engine == "gpu"
