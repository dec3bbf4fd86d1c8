"""Steps of many small steps: a step's own loop is written out, so a program may be long, and compiles all the same."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle as td
from tests.outcome import outcome, whole
from tests.tolerances import assert_all_close, assert_close
from treadle.compiler import derivative
from treadle.compiler.derivative import derive
from treadle.engines import say_once
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.plan import kernel
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.cpu.write import by_rows
from treadle.engines.network import network_of
from treadle.engines.passes import schedule

H = 8


def runge_kutta(m, h):
    def slope(h):
        return torch.tanh(m.f(h))

    first = slope(h)
    second = slope(h + 0.05 * first)
    third = slope(h + 0.05 * second)
    return h + 0.1 / 6 * (first + 2 * second + 2 * third + slope(h + 0.1 * third))


def halves(m, h):
    a, b = h.chunk(2, 1)
    return torch.cat([b, a + torch.tanh(b)], 1)


SMALL_STEPS = {
    "Euler": lambda m, h: h + 0.1 * torch.tanh(m.f(h)),
    "Runge-Kutta": runge_kutta,
    "gates": lambda m, h: h + torch.sigmoid(m.f(h)) * (torch.tanh(m.g(h)) - h),
    "layer norm": lambda m, h: h + 0.1 * F.layer_norm(m.f(h), (H,)),
    "norm": lambda m, h: torch.tanh(h / (h.norm(dim=1, keepdim=True) + 1)),
    "softmax": lambda m, h: h + torch.softmax(h, 1),
    "sine": lambda m, h: h + 0.1 * torch.sin(h),
    "sums": lambda m, h: h * 0.9 + h * h * 0.01 - 0.1,
    "halves": halves,
    "matrices of its own": lambda m, h: h + torch.tanh((h.view(-1, 2, 4) @ h.view(-1, 4, 2)).flatten(1)).repeat(1, 2),
}


class Inner(nn.Module):
    input_size = 3

    def __init__(self, one, count):
        super().__init__()
        self.one, self.count = one, count
        self.i, self.f, self.g = nn.Linear(3, H), nn.Linear(H, H), nn.Linear(H, H)

    def initial_state(self, batch_size):
        return (self.i.weight.new_zeros(batch_size, H),)

    def forward(self, x, state):
        h = torch.tanh(state[0] + self.i(x))
        for _ in range(self.count):
            h = self.one(self, h)
        return h, (h,)


def kernels(one, count):
    """The kernels of the loop: forwards, keeping what is needed, and backwards."""
    cell = Inner(one, count)
    network = network_of(cell, torch.zeros(2, 3), cell.initial_state(2))
    loop = CompiledSection(next(s for s in network.plan(False).sections if s.kind == "loop"))
    derivative = loop.derivative(tuple(v.dtype.is_floating_point for v in loop.section.inputs))
    return [derivative.forward.kernel, derivative.backward.kernel]


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", SMALL_STEPS)
def test_values_and_gradients_of_long_steps(name):
    """So long that their kernels are several functions."""
    torch.manual_seed(1)
    cell = Inner(SMALL_STEPS[name], 16).double()
    xs = torch.randn(3, 4, 3, dtype=torch.float64)
    options = {"lengths": [4, 0, 2]}

    def ragged(rnn, xs, state):
        return rnn(xs, state, return_states=True, **options)

    for run in (whole, ragged):
        expected = outcome(run, td.Recurrent(cell, engine="reference"), xs)
        assert_all_close(outcome(run, td.Recurrent(cell, engine="cpu"), xs), expected)
    session = td.Recurrent(cell, engine="cpu").session(3)
    assert_close(session.steps(xs), td.Recurrent(cell, engine="reference")(xs)[0])


@pytest.mark.slow
@pytest.mark.usefixtures("set_num_threads", "poisoned_memory")
def test_long_steps_side_by_side(monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setattr(kernel.CompiledKernel, "threads_side_by_side", lambda self, _: 2 if self.kernel.carries else 1)
    torch.manual_seed(1)
    cell = Inner(SMALL_STEPS["gates"], 16).double()
    xs = torch.randn(3, 4, 3, dtype=torch.float64)
    expected = outcome(whole, td.Recurrent(cell, engine="reference"), xs)
    assert_all_close(outcome(whole, td.Recurrent(cell, engine="cpu"), xs), expected)


@pytest.mark.share(1)
@pytest.mark.parametrize("name", SMALL_STEPS)
def test_what_is_written_grows_with_the_number_of_small_steps(name, monkeypatch):
    """Not with its square; and a schedule is not begun again for each of them."""
    attempts = []
    run = schedule._Scheduler.run
    monkeypatch.setattr(schedule._Scheduler, "run", lambda self: attempts.append(0) or run(self))
    sizes = []
    for count in (16, 32):
        attempts.clear()
        lowered = [lower(one, host()) for one in kernels(SMALL_STEPS[name], count)]
        assert len(attempts) <= 16
        sizes.append(sum(len(by_rows.text(one)) for one in lowered))
    assert sizes[1] < 2.3 * sizes[0]


def test_the_minimum_cut_of_a_long_step_is_found_at_once(monkeypatch):
    """Paths through a step are as many as its small steps, and each is found once."""
    found = []
    levels = derivative._Flow._levels
    monkeypatch.setattr(derivative._Flow, "_levels", lambda self, first: found.append(0) or levels(self, first))
    cell = Inner(SMALL_STEPS["gates"], 40)
    network = network_of(cell, torch.zeros(2, 3), cell.initial_state(2))
    loop = next(s for s in network.plan(False).sections if s.kind == "loop").local()
    derive(loop, loop.inputs)
    assert len(found) < 20


@pytest.mark.slow
def test_a_sum_of_many_terms():
    cell = Inner(lambda m, h: sum((h * 0.001 * k for k in range(1100)), h), 1)
    xs = torch.randn(2, 3, 3)
    assert_close(td.Recurrent(cell, engine="cpu")(xs)[0], td.Recurrent(cell, engine="reference")(xs)[0])


def test_too_many_operations_are_left_to_pytorch_and_that_is_said(caplog):
    cell = Inner(SMALL_STEPS["Euler"], 300)
    rnn = td.Recurrent(cell)
    xs = torch.randn(2, 3, 3)
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "treadle"):
        ys, _ = rnn(xs)
    ys.sum().backward()
    (record,) = caplog.records
    words = r"test_long_steps\.py:\d+: a step has 1,\d\d\d operations, and to compile so many takes minutes"
    assert "the loop over 0 of Inner runs in PyTorch, step by step" in record.getMessage()
    with pytest.raises(td.errors.EngineError, match=words):
        td.Recurrent(cell, engine="cpu")(xs)
    assert_close(ys, td.Recurrent(cell, engine="reference")(xs)[0])
    assert "a step has 1," in str(td.explain(rnn))
