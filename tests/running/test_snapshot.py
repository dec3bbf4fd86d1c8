"""Sessions of one network share what they run, exactly as long as the network is what it was."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import treadle as td
from tests.registry import build, sequence
from tests.tolerances import assert_close
from treadle.compiler import trace
from treadle.running import made_last, snapshot


class Holder:
    """A plain object that a cell has."""

    def __init__(self):
        self.numbers = [1.0, 2.0]
        self.tensors = {"a": torch.ones(4)}


class Cell(nn.Module):
    """A cell that computes with all kinds of things; it says what it reads if ``input_size`` is given."""

    def __init__(self, input_size=3):
        super().__init__()
        if input_size:
            self.input_size = input_size
        self.linear, self.shift = nn.Linear(7, 4), nn.Parameter(torch.zeros(()))
        self.register_buffer("gain", torch.ones(4))
        self.plain, self.array, self.number, self.holder = torch.ones(4), np.ones(4, np.float32), 1.0, Holder()

    def initial_state(self, rows):
        return (torch.full((rows, 4), self.holder.numbers[1]),)

    def forward(self, x, state):
        h = self.linear(torch.cat([x, state[0]], 1)) * self.gain * self.plain + self.shift
        h = torch.tanh(h * self.number * self.holder.numbers[0]) * self.holder.tensors["a"]
        return h * torch.from_numpy(self.array), (h,)


def in_place(tensor, number):
    with torch.no_grad():
        tensor.mul_(number)


CHANGES = {
    "a parameter, in place": lambda cell: in_place(cell.linear.weight, 1.5),
    "a parameter's data, in place": lambda cell: cell.linear.weight.data.mul_(1.5),
    "a parameter through NumPy": lambda cell: cell.linear.bias.detach().numpy().__iadd__(1.0),
    "another parameter": lambda cell: setattr(cell.linear, "bias", nn.Parameter(torch.ones(4))),
    "loaded": lambda cell: cell.load_state_dict({n: t + 0.5 for n, t in cell.state_dict().items()}),
    "one number": lambda cell: cell.shift.data.fill_(0.25),
    "a buffer": lambda cell: cell.gain.mul_(0.5),
    "a plain tensor": lambda cell: cell.plain.mul_(0.5),
    "an array": lambda cell: cell.array.__imul__(0.5),
    "a number": lambda cell: setattr(cell, "number", 0.5),
    "a list of an object": lambda cell: cell.holder.numbers.__setitem__(0, 0.5),
    "the initial state": lambda cell: cell.holder.numbers.__setitem__(1, 0.5),
    "a tensor of an object": lambda cell: cell.holder.tensors["a"].mul_(0.5),
    "a layer": lambda cell: setattr(cell, "linear", nn.Linear(7, 4)),
    "the precision": lambda cell: cell.double(),
}


@pytest.mark.share(30)
@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("says", [True, False], ids=["says what it reads", "does not say"])
def test_a_new_session_and_refresh_see_every_change(what, weights, says):
    torch.manual_seed(0)
    rnn = td.Recurrent(Cell(3 if says else None))
    if what == "the precision":
        rnn.cell.holder.tensors["a"] = torch.ones((), dtype=torch.float32)  # broadcast: stays as it is
        rnn.cell.plain, rnn.cell.array = torch.ones(()), np.ones((), np.float32)
    x, old = torch.randn(3), rnn.session(weights=weights)
    refreshed = rnn.session(weights=weights)
    before = [old.step(x).clone() for _ in range(2)]
    state = refreshed.state
    CHANGES[what](rnn.cell)
    x = x.to(rnn.cell.linear.weight.dtype)
    found, right = rnn.session(weights=weights), copy.deepcopy(rnn).session(weights=weights)
    for first in before:
        y = found.step(x).clone()
        assert torch.equal(y, right.step(x))
        assert y.dtype != first.dtype or not torch.equal(y, first)
    if what != "the precision":
        refreshed.refresh()
        right.load(state)
        assert torch.equal(refreshed.step(x), right.step(x))
    old.reset()
    assert torch.equal(old.step(x.float()), before[0])


@pytest.mark.parametrize(
    "make", [lambda: td.Recurrent(Cell()), lambda: build("stack-feedback"), lambda: td.GRU(3, 4, 2)]
)
def test_nothing_is_copied_or_traced_while_nothing_changes(monkeypatch, make):
    rnn = make()
    first, rounded = rnn.session(), rnn.session(weights="bfloat16")
    monkeypatch.setattr(snapshot, "evaluated_copy", None)
    monkeypatch.setattr(trace, "_trace_twice", None)
    rnn.train(not rnn.training)
    assert rnn.session(batch_size=3).snapshot is first.snapshot
    assert rnn.session(weights="bfloat16").snapshot is rounded.snapshot
    assert copy.copy(first).snapshot is first.snapshot


def test_training_does_not_trace_again(monkeypatch):
    rnn = build("stack-feedback", torch.float32)
    for weights in ("float32", "bfloat16", "int8"):
        rnn.session(weights=weights)
    xs = sequence(rnn, 1, dtype=torch.float32)
    rnn(xs)
    monkeypatch.setattr(trace, "_trace_twice", None)
    for weights in ("float32", "bfloat16", "int8"):
        session = rnn.session(weights=weights)
        in_place(next(rnn.parameters()), 1.5)
        session.refresh()
        assert session._live is not None
        assert_close(session.steps(xs), rnn(xs)[0], torch.float32 if weights == "float32" else torch.bfloat16)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_tied_weights_that_come_apart_are_noticed(factor):
    rnn, xs = td.Recurrent(td.Stack([td.GRUCell(4, 4), td.GRUCell(4, 4)])), torch.randn(3, 4)
    first, second = (cell for cell in rnn.cell.modules() if isinstance(cell, td.GRUCell))
    second.weight_hh = first.weight_hh
    rnn.session().steps(xs)

    def is_right():
        right = copy.deepcopy(rnn)
        right.engine = "reference"
        assert_close(rnn.session().steps(xs), right(xs[None])[0][0])

    second.weight_hh = nn.Parameter(first.weight_hh.detach() * factor)
    is_right()
    in_place(first.weight_hh, 1.5)
    is_right()
    first.weight_hh = second.weight_hh
    is_right()
    in_place(first.weight_hh, 1.5)
    is_right()


def test_a_snapshot_dies_with_its_network_and_sessions():
    rnn = td.Recurrent(Cell())
    kept = weakref.ref(rnn.session().snapshot)
    gc.collect()
    assert kept() is not None
    session = rnn.session()
    del rnn, session
    gc.collect()
    assert kept() is None


def test_only_sessions_keep_the_snapshot_of_a_large_network(monkeypatch):
    monkeypatch.setattr(made_last, "HELD_BYTES", 10)
    rnn = td.Recurrent(Cell())
    session = rnn.session()
    assert rnn.session().snapshot is session.snapshot
    kept = weakref.ref(session.snapshot)
    del session
    gc.collect()
    assert kept() is None


# Cells that do not say what they read


def test_it_compiles_at_the_first_step_and_for_other_forms_at_theirs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def initial_state(self, rows):
            return (torch.zeros(rows, 1),)

        def forward(self, x, state):
            total = state[0] + self.scale * x.float().sum(1, keepdim=True)
            return x * total, (total,)

    rnn = td.Recurrent(Sum())
    session, state = rnn.session(batch_size=2), None
    for x in (torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 5), torch.ones(2, 2)):
        y, state = rnn.step(x, state)
        assert_close(session.step(x), y)
        assert session._live is not None
    xs = torch.randn(2, 4, 3)
    ys, state = rnn(xs, state)
    assert_close(session.steps(xs), ys)
    assert_close(session.state[0], state[0])
    assert session.steps(xs[:, :0]).shape == (2, 0, 3)


def test_an_engine_that_was_asked_for_by_name_refuses_at_the_first_step():
    cell = Cell(None)
    cell.linear = nn.Conv1d(1, 1, 1)
    cell.forward = lambda x, state: (cell.linear(x[:, None])[:, 0], state)
    session = td.Recurrent(cell, engine="cpu").session()
    with pytest.raises(td.errors.EngineError, match="engine 'cpu' cannot step Cell"):
        session.step(torch.zeros(3))


# What steps in Python


class Counting(nn.Module):
    """It breaks the rules: it remembers something outside of its state."""

    def __init__(self):
        super().__init__()
        self.input_size, self.linear, self.seen = 3, nn.Linear(3, 3), []

    def initial_state(self, rows):
        return (torch.zeros(rows, 3),)

    def forward(self, x, state):
        self.seen.append(1)
        return self.linear(x) + len(self.seen), state


def test_what_a_step_in_python_leaves_behind_is_its_sessions_own():
    rnn, x = td.Recurrent(Counting()), torch.zeros(3)
    first, second = rnn.session(), rnn.session()
    right = [first.step(x).clone() for _ in range(3)]
    for y in right:
        assert torch.equal(second.step(x), y)
    assert torch.equal(rnn.session().step(x), right[0])
    assert rnn.cell.seen == []


def test_an_initial_state_that_is_drawn_is_drawn_at_each_reset():
    class Drawn(td.GRUCell):
        def initial_state(self, rows):
            return type(super().initial_state(rows))(torch.randn(rows, self.hidden_size))

    torch.manual_seed(0)
    session = td.Recurrent(Drawn(3, 4)).session(batch_size=2)
    seen = [session.state.h]
    for rows in (None, 0, 0):
        session.reset(rows)
        seen.append(session.state.h)
    assert not any(torch.equal(a[0], b[0]) for i, a in enumerate(seen) for b in seen[:i])
    assert all(torch.equal(seen[1][1], state[1]) for state in seen[2:])


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_resets_of_single_rows(engine):
    rnn = build("lstm", torch.float32, learn_initial_state=True, engine=engine)
    session = rnn.session(batch_size=3)
    session.steps(torch.randn(3, 2, 3))
    for rows, reset in ((1, [1]), (-1, [2]), (np.int64(0), [0]), (True, [1]), (None, [0, 1, 2])):
        before = session.state
        session.reset(rows if rows is not True else [False, True, False])
        for row in range(3):
            expected = rnn.initial_state(3) if row in reset else before
            assert torch.equal(session.state.h[row], expected.h[row])
    for rows in (3, -4):
        with pytest.raises(td.errors.StateError, match=r"row -?\d was asked for, but the state has 3 rows"):
            session.reset(rows)


def test_the_initial_state_stays_what_it_is():
    session = build("lstm", torch.float32, learn_initial_state=True).session()
    before = session.state
    for _ in range(2):
        session.steps(torch.randn(4, 3))
        for tensor in session.state:
            tensor.zero_()
        session.reset()
        assert all(map(torch.equal, session.state, before))
    assert isinstance(before.h, Tensor)
