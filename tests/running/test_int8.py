"""Sessions with int8 weights: the numbers of the cell's own Python on rounded matrices, in a quarter of the bytes."""

import copy
import logging

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import CELLS, SUBJECTS, build, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.plan import live_step
from treadle.state import named_tensors

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    """In the calling thread, and shared out by columns."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(live_step, "WORTH_A_THREAD", 1)
    yield
    torch.set_num_threads(before)


def dequantised(weight):
    """Row by row, written out: whole numbers from -127 to 127, times a factor with 17 significant bits."""
    factors = weight.abs().amax(-1, keepdim=True) / 127
    mantissa, exponent = torch.frexp(factors)
    factors = torch.ldexp((mantissa * 2**17).floor(), exponent - 17)
    return torch.where(factors > 0, (weight / factors).round() * factors, weight)


def by_python(rnn):
    """The network on the matrices that the session has, by its own Python."""
    other = copy.deepcopy(rnn.session(weights="int8").snapshot.recurrent)
    other.engine = "reference"
    return other


@pytest.mark.share(24)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("B", [1, 3, 8])
def test_steps_and_blocks_are_those_of_the_cell_s_python_on_rounded_matrices(subject, B):
    rnn = build(subject, torch.float32, learn_initial_state=True)
    xs = sequence(rnn, B, 6, torch.float32)
    ys, end = by_python(rnn)(xs)
    stepped, block = (rnn.session(batch_size=B, weights="int8") for _ in range(2))
    assert_close(torch.stack([stepped.step(x).clone() for x in xs.unbind(1)], 1), ys)
    assert_close(block.steps(xs), ys)
    for session in (stepped, block):
        assert_all_close(dict(named_tensors(session.state)), dict(named_tensors(end)))


@pytest.mark.share(12)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", [name for name in CELLS if not name.startswith("conv")])
@pytest.mark.parametrize("sizes", [(1, 1), (5, 37), (33, 70)], ids=str)
@pytest.mark.parametrize("B", [1, 3, 8])
def test_odd_sizes(name, sizes, B):
    torch.manual_seed(1)
    try:
        rnn = td.Recurrent(CELLS[name](*sizes)).eval()
    except td.errors.ShapeError as refusal:
        pytest.skip(str(refusal))
    xs = torch.randn(B, 5, sizes[0])
    assert_close(rnn.session(B, weights="int8").steps(xs), by_python(rnn)(xs)[0])
    assert {one.numbers for one in td.explain(rnn.session(weights="int8")).matrices} <= {"int8"}


WIDE = {
    "lstm": lambda: td.Stack([td.LSTMCell(64, 100), td.LSTMCell(100, 100)]),
    "gru, then others": lambda: td.Stack([td.GRUCell(37, 130), td.MinGRUCell(130, 41), td.LSTMCell(41, 257)]),
    "two heads": lambda: td.SLSTMCell(40, 132, heads=2),
}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("B", [1, 5])
@pytest.mark.parametrize("name", WIDE)
def test_products_of_whole_numbers_are_as_exact_as_those_of_float32(name, B):
    torch.manual_seed(0)
    rnn = td.Recurrent(WIDE[name]())
    xs = torch.randn(B, 12, rnn.input_size)
    in_float64 = by_python(rnn).double()(xs.double())[0]
    in_float32 = by_python(rnn)(xs)[0]
    found = rnn.session(B, weights="int8").steps(xs)
    assert_close(found, in_float64)
    assert (found - in_float64).norm() <= 2 * (in_float32 - in_float64).norm()


class _Sum(nn.Module):
    """A cell without a nonlinearity that could hide what a product is."""

    input_size = 40

    def __init__(self):
        super().__init__()
        self.read, self.keep = nn.Linear(40, 37), nn.Linear(37, 37, bias=False)

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 37),)

    def forward(self, x, state):
        h = self.read(x) + 0.5 * self.keep(state[0])
        return torch.cat([h, h.sigmoid()], 1), (h,)


@pytest.mark.skipif(host().dots is None, reason="shifted words: infinity comes out as NaN, and 1e30 overflows")
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf, 3e38, 1e30, 1e-30, 1e-42, 0.0])
def test_odd_numbers_come_out_as_python_has_them(odd):
    torch.manual_seed(0)
    rnn = td.Recurrent(_Sum())
    rnn.cell.read.weight.data[5, 3] = 0  # infinity times zero is NaN
    xs = torch.randn(1, 5, 40)
    xs[0, 2] *= 0.0 if odd == 0 else min(abs(odd), 1.0)
    xs[0, 2, 3] = odd
    session, wanted = rnn.session(weights="int8"), by_python(rnn)(xs)[0]
    found = torch.stack([session.step(x).clone() for x in xs[0]])[None]
    for y, right in zip(found[0].detach(), wanted[0].detach(), strict=True):
        ordinary = right.isfinite()
        assert torch.equal(y.nan_to_num(0, 1, -1)[~ordinary], right.nan_to_num(0, 1, -1)[~ordinary])
        assert torch.equal(y.isnan(), right.isnan())
        assert (y[ordinary] - right[ordinary]).norm() <= 1e-5 * right[ordinary].norm()


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, 1e30, 0.0])
def test_a_row_of_a_pool_has_its_own_bits_beside_rows_of_odd_numbers(odd):
    torch.manual_seed(0)
    rnn = td.Recurrent(td.GRUCell(33, 40))
    pool, alone = rnn.sessions(weights="int8"), rnn.session(weights="int8")
    ids, xs = [pool.open() for _ in range(6)], torch.randn(4, 33)
    for x in xs:
        beside = torch.full((33,), odd)
        ys = pool.step({id: x if id == ids[2] else beside for id in ids})
        assert torch.equal(ys[ids[2]], alone.step(x))


def test_matrices_are_rounded_row_by_row_and_nothing_else_is():
    rnn = build("graph-tokens", torch.float32)
    before = {name: parameter.clone() for name, parameter in rnn.cell.named_parameters()}
    after = dict(rnn.session(weights="int8").snapshot.recurrent.cell.named_parameters())
    matrices = {"low.weight_ih", "low.weight_hh", "scores.weight"}
    for name, parameter in before.items():
        wanted = dequantised(parameter) if name in matrices else parameter
        assert torch.equal(after[name], wanted), name
        assert torch.equal(dict(rnn.cell.named_parameters())[name], parameter)
    assert matrices < before.keys()


class _Columns(nn.Module):
    """A cell whose matrix is written [I + H, H], as ``x @ w``; ``twice`` multiplies by a function of it."""

    def __init__(self, size=3, twice=False):
        super().__init__()
        self.input_size, self.twice = size, twice
        self.w = nn.Parameter(torch.randn(size + 40, 40) / 6 * torch.logspace(-2, 2, size + 40)[:, None])

    def initial_state(self, batch_size):
        return (self.w.new_zeros(batch_size, 40),)

    def forward(self, x, state):
        w = self.w.tanh() if self.twice else self.w
        h = (torch.cat([x, state[0]], 1) @ w).tanh()
        return h, (h,)


def test_a_matrix_that_is_not_transposed_has_a_factor_for_each_column():
    torch.manual_seed(0)
    rnn, xs = td.Recurrent(_Columns()), torch.randn(1, 6, 3)
    session = rnn.session(weights="int8")
    assert_close(session.steps(xs), by_python(rnn)(xs)[0])
    explanation = td.explain(session)
    assert {one.numbers for one in explanation.matrices} == {"int8"}
    assert torch.equal(session.snapshot.recurrent.cell.w, dequantised(rnn.cell.w.T).T)


def test_a_matrix_that_is_computed_stays_as_it_is_and_explain_says_so():
    torch.manual_seed(0)
    rnn, xs = td.Recurrent(_Columns(twice=True)), torch.randn(1, 6, 3)
    session = rnn.session(weights="int8")
    assert torch.equal(session.snapshot.recurrent.cell.w, rnn.cell.w)
    assert_close(session.steps(xs), rnn(xs)[0])
    explanation = td.explain(session)
    assert {one.numbers for one in explanation.matrices} == {"float32"}
    text = str(explanation)
    assert f"weights: int8, 0 of {len(explanation.matrices)} matrices of products in machine code" in text
    assert "no multiples of a factor each" in text


def test_explain_names_the_matrices_and_their_bounds():
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 64), td.LSTMCell(64, 64)]))
    session = rnn.session(weights="int8")
    explanation = td.explain(session)
    assert explanation.weights == "int8"
    assert {one.name: one.shape for one in explanation.matrices} == {
        "layer0.weight_ih.T": (3, 256),
        "layer0.weight_hh.T": (64, 256),
        "layer1.weight_ih.T": (64, 256),
        "layer1.weight_hh.T": (64, 256),
    }
    rounded = dict(session.snapshot.recurrent.cell.named_parameters())
    for one in explanation.matrices:
        right, found = (cell[one.name.removesuffix(".T")] for cell in (dict(rnn.cell.named_parameters()), rounded))
        assert (found - right).norm() <= one.bound * found.norm()
        assert f"{one.name}  " in str(explanation)
    assert td.explain(rnn.sessions(weights="int8")).matrices == explanation.matrices
    assert not td.explain(rnn).matrices
    assert "weights:" not in str(td.explain(rnn.session()))
    assert {one.numbers for one in td.explain(rnn.session()).matrices} == {"float32"}


def test_a_session_in_python_has_rounded_matrices_too(caplog):
    rnn = td.Recurrent(td.LSTMCell(3, 5), engine="reference")
    xs = torch.randn(1, 4, 3)
    session = rnn.session(weights="int8")
    assert torch.equal(session.steps(xs), session.snapshot.recurrent(xs)[0])
    assert torch.equal(session.snapshot.recurrent.cell.weight_hh, dequantised(rnn.cell.weight_hh))
    assert "weights: int8, 0 of 0 matrices" in str(td.explain(session))


def test_what_int8_is_not_for():
    rnn = td.Recurrent(td.LSTMCell(3, 5))
    with pytest.raises(ValueError, match="for networks in float32, but this one is in float64: call float"):
        copy.deepcopy(rnn).double().session(weights="int8")
    with torch.no_grad():
        rnn.cell.weight_hh[2, 3] = torch.nan
    with pytest.raises(ValueError, match="weights='int8' rounds weight_hh, but it holds NaN or infinity"):
        rnn.session(weights="int8")
    rnn.session().step(torch.ones(3))


class _Lazy(nn.Module):
    """Its matrix takes its size from what it reads first."""

    input_size = 4

    def __init__(self):
        super().__init__()
        self.mix = nn.LazyLinear(5)

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 5),)

    def forward(self, x, state):
        h = (self.mix(x) + state[0]).tanh()
        return h, (h,)


def test_a_lazy_network_is_rounded_when_it_has_its_sizes():
    session = td.Recurrent(_Lazy()).session(weights="int8")
    session.step(torch.ones(4))
    matrices = td.explain(session).matrices
    assert [(one.name, one.shape, one.numbers) for one in matrices] == [("mix.weight.T", (4, 5), "int8")]


def test_verification_notices_a_wrong_factor(monkeypatch, caplog):
    """A kernel with other factors is not trusted: the step is Python's."""
    from treadle.engines.cpu.plan import live_operands

    panels = live_operands.int8_panels
    monkeypatch.setenv("TREADLE_VERIFY", "always")
    monkeypatch.setattr(live_operands, "int8_panels", lambda matrix, packing: panels(matrix, packing).mul_(-1))
    rnn = td.Recurrent(td.GRUCell(3, 5))
    with caplog.at_level(logging.WARNING, "treadle"):
        session = rnn.session(weights="int8")
    assert session._live is None
    assert "differs" in caplog.text
