"""What the GPU engine takes, what it refuses, and that what is wrong in it is noticed."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch

import treadle as td
import treadle.engines.gpu
from tests.registry import build, sequence
from treadle import engines
from treadle.engines import ENGINES, Refusal, verification
from treadle.engines.gpu import device
from treadle.engines.gpu.lower.tiling import Products, Tiling
from treadle.engines.gpu.plan import launches, loop
from treadle.engines.gpu.plan.section import GpuSection, products_on
from treadle.engines.gpu.write import expressions
from treadle.engines.gpu.write.steps import write
from treadle.engines.passes.schedule import schedule
from treadle.errors import EngineError

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def test_it_runs_loops_and_leaves_the_rest_to_pytorch():
    explained = td.explain(td.Recurrent(td.LSTMCell(3, 4), engine="gpu"))
    assert [(section.kind, section.engine) for section in explained.sections if section.kind != "once"] == [
        ("all steps", "PyTorch"),
        ("loop", "gpu"),
    ]
    assert "runs as a kernel: 1 loop" in str(explained)
    assert explained.loops[0].details == ("its kernels are made when it first runs",)


def test_explaining_says_how_kernels_are_cut():
    rnn = td.Recurrent(td.LSTMCell(3, 4), engine="gpu")
    rnn(torch.randn(2, 5, 3))[0].sum().backward()
    found = td.explain(rnn).loops[0].details
    assert [text.partition(":")[0] for text in found] == ["forward", "backward"]
    assert "mode rows for 256 bytes of weights, 16 rows a program, products in ieee" in found[0]


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


def test_to_pretend_one_triton_has_to_interpret(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(EngineError, match="set TRITON_INTERPRET=1"), device.pretended():
        pass


def test_float64_runs_on_the_pretended_gpu_alone(monkeypatch, gpu):
    call = td.Recurrent(td.LSTMCell(3, 4).double()).call(torch.zeros(1, 2, 3).double())
    assert ENGINES["gpu"].refusal(call) is None
    monkeypatch.setattr(device, "_pretended", [device.Gpu("real", gpu.shared_memory, 132)])
    assert "not for float64" in str(ENGINES["gpu"].refusal(call))


def test_the_reason_is_that_of_the_engine_for_the_device(monkeypatch):
    monkeypatch.setattr(device, "_pretended", [])
    rnn = td.Recurrent(td.ConvLSTMCell(2, 2, image_size=(3, 5)))
    decision = engines.decide(rnn.call(torch.zeros(1, 2, 2, 3, 5)))
    assert decision.engine is ENGINES["cpu"]
    rnn.cell.register_forward_hook(lambda *given: None)
    assert "has hooks" in str(engines.decide(rnn.call(torch.zeros(1, 2, 2, 3, 5))).refusal)


class NoLaunch:
    """A kernel that computes nothing."""

    def __getitem__(self, grid):
        return lambda *given, **options: None


@pytest.mark.parametrize("subject", ["layer-norm-lstm", "zoneout-lstm", "stack-feedback", "graph-tokens"])
def test_a_training_step_asks_the_device_for_nothing(subject, monkeypatch, gpu):
    """On the device "meta", whose tensors have no numbers to ask for; to mix it with the CPU fails as well."""
    monkeypatch.setattr(launches, "function_of", lambda *text: NoLaunch())
    for module in (treadle.engines.gpu, loop):
        monkeypatch.setattr(module, "gpu_of", lambda device: gpu)
    launches.launches.cache_clear()
    rnn = build(subject, torch.float32).to("meta").train()
    rnn.engine = "gpu"
    xs, resets = sequence(rnn, 4, 7, torch.float32).to("meta"), torch.ones(4, 7, dtype=torch.bool, device="meta")
    with verification.switched("never"):
        for given in ({}, {"resets": resets, "return_states": True}):
            rnn(xs, **given)[0].sum().backward()
    assert {tensor.device.type for p in rnn.parameters() for tensor in (p, p.grad)} == {"meta"}
    launches.launches.cache_clear()


def test_products_follow_pytorchs_own():
    real, pretended = device.Gpu("real", 1 << 17, 132), device.Gpu("not", 1 << 17, 1, True)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for precision, expected in (("tf32", Products.TF32), ("ieee", Products.IEEE)):
            torch.backends.cuda.matmul.fp32_precision = precision
            assert products_on(real, False) is expected
            assert products_on(pretended, False) is Products.IEEE
            assert products_on(real, True) is Products.BFLOAT16
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


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


class Reporting:
    """A kernel that computes nothing, and says of each phase what Triton's compiler might say."""

    def __getitem__(self, grid):
        return lambda *given, PHASE=0, **options: SimpleNamespace(
            n_regs=100 - PHASE, metadata=SimpleNamespace(shared=1000 * PHASE)
        )


def test_of_single_phases_explaining_says_the_most_that_one_takes(cut, monkeypatch):
    cut("steps")
    monkeypatch.setattr(launches, "function_of", lambda *text: Reporting())
    rnn = td.Recurrent(td.LSTMCell(3, 4), engine="gpu")
    with verification.switched("never"), torch.no_grad():
        rnn(torch.randn(2, 5, 3))
    (text,) = td.explain(rnn).loops[0].details
    phases = int(re.search(r"2 programs for the columns, (\d+) launches a step", text)[1])
    assert text.startswith("forward: mode steps for 256 bytes of weights, 2 rows a program")
    assert f"at most 100 registers, at most {1000 * (phases + 1):,} bytes of shared memory" in text


def loop_of(rnn, x):
    network = engines.program_of(rnn.call(x))
    assert not isinstance(network, Refusal), network
    return next(section for section in network.plan(False, False).sections if section.kind == "loop")


def test_a_matrix_of_more_numbers_than_32_bits_count_is_refused():
    rnn = td.Recurrent(td.LSTMCell(3, 1 << 15, device="meta"))
    found = ENGINES["gpu"].take(loop_of(rnn, torch.zeros(1, 2, 3, device="meta")), None)
    assert "a matrix has 4,294,967,296 numbers, and its kernels count to 2,147,483,647" in str(found)


class TwoProducts(torch.nn.Module):
    """A step with two matrices side by side."""

    input_size = 4

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.randn(4, 4)) for _ in range(2))

    def initial_state(self, rows):
        return (self.a.new_zeros(rows, 4),)

    def forward(self, x, state):
        h = torch.tanh(x + state[0] @ self.a + state[0] @ self.b)
        return h, (h,)


def test_weights_that_stay_are_counted_once():
    kernel = GpuSection(loop_of(td.Recurrent(TwoProducts()), torch.zeros(1, 2, 4))).plain.compiled.kernel
    matrix = 16 * 16 * 4  # bytes of a tile, the smallest there is
    for resident, stay in ((2 * matrix, 2), (2 * matrix - 1, 1), (matrix - 1, 0)):
        text = write(schedule(kernel), Tiling(resident=resident)).text
        assert len(re.findall(r"^    w\d_0 = ", text, re.MULTILINE)) == stay
