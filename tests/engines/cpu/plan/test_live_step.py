"""Sessions through the compiled step: the numbers of the reference, no allocation, nothing read that is not there."""

import copy
import gc
import os
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

import treadle as td
from tests.registry import CELLS, SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.engines import network
from treadle.engines.cpu.plan import live_step
from treadle.state import named_tensors

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# Images, and whole numbers in states: kernels and operations of PyTorch's in turn, see test_piecewise_step.py.
IN_PIECES = {"conv-lstm", "conv-lstm-kernel-1", "graph-images", "graph-tokens"}
IN_PYTHON = {"own-cell"}
COMPILED = [subject for subject in SUBJECTS if subject not in IN_PYTHON | IN_PIECES]


def named(state):
    return dict(named_tensors(state))


def reference(rnn, xs, state=None):
    other = copy.deepcopy(rnn).eval()
    other.engine = "reference"
    with torch.no_grad():
        return other(xs, state)


def lstm(dtype=torch.float32, H=5, **options):
    torch.manual_seed(2)
    return td.Recurrent(td.Stack([td.LSTMCell(3, H), td.LSTMCell(H, H)]), **options).to(dtype)


@pytest.mark.share(4)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_who_has_a_step_of_machine_code(subject):
    live = build(subject, torch.float32).session()._live
    assert (live is None) == (subject in IN_PYTHON)
    assert isinstance(live, live_step.LiveStep) == (subject in COMPILED)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def by_columns(two_threads, monkeypatch):
    """Even the smallest step is worth several threads."""
    monkeypatch.setattr(live_step, "WORTH_A_THREAD", 1)


@pytest.fixture(params=["by one thread", "by columns"])
def either_way(request):
    if request.param == "by columns":
        request.getfixturevalue("by_columns")
    return request.param == "by columns"


@pytest.mark.share(12)
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("subject", COMPILED)
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_steps_equal_the_reference(subject, B, dtype):
    rnn = build(subject, dtype, learn_initial_state=True)
    xs, state = sequence(rnn, B, 6, dtype), random_state(rnn, B, dtype)
    session = rnn.session(batch_size=B)
    assert session._live is not None
    for start in (None, state):
        ys, end = reference(rnn, xs, start)
        session.load(start)
        by_tensor = torch.stack([session.step(x).clone() for x in xs.unbind(1)], 1)
        assert_close(by_tensor, ys)
        assert_all_close(named(session.state), named(end))
        session.load(start)
        by_array = np.stack([session.step(x.numpy()).copy() for x in xs.unbind(1)], 1)
        assert by_array.dtype == ys.numpy().dtype
        assert_close(torch.from_numpy(by_array), ys)
        session.load(start)
        blocks = [session.steps(xs[:, :2]).clone(), session.step(xs[:, 2])[:, None].clone(), session.steps(xs[:, 3:])]
        assert_close(torch.cat(blocks, 1), ys)
        assert_all_close(named(session.state), named(end))


@pytest.mark.share(3)
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("name", [name for name in CELLS if not name.startswith("conv")])
def test_odd_sizes(name):
    torch.manual_seed(1)
    rnn = td.Recurrent(CELLS[name](5, 37)).eval()
    xs = torch.randn(2, 20, 5)
    session = rnn.session(batch_size=2)
    ys = torch.stack([session.step(x).clone() for x in xs.unbind(1)], 1)
    assert_close(ys, reference(rnn, xs)[0])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("B", [1, 9, 40])
def test_a_step_that_is_worth_several_threads(B):
    rnn = lstm(H=200)
    session, arrays, blocks = (rnn.session(batch_size=B) for _ in range(3))
    assert session._live.call.columns is not None
    assert lstm(H=20).session()._live.call.columns is None
    xs = torch.randn(B, 5, 3)
    ys = torch.stack([session.step(x).clone() for x in xs.unbind(1)], 1)
    again = np.stack([arrays.step(x.numpy()).copy() for x in xs.unbind(1)], 1)
    assert_close(ys, reference(rnn, xs)[0])
    assert_close(torch.from_numpy(again), ys)
    assert_close(torch.cat([blocks.steps(xs[:, :3]), blocks.step(xs[:, 3])[:, None], blocks.steps(xs[:, 4:])], 1), ys)


@pytest.mark.usefixtures("by_columns")
def test_every_thread_has_columns_of_its_own(monkeypatch):
    """Also where more threads are called than come: one does it all, in whatever order."""
    rnn, xs = lstm(H=100), torch.randn(1, 6, 3)
    expected = reference(rnn, xs)[0][0]
    for come in (2, 1):
        session = rnn.session()
        parts = {phase.all[0][1][1]: [task[1][2:4] for task in phase.all] for phase in phases_of(session)}
        assert parts[0][0][0] == 0
        assert parts[0][0][1] == parts[0][1][0]
        torch.set_num_threads(come)
        ys = np.stack([session.step(x.numpy()).copy() for x in xs[0]])
        assert_close(torch.from_numpy(ys), expected)


def phases_of(session):
    return session._live.call.columns.recipe._all_phases


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("by_columns")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_steps_alone():
    """It has none of its parent's threads, and must not wait for them."""
    rnn, x = lstm(H=40), np.ones(3, np.float32)
    session, other = rnn.session(), rnn.session()
    expected = [session.step(x).copy() for _ in range(3)]
    child = os.fork()
    if not child:
        same = [np.allclose(other.step(x), y, rtol=1e-5) for y in expected]
        os._exit(0 if all(same) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.share(2)
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_refresh_follows_the_weights_and_the_state_goes_on(weights):
    rnn = lstm()
    session = rnn.session(weights=weights)
    xs = torch.randn(1, 4, 3)
    session.steps(xs)
    state = session.state
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.mul_(-0.5)
    session.refresh()
    assert_all_close(named(session.state), named(state))
    y = session.step(np.ones(3, np.float32)).copy()
    expected = reference(rnn, torch.ones(1, 1, 3), state)[0][0, 0]
    assert_close(torch.from_numpy(y), expected, None if weights == "float32" else torch.bfloat16)


def test_sessions_are_independent():
    rnn, other = lstm(), lstm(H=7)
    first, second, third = rnn.session(), rnn.session(), other.session()
    x = np.ones(3, np.float32)
    a = first.step(x)
    kept = a.copy()
    b, c = second.step(-x), third.step(x)
    assert np.array_equal(a, kept)
    assert not np.shares_memory(a, b)
    assert a.shape != c.shape
    second.reset()
    assert np.array_equal(second.step(x), kept)
    assert not np.array_equal(first.step(x), kept)
    del second
    gc.collect()
    first.reset()
    assert np.array_equal(first.step(x), kept)


def test_an_answer_outlives_its_session():
    session = lstm().session()
    y = session.step(np.ones(3, np.float32))
    kept = y.copy()
    del session
    gc.collect()
    torch.ones(1000)
    assert np.array_equal(y, kept)


@pytest.mark.usefixtures("either_way")
def test_sessions_in_several_threads():
    rnn = lstm()
    xs = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    one = rnn.session()
    expected = np.stack([one.step(x).copy() for x in xs])
    failures = []

    def work():
        try:
            session = rnn.session()
            for _ in range(5):
                session.reset()
                assert np.array_equal(np.stack([session.step(x).copy() for x in xs]), expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


# The way in for arrays


class Odd(np.ndarray):
    """A subclass of an array."""


def strange(x):
    """``x`` in forms that are not simply a dense array of its type."""
    wide = np.repeat(x, 2, -1)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    frozen = x.copy()
    frozen.setflags(write=False)
    return {
        "float64": x.astype(np.float64),
        "float16": x.astype(np.float16).astype(np.float32),
        "every second": wide[..., ::2],
        "backwards": x[..., ::-1].copy()[..., ::-1],
        "columns first": np.asfortranarray(x),
        "read-only": frozen,
        "unaligned": unaligned,
        "a subclass": x.view(Odd),
        "a list": x.tolist(),
        "a tuple": tuple(x.tolist()),
        "a tensor": torch.from_numpy(x.copy()),
        "a tensor of another precision": torch.from_numpy(x.copy()).double(),
    }


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("bare", [False, True])
def test_arrays_of_any_kind(B, bare):
    if bare and B > 1:
        pytest.skip("a batch has an axis")
    x = np.linspace(-1, 1, 3 * B, dtype=np.float16).astype(np.float32).reshape((3,) if bare else (B, 3))
    rnn = lstm()
    session = rnn.session(batch_size=B)
    session.step(x)
    expected = session.step(x).copy()
    for kind, other in strange(x).items():
        session.reset()
        session.step(other)
        y = session.step(other)
        assert isinstance(y, Tensor if isinstance(other, Tensor) else np.ndarray), kind
        assert y.shape == expected.shape, kind
        assert_close(torch.as_tensor(y), torch.from_numpy(expected), what=kind)


def test_the_array_is_not_written_to_or_kept():
    session = lstm().session()
    x = np.ones(3, np.float32)
    before = sys.getrefcount(x)
    y = session.step(x)
    assert sys.getrefcount(x) == before
    assert (x == 1).all()
    first = y.copy()
    x[:] = 5
    session.reset()
    assert np.array_equal(session.step(np.ones(3, np.float32)), first)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(4, np.float32), r"takes a step of \[B, 3\].*\[1, 4\]"),
        (np.zeros(2, np.float32), r"takes a step of \[B, 3\].*\[1, 2\]"),
        (np.zeros((2, 3), np.float32), r"has 1 rows, but x is \[2, 3\]"),
        (np.zeros((0, 3), np.float32), r"has 1 rows, but x is \[0, 3\]"),
        (np.zeros((1, 1, 3), np.float32), r"takes a step of \[B, 3\].*\[1, 1, 3\]"),
        (np.zeros((), np.float32), "takes a step"),
        (np.zeros((3, 1), np.float32), r"has 1 rows, but x is \[3, 1\]"),
        (np.zeros((1, 0), np.float32), r"takes a step of \[B, 3\]"),
    ],
    ids=lambda value: str(value.shape) if isinstance(value, np.ndarray) else "",
)
def test_wrong_shapes_are_refused_and_leave_the_state(x, words):
    session = lstm().session()
    session.step(np.ones(3, np.float32))
    before = named(session.state)
    with pytest.raises(td.errors.ShapeError, match=words):
        session.step(x)
    with pytest.raises(td.errors.ShapeError):
        session.step(torch.from_numpy(x))
    assert_all_close(named(session.state), before)


@pytest.mark.parametrize(
    "x", [None, "three", object(), {}, [1, 2, "x"], np.array(["a", "b", "c"]), np.array([1j, 2, 3])]
)
def test_what_is_no_number_is_refused(x):
    session = lstm().session()
    before = named(session.state)
    with pytest.raises((TypeError, ValueError, td.errors.TreadleError)):
        session.step(x)
    assert_all_close(named(session.state), before)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_row_whose_size_is_that_of_the_batch(size):
    """[B] and [I] must not be mistaken for each other."""
    rnn = td.Recurrent(td.GRUCell(size, 2))
    session = rnn.session(batch_size=size)
    xs = torch.randn(size, size)
    assert_close(torch.from_numpy(session.step(xs.numpy()).copy()), reference(rnn, xs[:, None])[0][:, 0])
    if size > 1:
        with pytest.raises(td.errors.ShapeError):
            session.step(np.zeros(size, np.float32))


# What a call costs


@pytest.mark.usefixtures("either_way")
def test_a_step_allocates_nothing():
    session = lstm(H=32).session()
    x = np.ones(3, np.float32)
    for _ in range(100):
        session.step(x)
    # A step that allocates does so every time; other threads of the process allocate now and then.
    counts = [allocations(session, x) for _ in range(3)]
    assert min(blocks for blocks, _, _ in counts) < 10  # the counts themselves are numbers that live
    assert min(size for _, size, _ in counts) < 500
    assert min(peak for _, _, peak in counts) < 1000


def allocations(session, x):
    """Of 1000 steps: blocks and bytes that are left, and the most bytes meanwhile."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        session.step(x)
        blocks, (size, _) = sys.getallocatedblocks(), tracemalloc.get_traced_memory()
        for _ in range(1000):
            session.step(x)
        after, (size_after, peak) = sys.getallocatedblocks(), tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    return after - blocks, size_after - size, peak - size


@pytest.mark.parametrize("bare", [False, True])
def test_the_answer_is_one_object_with_as_many_references_as_there_are(bare):
    session = lstm().session()
    x = np.ones((3,) if bare else (1, 3), np.float32)
    y = session.step(x)
    before = sys.getrefcount(y), sys.getrefcount(None) if sys.version_info < (3, 12) else 0
    for _ in range(10_000):
        session.step(x)
    assert sys.getrefcount(y) == before[0]
    assert session.step(x) is y
    kept = [session.step(x) for _ in range(5)]
    assert sys.getrefcount(y) == before[0] + 5
    del kept
    assert sys.getrefcount(y) == before[0]


def test_none_keeps_its_references():
    """The way into machine code answers with None where it does not take the array."""
    session = lstm().session()
    wrong = np.ones(3)
    before = sys.getrefcount(None)
    for _ in range(1000):
        assert session._fast(wrong) is None
    assert abs(sys.getrefcount(None) - before) < 50


def test_sessions_are_freed():
    import weakref

    rnn = lstm()
    session = rnn.session()
    session.step(np.ones(3, np.float32))
    live = weakref.ref(session._live)
    del session
    gc.collect()
    assert live() is None


def test_many_sessions_of_one_network_share_its_machine_code(monkeypatch):
    rnn = lstm()
    rnn.session()

    def refuse(*_):
        raise AssertionError("compiled again")

    from treadle.engines.cpu.machine import compilation

    monkeypatch.setattr(compilation, "_object_code", refuse)
    monkeypatch.setattr(compilation.disk_cache, "read", lambda key: None)
    rnn.session().step(np.ones(3, np.float32))


def test_a_network_that_asks_for_another_engine_steps_by_it():
    assert lstm(engine="reference").session()._live is None
    assert lstm(engine="interpreter").session()._live is None
    assert lstm(engine="cpu").session()._live is not None
    rnn = build("conv-lstm", torch.float32, engine="cpu")
    with pytest.raises(td.errors.EngineError, match=r"engine 'cpu' cannot step ConvLSTMCell: .*convolution"):
        rnn.session()


def test_the_network_of_a_session_is_its_own():
    rnn = lstm()
    session = rnn.session()
    assert rnn.cell not in network._networks
    assert session._recurrent.cell is not rnn.cell
