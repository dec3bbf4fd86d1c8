"""Whatever breaks in the compiler, the first run notices: the cell's own Python runs on, audibly, with its numbers."""

import logging
import math
import random
import re

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from treadle import engines
from treadle.compiler import derivative, guards, reads, trace
from treadle.compiler import program as p
from treadle.compiler.operations import table
from treadle.compiler.program import build as rewrites
from treadle.engines import network, verification

LEVEL = 1.0


class Everything(nn.Module):
    """A cell that uses many operations, and what is around it."""

    def __init__(self):
        super().__init__()
        self.input_size, self.factor = 3, 1.0
        self.linear, self.norm = nn.Linear(7, 12), nn.LayerNorm(4)
        self.slope, self.table = nn.Parameter(torch.tensor(0.3)), [torch.full((4,), 0.7)]

    def initial_state(self, rows):
        return (torch.zeros(rows, 4, dtype=self.slope.dtype), torch.zeros(rows, 4, dtype=self.slope.dtype))

    def forward(self, x, state):
        h, c = state
        a, b, d = self.linear(torch.cat([x, h], 1)).chunk(3, 1)
        c = torch.sigmoid(a) * c + torch.tanh(b) * torch.exp(-a.square()) - 0.1 * d.abs()
        h = self.norm(torch.where(c > 0, c, self.slope * c)) / (2 + torch.cos(d)) * self.factor * LEVEL
        h = torch.softmax(h, 1) - h.clamp(-0.9, 0.9) * self.table[0] + c.amax(1, keepdim=True)
        return h, (h, c)


class Hooked(Everything):
    def forward(self, x, state):
        y, state = super().forward(x, state)
        y.register_hook(lambda g: g * 0.5)
        return y, state


class Drawing(Everything):
    def forward(self, x, state):
        y, state = super().forward(x, state)
        return y * random.uniform(0.5, 1), state


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return g / (1 + ctx.saved_tensors[0].abs())


class Spiking(Everything):
    def forward(self, x, state):
        y, state = super().forward(x, state)
        return Spike.apply(y) + y, state


def handler(name, wrong):
    return lambda patch: patch.setitem(table.HANDLERS, name, wrong(table.HANDLERS[name]))


def other(name, op):
    return handler(name, lambda right: table.HANDLERS[op])


def swapped(right):
    return lambda a, b, *rest, **options: right(b, a, *rest, **options)


def negated(right):
    return lambda *given, **options: p.elementwise("neg", right(*given, **options))


def in_derivative(name, wrong):
    """Break an operation where the derivative is traced alone."""

    def breaking(patch):
        right = table.HANDLERS[name]
        original = derivative.derive.__wrapped__

        def derive(section, wanted):
            with patch.context() as inner:
                inner.setitem(table.HANDLERS, name, wrong(right))
                return original(section, wanted)

        for module in _users_of_derive():
            patch.setattr(module, "derive", derive)

    return breaking


def _users_of_derive():
    from treadle.engines.cpu.plan import invariants
    from treadle.engines.passes import section_passes

    return section_passes, invariants


def a_product_less(patch):
    right = rewrites.dot
    patch.setattr(rewrites, "dot", lambda *given: right(*given))
    patch.setitem(table.HANDLERS, "mm", lambda a, b: p.elementwise("mul", right(a, b), p.full(1.01, (), a.dtype)))
    patch.setitem(
        table.HANDLERS,
        "addmm",
        lambda c, a, b, **_: p.elementwise("add", c, p.elementwise("mul", right(a, b), p.full(1.01, (), a.dtype))),
    )


def no_reasons(patch):
    patch.setattr(reads.Reads, "_refuse", lambda *_: None)
    patch.setattr(reads.Reads, "reason", property(lambda self: "", lambda self, value: None), raising=False)


def change_factor(cell):
    cell.factor = 2.0


def change_global(cell):
    global LEVEL
    LEVEL = 2.0


def change_table(cell):
    cell.table[0] = torch.full((4,), 2.0)


def stale(look):
    return lambda patch: patch.setattr(look, "holds", lambda self: True)


# What is broken, in which cell it shows, and what happens after the first call.
MUTATIONS = {
    "tanh is a sigmoid": (other("tanh", "sigmoid"), Everything, None),
    "sigmoid is tanh": (other("sigmoid", "tanh"), Everything, None),
    "cos is sin": (other("cos", "sin"), Everything, None),
    "exp has another sign": (handler("exp", negated), Everything, None),
    "a difference the other way round": (handler("sub", swapped), Everything, None),
    "a quotient the other way round": (handler("div", swapped), Everything, None),
    "larger is smaller": (other("gt", "lt"), Everything, None),
    "the other way of where": (handler("where", lambda f: lambda c, a, b: f(c, b, a)), Everything, None),
    "abs does nothing": (handler("abs", lambda f: lambda a: a), Everything, None),
    "the largest is the smallest": (
        handler("amax", lambda f: lambda a, *rest: p.elementwise("neg", f(p.elementwise("neg", a), *rest))),
        Everything, None),
    "products are larger": (a_product_less, Everything, None),
    "a sum is a product in the derivative": (in_derivative("add", lambda f: table.HANDLERS["mul"]), Everything, None),
    "a sign in the derivative": (in_derivative("neg", lambda f: lambda a: a), Everything, None),
    "a product in the derivative": (in_derivative("mul", lambda f: lambda a, b: a), Everything, None),
    "the other way of where in the derivative": (
        in_derivative("where", lambda f: lambda c, a, b: f(c, b, a)), Everything, None),
    "a transposition in the derivative": (
        in_derivative("tanh_backward", lambda f: lambda g, y: g), Everything, None),
    "the last part of a concatenation": (
        handler("cat", lambda f: lambda parts, dim=0: f([parts[0], *parts[1:][::-1]], dim) if len(parts) > 2 else f(
            [p.elementwise("neg", parts[0]), *parts[1:]], dim)), Everything, None),
    "a hook is lost": (no_reasons, Hooked, None),
    "random numbers are frozen": (no_reasons, Drawing, None),
    "a derivative of its own is lost": (
        lambda patch: patch.setattr(trace, "_refuse_own_derivatives", lambda *_: None), Spiking, None),
    "attributes are stale": (stale(guards._ValuesLook), Everything, change_factor),
    "globals are stale": (stale(guards._ValuesLook), Everything, change_global),
    "tensors in lists are stale": (stale(guards._ValuesLook), Everything, change_table),
    "nothing is guarded": (
        lambda patch: patch.setattr(guards.Guards, "hold", lambda self: True), Everything, change_factor),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_known_yet(monkeypatch, tmp_path):
    """No verdict, and no value that a broken handler has made."""
    global LEVEL
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    monkeypatch.setenv("TREADLE_VERIFY", "first")
    engines.say_once.cache_clear()
    yield
    LEVEL = 1.0
    derivative.derive.cache_clear()


@pytest.mark.share(7)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_compiler_gives_no_wrong_numbers(name, monkeypatch, caplog):
    breaking, kind, change = MUTATIONS[name]
    derivative.derive.cache_clear()
    breaking(monkeypatch)
    torch.manual_seed(0)
    cell, xs = kind().double(), torch.randn(3, 6, 3, dtype=torch.float64)

    def run(engine):
        random.seed(1)
        ys, _ = td.Recurrent(cell, engine=engine)(xs)
        return [ys, *torch.autograd.grad(ys.square().sum(), cell.parameters())]

    with caplog.at_level(logging.WARNING, "treadle"):
        ours = run("auto")
        if change is not None:
            assert not caplog.records
            change(cell)
            ours = run("auto")
    torch.testing.assert_close(ours, run("reference"))
    assert re.search("runs step by step in Python.*(differs by|what was compiled fails)", caplog.text)


def test_an_engine_that_was_asked_for_by_name_says_what_differs(monkeypatch):
    monkeypatch.setitem(table.HANDLERS, "tanh", table.HANDLERS["sigmoid"])
    with pytest.raises(td.errors.EngineError, match=r"test_verification\.py:\d+: the output differs by .* Python"):
        td.Recurrent(Everything(), engine="cpu")(torch.randn(2, 5, 3))


def test_a_session_is_verified(monkeypatch, caplog):
    cell, x = Everything(), torch.randn(1, 3)
    expected = td.Recurrent(cell, engine="reference").step(x)[0]
    with caplog.at_level(logging.WARNING, "treadle"):
        session = td.Recurrent(cell).session()
        assert not caplog.records
        torch.testing.assert_close(session.step(x), expected, atol=1e-5, rtol=1e-5)
        other_cell = Everything()
        other_cell.load_state_dict(cell.state_dict())
        monkeypatch.setitem(table.HANDLERS, "tanh", table.HANDLERS["sigmoid"])
        session = td.Recurrent(other_cell).session()
        torch.testing.assert_close(session.step(x), expected, atol=1e-5, rtol=1e-5)
    assert "steps in Python" in caplog.text


def test_a_session_of_a_step_that_cannot_be_compared_steps_in_python(caplog):
    class Particular(Everything):
        def forward(self, x, state):
            if not hasattr(x, "alias"):  # in Python, not while it is traced
                assert float(x.abs().sum()) == 0, "zeros, please"
            return super().forward(x, state)

    with caplog.at_level(logging.WARNING, "treadle"):
        session = td.Recurrent(Particular()).session()
    session.step(torch.zeros(1, 3))
    assert "zeros, please" in caplog.text


@pytest.mark.parametrize(("when", "runs"), [("first", 3), ("always", 20), ("never", 0)])
def test_when_to_verify(when, runs, monkeypatch):
    monkeypatch.setenv("TREADLE_VERIFY", when)
    seen = []
    right = verification._compared
    monkeypatch.setattr(verification, "_compared", lambda *given: seen.append(1) or right(*given))
    rnn, xs = td.Recurrent(Everything()), torch.randn(2, 5, 3)
    with torch.no_grad():
        for _ in range(20):
            rnn(xs)
    assert len(seen) == runs


def test_a_verdict_is_kept_on_disk(monkeypatch):
    seen = []
    right = verification._compared
    monkeypatch.setattr(verification, "_compared", lambda *given: seen.append(1) or right(*given))
    xs = torch.randn(2, 5, 3)
    for _ in range(2):
        td.Recurrent(Everything())(xs)[0].sum().backward()
    assert len(seen) == 1
    td.Recurrent(Spiking.__mro__[1]())(xs[:1])[0].sum().backward()
    assert len(seen) == 1
    td.Recurrent(Everything())(xs, resets=torch.zeros(2, 5, dtype=torch.bool))
    assert len(seen) == 2  # another way of running it


def test_two_cells_of_one_program_have_each_a_verdict(monkeypatch):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def initial_state(self, rows):
            return (torch.zeros(rows, 3),)

        def forward(self, x, state):
            h = torch.tanh(self.linear(x) + state[0])
            return h, (h,)

    class WithHook(Plain):
        def forward(self, x, state):
            h = torch.tanh(self.linear(x) + state[0])
            h.register_hook(lambda g: 0.1 * g)
            return h, (h,)

    no_reasons(monkeypatch)
    xs = torch.randn(2, 5, 3)
    td.Recurrent(Plain())(xs)
    with pytest.raises(td.errors.EngineError, match="the gradient of"):
        td.Recurrent(WithHook(), engine="cpu")(xs)


def test_an_odd_setting_is_said(monkeypatch):
    monkeypatch.setenv("TREADLE_VERIFY", "sometimes")
    with pytest.raises(td.errors.EngineError, match="TREADLE_VERIFY is first, always or never, but is 'sometimes'"):
        td.Recurrent(td.LSTMCell(2, 3))(torch.randn(1, 2, 2))


def test_a_failure_to_compile_is_no_failure_of_training(monkeypatch, caplog):
    from treadle.engines.passes import section_passes

    def fails(*_):
        raise RuntimeError("no derivative today")

    monkeypatch.setattr(section_passes, "derive", fails)
    cell, xs = Everything(), torch.randn(2, 5, 3)
    with caplog.at_level(logging.WARNING, "treadle"):
        td.Recurrent(cell)(xs)[0].sum().backward()
    assert "no derivative today" in caplog.text
    assert all(parameter.grad is not None for parameter in cell.parameters())


class IllConditioned(nn.Module):
    """A step that makes rounding visible: the numbers differ, and nobody is wrong."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.eye(4))

    def initial_state(self, rows):
        return (torch.zeros(rows, 4),)

    def forward(self, x, state):
        h = torch.sin(1e6 * torch.tanh(x @ self.w + 0.1 * state[0]))
        return h, (h,)


def test_rounding_is_no_difference(caplog):
    with caplog.at_level(logging.WARNING, "treadle"):
        td.Recurrent(IllConditioned())(torch.randn(2, 5, 4))
    assert not caplog.records


def test_generators_and_gradients_are_left_as_they_were():
    cell = td.ZoneoutLSTMCell(3, 4)
    xs = torch.randn(2, 5, 3)
    torch.manual_seed(5)
    first = td.Recurrent(cell)(xs)[0]
    torch.manual_seed(5)
    assert torch.equal(td.Recurrent(cell)(xs)[0], first)
    seen = []
    cell = td.LSTMCell(3, 4)
    cell.weight_hh.register_hook(seen.append)
    td.Recurrent(cell)(xs)[0].sum().backward()
    assert len(seen) == 1


@pytest.mark.share(6)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_we_have_is_right(subject, caplog):
    rnn = build(subject)
    xs, state = sequence(rnn, 2, 4), random_state(rnn, 2)
    call = engines.Call(rnn.cell, state, xs.transpose(0, 1), state, return_states=True)
    decision = engines.decide(call)
    if decision.network is None:
        pytest.skip(f"no program: {decision.refusal}")
    assert verification._compared(decision.network, decision.engine, decision.call) == ""
    assert math.isfinite(float(xs.sum()))


def test_networks_of_one_program_share_what_was_made():
    cell = Everything()
    rnn, xs = td.Recurrent(cell), torch.randn(2, 5, 3)
    rnn(xs)
    before = network.network_of(cell, xs[:, 0], cell.initial_state(2))
    cell.table[0] = torch.zeros(4)
    after = network.network_of(cell, xs[:, 0], cell.initial_state(2))
    assert after is not before
    assert after.made is before.made
