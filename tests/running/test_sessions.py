"""Pools: each session gives the bits of a session alone, whatever steps beside it."""

import copy
import gc
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import treadle as td
from tests.covering import pairwise
from tests.registry import CELLS, SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_close
from treadle.engines.cpu.plan import live_pool
from treadle.running.one_by_one import OneByOne
from treadle.state import named_tensors, select

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# What has no step of machine code for many rows.
ONE_BY_ONE = {"conv-lstm", "conv-lstm-kernel-1", "graph-images", "graph-tokens", "own-cell"}


@pytest.fixture(params=["one thread", "three threads"])
def either_way(request, monkeypatch):
    before = torch.get_num_threads()
    if request.param == "three threads":
        torch.set_num_threads(3)
        monkeypatch.setattr(live_pool, "WORTH_A_THREAD", 1)  # even the smallest step is worth several
    yield
    torch.set_num_threads(before)


def gru(I=3, H=5, **options):
    torch.manual_seed(2)
    return td.Recurrent(td.Stack([td.GRUCell(I, H), td.GRUCell(H, H)]), **options)


def same(a, b):
    """Whether two states, or outputs, are one, bit for bit."""
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(arrays(a), arrays(b), strict=True))


def arrays(state):
    return [tensor.detach().numpy() for _, tensor in named_tensors(state)]


class Client:
    """A session alone, as the pool's clients are: without a batch."""

    def __init__(self, session):
        self.session, self.axis = session, 0 if session.batch_first else 1

    def step(self, x):
        return self.session.step(x[None])[0].clone()

    def steps(self, xs):
        return self.session.steps(xs.unsqueeze(self.axis)).squeeze(self.axis).clone()


def change(pool, clients, id, what, make, state):
    """One of what happens to clients: they begin, end, start again, continue from elsewhere."""
    if id not in pool:
        assert pool.open(id) == id
        clients[id] = Client(make())
    elif what < 0.1:
        pool.close(id)
        del clients[id]
    elif what < 0.2:
        pool.reset(id)
        clients[id].session.reset()
    elif what < 0.4:
        pool.load(id, select(state, [id]))
        clients[id].session.load(select(state, [id]))


def run_both(rnn, dtype, rounds=6, count=7, **options):
    """Clients come, go and step, some at a time: in a pool, and each in a session of its own."""
    rng, pool, clients = np.random.default_rng(0), rnn.sessions(2, **options), {}
    state, xs = random_state(rnn, count, dtype), sequence(rnn, count, rounds + 4, dtype)
    for t in range(rounds):
        for id in range(count):
            change(pool, clients, id, rng.random(), lambda: rnn.session(**options), state)
        some = [id for id in rng.permutation([*pool]).tolist() if rng.random() < 0.7]
        if t % 3 == 2:
            given = {id: xs[id, t : t + int(rng.integers(0, 5))] for id in some}
            ys, right = pool.steps(given), {id: clients[id].steps(x) for id, x in given.items()}
        elif t % 3 == 1 and some:
            block = xs[some, t : t + 3]
            found = pool.steps_rows([pool.slot(id) for id in some], block.numpy())
            ys = dict(zip(some, map(torch.from_numpy, found), strict=True))
            right = {id: clients[id].steps(x) for id, x in zip(some, block, strict=True)}
        else:
            given = {id: xs[id, t] for id in some}
            ys, right = pool.step(given), {id: clients[id].step(x) for id, x in given.items()}
        assert list(ys) == some
        for id in pool:
            assert id not in some or same(ys[id], right[id]), (t, id)
            assert same(pool.state(id), clients[id].session.state), (t, id)
    return pool


KINDS = [
    *((weights, torch.float32) for weights in ("float32", "bfloat16", "int8")),
    ("float32", torch.float64),
    ("bfloat16", torch.float64),
]


@pytest.mark.share(9)
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("subject", "kind"),
    pairwise(subject=list(SUBJECTS), kind=KINDS),
    ids=str,
)
def test_every_session_gives_the_bits_of_a_session_alone(subject, kind):
    weights, dtype = kind
    pool = run_both(build(subject, dtype, learn_initial_state=True), dtype, weights=weights)
    assert isinstance(pool._rows, OneByOne) == (subject in ONE_BY_ONE)


@pytest.mark.share(3)
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("name", "sizes", "weights"),
    pairwise(
        name=[name for name in CELLS if not name.startswith("conv")],
        sizes=[(1, 1), (5, 37), (33, 70)],
        weights=["float32", "bfloat16", "int8"],
    ),
    ids=str,
)
def test_odd_sizes_and_more_rows_than_a_tile(name, sizes, weights):
    torch.manual_seed(1)
    try:
        cell = CELLS[name](*sizes)
    except td.errors.ShapeError as refusal:
        pytest.skip(str(refusal))
    run_both(td.Recurrent(cell).eval(), torch.float32, rounds=3, count=41, weights=weights)


@pytest.mark.usefixtures("either_way")
def test_more_rows_than_a_block():
    rnn, rng = gru(I=3, H=19), np.random.default_rng(0)
    pool, xs = rnn.sessions(), rng.standard_normal((230, 6, 3)).astype(np.float32)
    ids = [pool.open() for _ in range(230)]
    lengths = rng.integers(0, 6, 230)
    first = pool.step({id: xs[id, 0] for id in ids})
    blocks = pool.steps({id: xs[id, 1 : 1 + lengths[id]] for id in ids})
    for id in ids[::7]:
        session = rnn.session()
        assert np.array_equal(first[id], session.step(xs[id, 0]))
        assert np.array_equal(blocks[id], session.steps(xs[id, 1 : 1 + lengths[id]]))
        assert same(pool.state(id), session.state)


def test_a_session_gives_the_numbers_of_the_reference():
    rnn = gru()
    pool, xs = rnn.sessions(), torch.randn(5, 9, 3)
    ids = [pool.open() for _ in range(5)]
    ys = torch.stack([torch.stack([*pool.step(dict(zip(ids, x, strict=True))).values()]) for x in xs.unbind(1)], 1)
    right, end = td.Recurrent(rnn.cell, engine="reference")(xs)
    assert_close(ys, right)
    for row, id in enumerate(ids):
        for (_, a), (_, b) in zip(named_tensors(pool.state(id)), named_tensors(select(end, row)), strict=True):
            assert_close(a, b)


@pytest.mark.share(6)
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("subject", [subject for subject in SUBJECTS if "tokens" not in subject])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_one_client_sends_reaches_no_other(subject, bad):
    rnn = build(subject, torch.float32)
    xs, pool, alone = sequence(rnn, 9, 5, torch.float32), rnn.sessions(), rnn.sessions()
    xs[::2, 1:3] = bad
    for id in range(9):
        pool.open(id)
        if id % 2:
            alone.open(id)
    for t in range(5):
        ys = pool.step({id: xs[id, t] for id in pool})
        right = alone.step({id: xs[id, t] for id in alone})
        assert all(same(ys[id], right[id]) for id in alone)
    assert all(same(pool.state(id), alone.state(id)) for id in alone)
    for id in range(0, 9, 2):
        pool.close(id)
        pool.open(id)  # in memory where NaN was
    assert all(same(pool.state(id), rnn.session().state) for id in range(0, 9, 2))


# Who is in it


def test_ids():
    pool = gru().sessions(capacity=2)
    numbers = [pool.open() for _ in range(3)]
    assert len(set(numbers)) == 3
    assert pool.open("ada") == "ada"
    assert pool.open(("ben", 1)) == ("ben", 1)
    assert pool.open(3) == 3
    assert pool.open() not in (*numbers, 3)
    assert len(pool) == 7
    assert "ada" in pool
    assert "eve" not in pool
    assert set(pool) == {*numbers, 3, 4, "ada", ("ben", 1)}
    for id in pool:
        pool.close(id)
    assert len(pool) == 0
    assert pool.step({}) == pool.steps({}) == {}
    assert pool.step_rows([], np.zeros((0, 3), np.float32)).shape == (0, 5)


def test_a_session_that_was_closed_begins_in_the_initial_state():
    rnn = build("lstm", torch.float32, learn_initial_state=True)
    pool = rnn.sessions(capacity=1)
    for _ in range(3):
        pool.open("a")
        assert same(pool.state("a"), rnn.session().state)
        pool.step({"a": torch.ones(3)})
        assert not same(pool.state("a"), rnn.session().state)
        pool.close("a")


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_it_grows_by_doubling_up_to_the_limit_and_states_stay(engine):
    pool, xs = gru(engine=engine).sessions(capacity=3, limit=11), torch.randn(11, 3)
    alone = gru(engine=engine).sessions(capacity=11)
    capacities = []
    for id in range(11):
        pool.open(id)
        alone.open(id)
        capacities.append(pool.capacity)
        pool.step({id: xs[id]})
        alone.step({id: xs[id]})
    assert capacities == [3] * 3 + [6] * 3 + [11] * 5
    with pytest.raises(td.errors.StateError, match=r"the pool is full: 11 sessions are open.*higher limit="):
        pool.open()
    assert len(pool) == 11
    assert all(same(pool.state(id), alone.state(id)) for id in range(11))
    pool.close(4)
    assert pool.open("new") == "new"
    ys, right = (one.step({id: xs[id] for id in range(11) if id != 4}) for one in (pool, alone))
    assert all(same(ys[id], right[id]) for id in ys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "room for one session or more, but capacity=0"),
        ({"capacity": 2.0}, "capacity=2.0"),
        ({"limit": -1}, "limit=-1"),
        ({"capacity": 8, "limit": 4}, "limit=4 sessions were passed for a pool that begins with capacity=8"),
    ],
)
def test_refused_pools(options, words):
    with pytest.raises(td.errors.ShapeError, match=words):
        gru().sessions(**options)
    with pytest.raises(ValueError, match="'float32', 'bfloat16', 'int8', but 'int4'"):
        gru().sessions(weights="int4")


def test_refused_calls_change_nothing():
    rnn = gru()
    pool = rnn.sessions()
    slots = [pool.slot(pool.open(id)) for id in "ab"]
    x, wrong = np.ones(3, np.float32), np.ones(4, np.float32)
    pool.step({"a": x, "b": x})
    before = pool.state("a"), pool.state("b")
    other = td.Recurrent(td.GRUCell(3, 6)).initial_state(1)
    refusals = [
        (
            lambda: pool.step({"a": x, "c": x}),
            "StateError",
            r"there is no session 'c' in this pool of 2: open it first",
        ),
        (lambda: pool.step({"a": x, "b": wrong}), "ShapeError", r"x of session 'b' is \[4\].*takes \[3\]"),
        (lambda: pool.step({"a": x, "b": x[None]}), "ShapeError", r"x of session 'b' is \[1, 3\].*takes \[3\]"),
        (
            lambda: pool.step({"a": x, "b": np.ones(3, int)}),
            "ShapeError",
            r"x of session 'b' is torch.int64, but others",
        ),
        (lambda: pool.step({"a": np.ones(3, int)}), "ShapeError", "reads features, which are floats"),
        (lambda: pool.steps({"a": x[None], "b": x}), "ShapeError", r"x of session 'b' is \[3\].*takes \[T, 3\]"),
        (lambda: pool.steps({"a": x[None], "b": wrong[None]}), "ShapeError", r"takes \[T, 3\]"),
        (lambda: pool.open("a"), "StateError", "session 'a' is open already: close it, or reset it"),
        (lambda: pool.load("a", other), "StateError", "another network"),
        (lambda: pool.load("a", rnn.initial_state(2)), "StateError", "2"),
        (lambda: pool.step_rows([slots[0]] * 2, np.ones((2, 3), np.float32)), "StateError", "a slot is there twice"),
        (
            lambda: pool.step_rows([slots[0], 40], np.ones((2, 3), np.float32)),
            "StateError",
            "slot 40 is not that of an",
        ),
        (lambda: pool.step_rows([-1], np.ones((1, 3), np.float32)), "StateError", "slot -1 is not that of an"),
        (lambda: pool.step_rows([0.5], np.ones((1, 3), np.float32)), "StateError", "slots are whole numbers"),
        (lambda: pool.step_rows(slots, np.ones((1, 3), np.float32)), "ShapeError", r"2 slots .* xs is \[1, 3\]"),
        (lambda: pool.step_rows(slots, np.ones((2, 4), np.float32)), "ShapeError", r"takes a step of \[B, 3\]"),
        (lambda: pool.steps_rows(slots, np.ones((1, 2, 3), np.float32)), "ShapeError", r"2 slots .* xs is \[1, 2, 3\]"),
        (lambda: pool.steps_rows(slots, np.ones((2, 3), np.float32)), "ShapeError", r"is \[3\], but .* takes \[T, 3\]"),
        (lambda: pool.steps_rows(slots, np.ones((2, 2, 4), np.float32)), "ShapeError", r"takes \[T, 3\]"),
    ]
    refusals += [
        (lambda call=call: call("c"), "StateError", "there is no session 'c'")
        for call in (pool.close, pool.reset, pool.state, pool.slot, lambda id: pool.load(id, None))
    ]
    for call, kind, words in refusals:
        with pytest.raises(getattr(td.errors, kind), match=words):
            call()
    assert len(pool) == 2
    assert same(before, (pool.state("a"), pool.state("b")))


def test_a_token_that_is_not_embedded_changes_no_state():
    g = td.Graph(())
    rnn = td.Recurrent(g.outputs(g.add("rnn", td.GRUCell(4, 4), reads=g.add("words", nn.Embedding(7, 4), reads=g.x))))
    pool = rnn.sessions()
    pool.open("a")
    pool.open("b")
    before = pool.state("a")
    for xs in ({"a": 3, "b": 7}, {"a": torch.tensor(-1)}):
        with pytest.raises(IndexError, match=r"token -?\d is not one of the 7"):
            pool.step(xs)
    assert same(before, pool.state("a"))
    y = pool.step({"a": 3, "b": np.int64(4)})
    assert np.array_equal(y["a"], rnn.session().step(3))
    slots = np.array([pool.slot("b"), pool.slot("a")])
    assert pool.step_rows(slots, torch.tensor([1, 2])).shape == (2, 4)


# What goes in and comes out


def test_answers_are_in_kind_and_the_callers():
    rnn = gru()
    pool, right = rnn.sessions(), rnn.session().step(np.linspace(-1, 1, 3, dtype=np.float16).astype(np.float32)).copy()
    x = np.linspace(-1, 1, 3, dtype=np.float16).astype(np.float32)
    wide = np.repeat(x, 2)
    inputs = {
        "array": x,
        "double": x.astype(np.float64),
        "every second": wide[::2],
        "half": x.astype(np.float16),
        "list": x.tolist(),
        "tensor": torch.from_numpy(x.copy()),
        "double tensor": torch.from_numpy(x.copy()).double().requires_grad_(),
    }
    for id in inputs:
        pool.open(id)
    ys = pool.step(inputs)
    for id, y in ys.items():
        assert isinstance(y, Tensor if isinstance(inputs[id], Tensor) else np.ndarray), id
        assert y.shape == (5,)
        assert not isinstance(y, Tensor) or not y.requires_grad
        assert np.array_equal(y, right), id
        pool.reset(id)
    for id, x in inputs.items():
        assert np.array_equal(pool.step({id: x})[id], right), id
        pool.reset(id)
        assert np.array_equal(np.asarray(pool.steps({id: [x] if id == "list" else x[None]})[id])[0], right), id
    kept = pool.step({"array": inputs["array"]})["array"]
    before = kept.copy()
    pool.step({"array": inputs["array"]})
    assert np.array_equal(kept, before)
    kept[:] = np.nan
    assert not np.isnan(pool.step({"array": inputs["array"]})["array"]).any()


def test_rows_by_slot_are_those_by_id():
    rnn = gru()
    pool, other = rnn.sessions(), rnn.sessions()
    ids = [pool.open() for _ in range(40)]
    assert [other.open() for _ in range(40)] == ids
    rng = np.random.default_rng(0)
    for kind in (np.asarray, torch.from_numpy, np.float64, lambda x: x[:, ::-1].copy()[:, ::-1]):
        some = rng.permutation(ids)[:33].tolist()
        xs = rng.standard_normal((33, 3)).astype(np.float32)
        given = kind(xs)
        slots = [pool.slot(id) for id in some]
        ys = pool.step_rows(np.array(slots, np.int32) if kind is np.asarray else slots, given)
        assert isinstance(ys, type(given))
        right = other.step(dict(zip(some, xs, strict=True)))
        assert np.array_equal(np.asarray(ys), np.stack([*right.values()]))


@pytest.mark.parametrize("rnn", [gru(), td.LSTM(160, 160, 2)], ids=["a short step", "a step for two threads"])
def test_one_row_by_slot_is_that_of_a_session(rnn):
    pool, sessions = rnn.sessions(), {}
    for id in range(20):
        pool.open(id)
        sessions[id] = rnn.session()
    rng = np.random.default_rng(0)
    size = pool.snapshot.recurrent.input_size
    kept = []
    for t in range(60):
        id, x = int(rng.integers(20)), rng.standard_normal((1, size)).astype(np.float32)
        if t == 30:  # what was made for a call of fewer rows is made again
            everybody = {one: x[0].copy() for one in sessions}
            for one, y in pool.step(everybody).items():
                assert np.array_equal(y, sessions[one].step(x[0]))
        other = (x.copy("F"), x.astype(np.float64), torch.from_numpy(x), x.repeat(2, 1)[:, ::2])
        given = x if t % 2 else other[t // 2 % len(other)]
        y = pool.step_rows([pool.slot(id)], given)
        assert isinstance(y, type(given))
        kept.append((y, np.array(sessions[id].step(x[0]))))
    assert all(y.shape == right[None].shape and np.array_equal(np.asarray(y)[0], right) for y, right in kept)


def test_one_row_by_slot_refuses_what_is_none():
    pool = gru().sessions()
    pool.open("ada")
    x = np.ones((1, 3), np.float32)
    expected = pool.step_rows([pool.slot("ada")], x).copy()
    pool.reset("ada")
    for slots, xs, error in (
        ([1], x, td.errors.StateError),
        ([-1], x, td.errors.StateError),
        ([True], x, td.errors.StateError),
        ([0.0], x, td.errors.StateError),
        ([0], x[:, :2], td.errors.ShapeError),
        ([0], x.repeat(2, 0), td.errors.ShapeError),
        ([0], x[0], td.errors.ShapeError),
    ):
        with pytest.raises(error):
            pool.step_rows(slots, xs)
    assert np.array_equal(pool.step_rows([np.int64(0)], x), expected)


def test_one_row_by_slot_keeps_nothing():
    pool, x = gru().sessions(), np.ones((1, 3), np.float32)
    slots = [pool.slot(pool.open())]
    pool.step_rows(slots, x)
    gc.collect()
    before = sys.getrefcount(x), sys.getrefcount(None), sys.getrefcount(x.dtype)
    for _ in range(100):
        pool.step_rows(slots, x)
        assert pool._door.by_one_slot(slots[0], x[0]) is None
    kept = [pool.step_rows(slots, x) for _ in range(100)]
    assert all(sys.getrefcount(y) == 3 and y.flags.owndata and y.base is None for y in kept)
    kept.clear()
    after = sys.getrefcount(x), sys.getrefcount(None), sys.getrefcount(x.dtype)
    assert all(abs(one - other) < 50 for one, other in zip(before, after, strict=True))


class Key:
    """A key that runs Python's code when it is looked up, and changes the dict that it is in."""

    def __init__(self, number, xs=None):
        self.number, self.xs = number, xs

    def __hash__(self):
        return 1

    def __eq__(self, other):
        for key in (self, other):  # whichever is asked
            if key.xs:
                key.xs.clear()
            if key.number == "fails":
                raise RuntimeError("compared")
        return self.number == other.number


def test_ids_of_any_kind_on_the_way_in_for_arrays():
    pool, x = gru().sessions(), np.ones(3, np.float32)
    for number in range(3):
        pool.open(Key(number))
    assert len(pool.step({Key(number): x.copy() for number in range(3)})) == 3
    with pytest.raises(td.errors.StateError, match="there is no session"):
        pool.step({Key(7): x})
    with pytest.raises(RuntimeError, match="compared"):
        pool.step({Key("fails"): x})
    xs = {}
    xs[Key(0, xs)] = x.copy()
    ((id, y),) = pool.step(xs).items()
    assert (id.number, xs) == (0, {})
    assert y.shape == (5,)


def test_the_way_in_for_arrays_keeps_nothing():
    pool, x = gru().sessions(), np.ones(3, np.float32)
    ids = [pool.open(f"client {number}") for number in range(20)]
    xs = dict.fromkeys(ids, x)
    pool.step(xs)
    gc.collect()
    counts = sys.getrefcount(x), [sys.getrefcount(id) for id in ids], sys.getrefcount(None)
    for _ in range(100):
        pool.step(xs)
        pool.step({ids[0]: x[None][0]})
        assert pool._door._take({ids[0]: 3}) is None
    dtype = sys.getrefcount(x.dtype)
    kept = [y for _ in range(100) for y in pool.step(xs).values()]
    # Those who have it: the list, the loop, the call.
    assert all(sys.getrefcount(y) == 3 and y.flags.owndata and y.base is None for y in kept)
    kept.clear()
    gc.collect()
    assert abs(sys.getrefcount(x.dtype) - dtype) < 50
    assert (sys.getrefcount(x), [sys.getrefcount(id) for id in ids]) == counts[:2]
    assert abs(sys.getrefcount(None) - counts[2]) < 50


@pytest.mark.parametrize("count", [pytest.param(1_000_000, marks=pytest.mark.slow), 20_000])
def test_opening_and_closing_leaves_nothing(count):
    pool = gru().sessions(capacity=8)

    def some(times):
        for _ in range(times):
            id = pool.open()
            pool.reset(id)
            pool.close(id)

    some(1000)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        some(count)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2000
    assert pool.capacity == 8


# The network behind it


def test_the_network_is_as_it_was_until_refresh():
    rnn, x = gru(), np.ones(3, np.float32)
    pool, session = rnn.sessions(), rnn.session()
    pool.open("a")
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.mul_(1.5)
    assert np.array_equal(pool.step({"a": x})["a"], session.step(x))
    pool.refresh()
    session.refresh()
    assert same(pool.state("a"), session.state)
    assert np.array_equal(pool.step({"a": x})["a"], session.step(x))
    pool.open("b")
    assert np.array_equal(pool.step({"b": x})["b"], rnn.session().step(x))


FACTOR = 1.0


class Outside(nn.Module):
    """A cell that reads a global."""

    def __init__(self, **sizes):
        super().__init__()
        vars(self).update(sizes)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def initial_state(self, rows):
        return (torch.zeros(rows, 1),)

    def forward(self, x, state):
        total = state[0] + self.scale * x.sum(1, keepdim=True)
        return x * total * FACTOR, (total,)


@pytest.mark.parametrize("sizes", [{"input_size": 3}, {}], ids=["says what it reads", "does not say"])
def test_a_global_that_changes_is_noticed_and_states_stay(sizes, monkeypatch):
    rnn = td.Recurrent(Outside(**sizes))
    pool, state = rnn.sessions(), None
    pool.open("a")
    for factor in (1.0, 1.0, 3.0, 0.5):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        x = torch.randn(3)
        y, state = rnn.step(x[None], state)
        assert_close(torch.from_numpy(pool.step({"a": x.numpy()})["a"]), y[0])
        assert not isinstance(pool._rows, OneByOne)
    if not sizes:
        y, state = rnn.step(torch.ones(1, 5), state)
        assert_close(pool.step({"a": torch.ones(5)})["a"], y[0])
    assert_close(pool.state("a")[0], state[0])


def test_an_initial_state_that_is_drawn_is_drawn_for_each():
    class Drawn(td.GRUCell):
        def initial_state(self, rows):
            return type(super().initial_state(rows))(torch.randn(rows, self.hidden_size))

    pool = td.Recurrent(Drawn(3, 4)).sessions()
    a, b = (pool.state(pool.open()).h for _ in range(2))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool))])
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_copy_has_sessions_of_its_own(way, engine):
    pool, x = gru(engine=engine).sessions(capacity=2), np.ones(3, np.float32)
    for id in "abc":
        pool.open(id)
        pool.step({id: x})
    pool.close("b")
    other = way(pool)
    assert set(other) == {"a", "c"}
    other.open("d")
    assert "d" not in pool
    assert np.array_equal(pool.step({"c": x})["c"], other.step({"c": x})["c"])
    pool.step({"a": x})
    assert same(other.state("c"), pool.state("c"))
    assert not same(other.state("a"), pool.state("a"))


def test_networks_without_a_state_and_drop_ins():
    g = td.Graph(3)
    pool = td.Recurrent(g.outputs(g.add("linear", nn.Linear(3, 2), reads=g.x))).sessions()
    pool.open("a")
    assert pool.step({"a": np.ones(3, np.float32)})["a"].shape == (2,)
    lstm, xs = td.LSTM(3, 4, 2), torch.randn(5, 3)
    pool = lstm.sessions()
    pool.open("a")
    assert_close(pool.steps({"a": xs})["a"], lstm(xs)[0].detach())
    with pytest.raises(ValueError, match="bidirectional"):
        td.LSTM(3, 4, bidirectional=True).sessions()


def test_a_step_that_fails_changes_no_state():
    class Strict(nn.Module):
        input_size = 3

        def initial_state(self, rows):
            return (torch.zeros(rows, 3),)

        def forward(self, x, state):
            if (x < 0).any():
                raise ArithmeticError("negative")
            return x, (state[0] + x,)

    pool = td.Recurrent(Strict()).sessions()
    pool.open("a")
    pool.open("b")
    with pytest.raises(ArithmeticError):
        pool.step({"a": np.ones(3), "b": -np.ones(3)})
    assert not pool.state("a")[0].any()


def test_inference_mode_and_gradients_of_others():
    pool = gru().sessions(capacity=1)
    with torch.inference_mode():
        pool.open("a")
        pool.step({"a": torch.ones(3)})
        pool.open("b")
        y = pool.steps({"b": torch.ones(2, 3)})["b"]
    pool.step({"a": torch.ones(3), "b": torch.ones(3, requires_grad=True)})
    assert not y.requires_grad
    assert not y.is_inference()


@pytest.mark.usefixtures("either_way")
def test_threads_take_turns():
    rnn = gru(H=19)
    pool, failures = rnn.sessions(capacity=1), []

    def work(number):
        try:
            rng = np.random.default_rng(number)
            for _ in range(8):
                id = pool.open((number, rng.random()))
                session = rnn.session()
                for _ in range(12):
                    x = rng.standard_normal(3).astype(np.float32)
                    assert np.array_equal(pool.step({id: x})[id], session.step(x))
                pool.close(id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert len(pool) == 0
