"""Sessions of networks that machine code runs in part: the numbers of the cell's own Python, step after step."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.engines import whole_step
from treadle.engines.cpu.plan import step_pieces
from treadle.engines.cpu.plan.piecewise_step import PiecewiseStep
from treadle.state import named_tensors

pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Filter(nn.Module):
    """A convolution over features, for features."""

    def __init__(self, channels=1):
        super().__init__()
        self.convolution = nn.Conv1d(1, channels, 3, padding=1)

    def forward(self, x):
        return self.convolution(x[:, None]).flatten(1)


def front():
    g = td.Graph(7)
    filtered = g.add("filtered", Filter(3), reads=g.x)
    low = g.add("low", td.LSTMCell(21, 5), reads=filtered)
    return g.outputs(g.add("high", td.GRUCell(5, 6), reads=[low]))


def between():
    g = td.Graph(7)
    low = g.add("low", td.LSTMCell(7, 5), reads=g.x)
    filtered = g.add("filtered", Filter(2), reads=low)
    high = g.add("high", td.GRUCell(10 + 7, 6), reads=[filtered, g.x])
    return g.outputs(high, low.delayed(2))


def on_top():
    g = td.Graph(7)
    low = g.add("low", td.LSTMCell(7, 5), reads=g.x)
    return g.outputs(g.add("filtered", Filter(), reads=low))


def twice_and_delayed():
    g = td.Graph(7)
    first = g.add("first", Filter(), reads=g.x)
    low = g.add("low", td.LSTMCell(14, 5), reads=[first, first.delayed()])
    second = g.add("second", Filter(2), reads=low)
    return g.outputs(g.add("high", td.RNNCell(10 + 7, 4), reads=[second, g.x.delayed()]), first)


def without_memory():
    g = td.Graph(7)
    return g.outputs(g.add("linear", nn.Linear(7, 4), reads=g.x))


class Strange(nn.Module):
    """States that are whole numbers and truth values beside floats, two of which change places."""

    input_size, output_size = 7, 7

    def __init__(self):
        super().__init__()
        self.filter, self.linear = Filter(), nn.Linear(7, 7)

    def initial_state(self, batch_size):
        weight = self.linear.weight
        left, right, h = (weight.new_full((batch_size, 7), number) for number in (0.1, 0.2, 0.3))
        count = torch.zeros(batch_size, 1, dtype=torch.long)
        return {"left": left, "right": right, "h": h, "n": count, "m": count + 5, "seen": left > 1}

    def forward(self, x, state):
        big = x > 0.2
        filtered = self.filter(torch.where(big, x, state["right"]))
        odd = torch.where(filtered > filtered.mean(1, keepdim=True), filtered, -x)
        h = torch.tanh(self.linear(odd) + state["h"]) * torch.where(state["seen"], 0.5, 1.0)
        after = {"left": state["right"], "right": state["left"] + 0.1 * h, "h": h}
        seen = state["seen"] | big
        more = torch.where(big[:, :1], state["m"] + 1, state["m"])
        return h + state["n"], after | {"n": more, "m": state["n"], "seen": seen}


CELLS = {f.__name__: f for f in (front, between, on_top, twice_and_delayed, without_memory, Strange)}


def made(name, dtype=torch.float64):
    torch.manual_seed(3)
    return td.Recurrent(CELLS[name]()).to(dtype).eval()


@torch.no_grad()
def in_python(rnn, xs, state):
    ys = []
    for x in xs:
        y, state = rnn.cell(x, state)
        ys.append(y)
    return torch.stack(ys), state


@pytest.mark.share(4)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("rows", [1, 3])
def test_steps_are_those_of_its_own_python(name, rows):
    rnn = made(name)
    xs, state = torch.randn(6, rows, 7, dtype=torch.float64), rnn.initial_state(rows)
    _, state = in_python(rnn, torch.randn(2, rows, 7, dtype=torch.float64), state)  # not the initial one
    ys, end = in_python(rnn, xs, state)
    session = rnn.session(rows)
    assert isinstance(session._live, PiecewiseStep)
    session.load(state)
    assert_close(torch.stack([session.step(x).clone() for x in xs]), ys)
    assert_all_close(dict(named_tensors(session.state)), dict(named_tensors(end)))
    session.load(state)
    assert_close(session.steps(xs[:4].transpose(0, 1)).transpose(0, 1), ys[:4])
    assert_close(torch.from_numpy(np.stack([session.step(x.numpy()).copy() for x in xs[4:]])), ys[4:])
    assert_all_close(dict(named_tensors(session.state)), dict(named_tensors(end)))


@pytest.mark.share(6)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("out", ["tanh", "sigmoid dot", "mul"])
@pytest.mark.parametrize("rows", [1, 3])
def test_any_operation_may_be_left_out(subject, out, rows, monkeypatch):
    known, left_out = step_pieces.why_unknown, set(out.split())
    monkeypatch.setattr(
        step_pieces, "why_unknown", lambda v, lines: "left out" if v.op in left_out else known(v, lines)
    )
    monkeypatch.setattr(whole_step, "reason_against", lambda network: "it is left out")
    rnn = build(subject).eval()
    xs, state = sequence(rnn, rows, 4).transpose(0, 1), random_state(rnn, rows)
    ys, end = in_python(rnn, xs, state)
    session = rnn.session(rows)
    session.load(state)
    assert_close(torch.stack([session.step(x).clone() for x in xs]), ys)
    assert_all_close(dict(named_tensors(session.state)), dict(named_tensors(end)))
    assert isinstance(session._live, PiecewiseStep)


def test_more_rows_than_a_kernel_without_states_takes_at_a_time():
    rnn = made("twice_and_delayed")
    x = torch.randn(101, 7, dtype=torch.float64)
    state = rnn.initial_state(101)
    session = rnn.session(101)
    for _ in range(2):
        with torch.no_grad():
            y, state = rnn.cell(x, state)
        assert_close(session.step(x), y)
    assert_all_close(dict(named_tensors(session.state)), dict(named_tensors(state)))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("rows", [1, 60])
def test_two_threads_share_out_kernels(rows, monkeypatch):
    monkeypatch.setattr("treadle.engines.cpu.plan.piecewise_step.WORTH_A_THREAD", 1)
    test_steps_are_those_of_its_own_python("between", rows)


def test_it_answers_in_kind_and_arrays_that_are_no_rows_of_it():
    rnn = made("front", torch.float32)
    session, other = rnn.session(), rnn.session()
    x = np.random.default_rng(0).standard_normal(7).astype(np.float32)
    y = session.step(x)
    assert y.shape == (6,)
    assert y.dtype == np.float32
    assert session.step(x) is y  # straight into the step
    other.step(x.astype(np.float64))
    apart = np.zeros((1, 14), np.float32)
    apart[:, ::2] = x
    assert np.array_equal(other.step(apart[:, ::2])[0], y)
    with pytest.raises(td.errors.ShapeError):
        session.step(x[:3])


def test_tensors_in_ways_that_are_slower():
    rnn = made("front", torch.float32)
    session, x = rnn.session(2), torch.randn(2, 7)
    right = session.step(x.numpy()).copy()
    strange = x.T.contiguous().T, x.clone().requires_grad_(), x.double(), torch.view_as_complex(
        torch.stack([x, -x], -1)
    ).conj().imag  # fmt: skip
    for given in strange:
        session.reset()
        y = session.step(given)
        assert not y.requires_grad
        assert_close(y, torch.from_numpy(right))
    session.reset()
    with pytest.raises(td.errors.ShapeError):
        session.step(x[:, :3])
    with pytest.raises(td.errors.ShapeError, match="floats"):
        session.step(x.long())


def test_images_in_either_kind():
    torch.manual_seed(3)
    rnn = td.Recurrent(td.ConvLSTMCell(2, 3, image_size=(3, 4))).eval()
    for rows in (1, 2):
        xs = torch.randn(3, rows, 2, 3, 4)
        ys, _ = in_python(rnn, xs, rnn.initial_state(rows))
        session = rnn.session(rows)
        assert isinstance(session._live, PiecewiseStep)
        assert_close(torch.stack([session.step(x).clone() for x in xs]), ys)
        session.reset()
        assert_close(torch.from_numpy(np.stack([session.step(x.numpy()).copy() for x in xs])), ys)
    single = rnn.session()
    assert_close(single.step(xs[0, 0]), ys[0, 0])  # [C, height, width] for one row
    assert single.step(xs[1, :1].numpy()).shape == (1, 3, 3, 4)


def test_weights_in_bfloat16():
    rnn = made("between", torch.float32)
    xs = torch.randn(5, 2, 7)
    ys, _ = in_python(rnn, xs, rnn.initial_state(2))
    rounded = rnn.session(2, weights="bfloat16")
    found = torch.stack([rounded.step(x).clone() for x in xs])
    assert 0 < (found - ys).norm() < 2e-2 * ys.norm()


def test_refresh_takes_new_weights_of_both_sides():
    rnn = made("between")
    session, x = rnn.session(2), torch.randn(2, 7, dtype=torch.float64)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.mul_(1.5)
    session.refresh()
    with torch.no_grad():
        assert_close(session.step(x), rnn.cell(x, rnn.initial_state(2))[0])


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_a_copy_has_a_state_of_its_own(way):
    session, x = made("front").session(2), torch.randn(2, 7, dtype=torch.float64)
    session.step(x)
    other = way(session)
    y = session.step(x).clone()
    session.step(x)
    assert torch.equal(other.step(x), y)


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode, too."""

    input_size, output_size = 7, 7

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(7, 7)

    def initial_state(self, batch_size):
        return (self.linear.weight.new_zeros(batch_size, 7),)

    def forward(self, x, state):
        first = torch.randn_like(x)
        second = torch.rand_like(x)
        h = torch.tanh(self.linear(x) + state[0] * second + first)
        return h + torch.bernoulli(torch.full_like(x, 0.5)), (h,)


def test_random_numbers_are_those_that_its_own_python_draws():
    rnn = td.Recurrent(Noisy())
    xs, state = torch.randn(4, 3, 7), (torch.randn(3, 7),)
    session = rnn.session(3)
    assert session._live._program.left_out == "it draws random numbers"
    session.load(state)
    torch.manual_seed(5)
    ys, end = in_python(rnn, xs, state)
    torch.manual_seed(5)
    assert_close(torch.stack([session.step(x).clone() for x in xs]), ys)
    assert_close(session.state[0], end[0])


def test_the_caller_s_modes_do_not_count():
    rnn = made("front", torch.float32)
    x = torch.randn(1, 7)
    right = rnn.session().step(x).clone()
    session = rnn.session()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        first = session.step(x.numpy())
    assert_close(torch.from_numpy(first), right)
    session.reset()
    assert_close(session.step(x), right)


def test_a_loop_that_is_left_out_is_refused_by_name_and_what_is_not_in_a_loop_is_not():
    torch.manual_seed(3)
    cells = {"loop": td.ConvLSTMCell(2, 3, image_size=(3, 4)), "front": front()}
    rnns = {name: td.Recurrent(cell, engine="cpu") for name, cell in cells.items()}
    with pytest.raises(td.errors.EngineError, match=r"engine 'cpu' cannot step ConvLSTMCell: .*convolution"):
        rnns["loop"].session()
    assert isinstance(rnns["front"].session()._live, PiecewiseStep)


def test_it_is_said_once(caplog):
    from treadle.engines.decision import say_once

    say_once.cache_clear()
    rnn = made("front")
    for _ in range(2):
        rnn.session()
    (record,) = caplog.records
    assert "a session of Graph leaves a part of each step to PyTorch: " in record.message
    assert "convolution" in record.message


def test_explain_says_what_a_session_leaves_out():
    said = td.explain(made("between"))
    assert said.session in str(said)
    assert said.session.startswith("a session leaves a part of each step to PyTorch: ")
    assert "convolution" in said.session
    assert td.explain(made("without_memory")).session == ""
    assert td.explain(td.Recurrent(td.LSTMCell(2, 3))).session == ""
    assert td.explain(td.Recurrent(td.ZoneoutLSTMCell(2, 3))).session == ""  # training draws masks, a session does not
