"""Who runs a call, and why not the others: with an engine of a few lines, which is registered here."""

import logging

import pytest
import torch

import treadle as td
from treadle import engines
from treadle.engines import ENGINES, Call, Engine, Refusal, decide, verification
from treadle.engines.step_by_step import run_section


class Section:
    """A section as the pretended engine has it."""

    def __init__(self, section):
        self.section, self.dtype = section.local(), torch.float32

    def kept(self, wanted):
        return self.section.outputs


class Runner:
    """A section that PyTorch runs after all."""

    def __init__(self, engine, section):
        self.engine, self.section = engine, section
        self.given, self.outputs = section.inputs, section.outputs

    def run(self, layout, given, starts, fresh):
        self.engine.runs += 1
        outputs, ends = run_section(self.section, layout, given, starts, fresh)
        return [output.clone() for output in outputs], ends


class Pretended(Engine):
    """Runs small batches, and no loop with an exponential in it."""

    name = "pretended"
    form = "make-believe"
    runs = 0

    def refusal(self, call):
        return Refusal("the batch is large") if call.xs.shape[1] > 3 else None

    def take(self, section, products):
        if any(value.op == "exp" for value in section.values()):
            return Refusal("exp is too hard")
        return Section(section)

    def join(self, sections, taken, visible, before):
        (section,) = sections
        return Runner(self, section)


@pytest.fixture
def pretended():
    """The engine, registered for one test."""
    engine = Pretended()
    engines.register(engine)
    engines.say_once.cache_clear()
    yield engine
    del ENGINES[engine.name]


def call(cell, rows=2, engine="auto", **options):
    state = cell.initial_state(rows)
    return Call(cell, state, torch.randn(5, rows, 3), state, engine=engine, **options)


def test_an_engine_runs_what_it_takes(pretended):
    cell, xs = td.Stack([td.LSTMCell(3, 4), td.LSTMCell(4, 4)]), torch.randn(2, 5, 3)
    rnn, expected = td.Recurrent(cell, engine="pretended"), td.Recurrent(cell, engine="reference")
    with verification.switched("never"):  # that takes runs, too
        ys, _ = rnn(xs)
    assert pretended.runs == sum(section.engine == "pretended" for section in td.explain(rnn).sections) == 4
    torch.testing.assert_close(ys, expected(xs)[0])
    ours, theirs = (torch.autograd.grad(one(xs)[0].square().sum(), cell.parameters()) for one in (rnn, expected))
    torch.testing.assert_close(ours, theirs)


def test_an_engine_that_was_asked_for_raises_what_it_refuses(pretended):
    rnn = td.Recurrent(td.LSTMCell(3, 4), engine="pretended")
    with pytest.raises(td.errors.EngineError, match=r"^engine 'pretended' cannot run LSTMCell: the batch is large$"):
        rnn(torch.randn(4, 5, 3))
    rnn = td.Recurrent(td.SLSTMCell(3, 4), engine="pretended")
    with pytest.raises(td.errors.EngineError, match=r"cannot run the loop over .* of SLSTMCell: exp is too hard$"):
        rnn(torch.randn(2, 5, 3))
    assert td.explain(rnn).engine == ""
    assert "engine 'pretended' refuses the loop over" in td.explain(rnn).reason


def test_an_automatic_engine_leaves_to_pytorch_what_it_refuses(pretended, monkeypatch, caplog):
    monkeypatch.setattr(pretended, "automatic", True)
    monkeypatch.setattr(ENGINES["cpu"], "automatic", False)
    rnn, xs = td.Recurrent(td.SLSTMCell(3, 4)), torch.randn(2, 5, 3)
    with caplog.at_level(logging.WARNING):
        ys, _ = rnn(xs)
    assert "of SLSTMCell runs in PyTorch, step by step: exp is too hard" in caplog.text
    torch.testing.assert_close(ys, td.Recurrent(rnn.cell, engine="reference")(xs)[0])
    (loop,) = td.explain(rnn).loops
    assert (loop.engine, loop.reason) == ("PyTorch", "exp is too hard")
    with caplog.at_level(logging.WARNING):
        rnn(torch.randn(4, 5, 3))
    assert "SLSTMCell runs step by step in Python, much slower than compiled: the batch is large" in caplog.text


def test_explaining_names_the_engine(pretended):
    explained = td.explain(td.Recurrent(td.LSTMCell(3, 4), engine="pretended"))
    assert (explained.engine, {section.engine for section in explained.loops}) == ("pretended", {"pretended"})
    assert all(section.kept for section in explained.loops)
    assert "runs as make-believe: 1 loop" in str(explained)


def test_each_engine_that_is_passed_over_has_a_reason(pretended, monkeypatch):
    cell = td.LSTMCell(3, 4)
    decision = decide(call(cell))
    assert decision.engine is ENGINES["cpu"]
    assert decision.network is not None
    assert {name: str(why) for name, why in decision.reasons.items()} == {
        "gpu": "engine 'cpu' comes first",
        "interpreter": "it runs where it is asked for by name",
        "reference": "engine 'cpu' comes first",
        "pretended": "it runs where it is asked for by name",
    }
    decision = decide(call(cell, engine="reference"))
    assert decision.engine is ENGINES["reference"]
    assert decision.network is None
    assert set(map(str, decision.reasons.values())) == {"engine='reference' was asked for"}
    assert set(decision.reasons) == {"cpu", "gpu", "interpreter", "pretended"}
    monkeypatch.setattr(pretended, "automatic", True)
    cell.register_forward_hook(lambda *given: None)
    decision = decide(call(cell, rows=4))
    refused = {name: str(why) for name, why in decision.reasons.items()}
    assert decision.engine is ENGINES["reference"]
    assert refused["pretended"] == "the batch is large"
    assert "has hooks" in refused["cpu"]


def test_an_engine_without_live_steps_leaves_sessions_to_python(pretended):
    rnn = td.Recurrent(td.LSTMCell(3, 4), engine="pretended")
    x = torch.randn(1, 3)
    torch.testing.assert_close(rnn.session().step(x), rnn.step(x)[0])


def test_autocast_is_part_of_the_call():
    with torch.autocast("cpu", torch.bfloat16):
        assert engines.autocast_dtype(torch.device("cpu")) == torch.bfloat16
    assert engines.autocast_dtype(torch.device("cpu")) is None
    assert engines.autocast_dtype(torch.device("meta")) is None
    cell = td.LSTMCell(3, 4)
    refused = decide(call(cell, products=torch.float16)).refusal
    assert "autocast to torch.float16 is on" in str(refused)
