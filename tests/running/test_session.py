"""Live: a session is the same function as the sequence, with the state kept inside."""

import concurrent.futures
import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.state import map_state, named_tensors

pytestmark = pytest.mark.usefixtures("poisoned_memory")
every_subject = pytest.mark.parametrize("subject", SUBJECTS)


def named(state):
    return dict(named_tensors(state))


@pytest.mark.share(10)
@every_subject
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("batch_first", [True, False])
def test_steps_one_by_one_and_in_blocks_equal_the_sequence(subject, B, batch_first):
    rnn = build(subject, batch_first=batch_first, learn_initial_state=True)
    xs = sequence(rnn, B, 6)
    in_order = xs if batch_first else xs.transpose(0, 1)
    ys, end = rnn(in_order)
    one_by_one, blocks, mixed = (rnn.session(batch_size=B) for _ in range(3))
    stepped = torch.stack([one_by_one.step(x).clone() for x in xs.unbind(1)], 1 if batch_first else 0)
    assert_close(stepped, ys)
    time_axis = 1 if batch_first else 0
    assert_close(torch.cat([blocks.steps(part) for part in in_order.split([1, 0, 5], time_axis)], time_axis), ys)
    mixed.steps(in_order.narrow(time_axis, 0, 5))
    assert_close(mixed.step(xs[:, 5]), ys.select(time_axis, 5))
    for session in (one_by_one, blocks, mixed):
        assert_all_close(named(session.state), named(end))


@pytest.mark.share(10)
@every_subject
def test_load_and_state_go_round(subject):
    rnn = build(subject)
    xs, state = sequence(rnn, 2), random_state(rnn, 2)
    session = rnn.session(batch_size=2)
    session.load(state)
    assert_all_close(named(session.state), named(state))
    first = session.steps(xs)
    assert_close(first, rnn(xs, state)[0])
    session.load(state)
    assert torch.equal(session.steps(xs), first)
    session.load(None)
    assert_close(session.steps(xs), rnn(xs)[0])


@pytest.mark.share(10)
@every_subject
@pytest.mark.parametrize("rows", [None, [0, 2], torch.tensor([True, False, True]), -1, slice(0, 2), []])
def test_reset_starts_rows_anew_and_leaves_the_others(subject, rows):
    rnn = build(subject, learn_initial_state=True)
    session, state = rnn.session(batch_size=3), random_state(rnn, 3)
    session.load(state)
    session.reset(rows)
    anew = set(range(3)) if rows is None else set(td.select(torch.arange(3), rows).tolist())
    for (name, now), (_, before), (_, initial) in zip(
        *map(named_tensors, (session.state, state, rnn.initial_state(3))), strict=True
    ):
        for row in range(3):
            assert torch.equal(now[row], (initial if row in anew else before)[row]), (name, row)


def test_it_answers_in_kind():
    rnn = build("lstm", torch.float32)
    reference = rnn(torch.ones(1, 2, 3))[0].detach()
    for x in (np.ones(3, np.float32), np.ones((1, 3), np.float32), torch.ones(3), torch.ones(1, 3)):
        session = rnn.session()
        for t in range(2):
            y = session.step(x)
            assert isinstance(y, type(x))
            assert y.shape == (*x.shape[:-1], 5)
            assert_close(torch.as_tensor(y).reshape(5), reference[0, t])
    for xs in (np.ones((2, 3), np.float32), np.ones((1, 2, 3), np.float32), torch.ones(2, 3), torch.ones(1, 2, 3)):
        ys = rnn.session().steps(xs)
        assert isinstance(ys, type(xs))
        assert ys.shape == (*xs.shape[:-1], 5)
        assert_close(torch.as_tensor(ys).reshape(1, 2, 5), reference)
    time_first = copy.deepcopy(rnn)
    time_first.batch_first = False
    for xs in (np.ones((2, 3), np.float32), np.ones((2, 1, 3), np.float32)):
        ys = time_first.session().steps(xs)
        assert ys.shape == (*xs.shape[:-1], 5)
        assert_close(torch.as_tensor(ys).reshape(1, 2, 5), reference)


@pytest.mark.parametrize("x", [3, np.int64(3), np.array([3]), torch.tensor(3), torch.tensor([3])])
def test_tokens(x):
    rnn = build("graph-tokens")
    y = rnn.session().step(x)
    assert isinstance(y, Tensor if isinstance(x, Tensor) else np.ndarray)
    assert y.shape == (*np.shape(x), 7)
    assert_close(torch.as_tensor(y).reshape(1, 7), rnn.step(torch.tensor([3]))[0])


def test_a_cell_without_sizes():
    rnn = build("own-cell")
    x = sequence(rnn, 1, 1)[0, 0]
    assert rnn.session().step(x).shape == (2,)
    assert rnn.session().step(x[None]).shape == (1, 2)


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray], ids=["tensor", "numpy"])
def test_the_answer_is_one_buffer_for_all_steps(kind):
    session = build("gru", torch.float32).session()
    first = session.step(kind(np.ones(3, np.float32)))
    kept = copy.deepcopy(first)
    second = session.step(kind(np.ones(3, np.float32)))
    address = (lambda y: y.data_ptr()) if isinstance(first, Tensor) else (lambda y: y.ctypes.data)
    assert address(first) == address(second)
    assert (first == second).all()
    assert not (kept == second).any()


@pytest.mark.share(10)
@every_subject
def test_the_answer_and_the_state_do_not_share_memory(subject):
    rnn = build(subject)
    xs = sequence(rnn, 1, 3)
    session, (ys, end) = rnn.session(), rnn(xs)
    for t in range(3):
        answer = session.step(xs[:, t])
        assert_close(answer, ys[:, t])
        answer.zero_()
    block = session.steps(xs)
    block.zero_()
    other = rnn.session()
    other.load(end)
    other.steps(xs)
    assert_all_close(named(session.state), named(other.state))


@pytest.mark.share(4)
@pytest.mark.parametrize("subject", ["graph-delays", "graph-tokens", "graph-images", "stack-lateral"])
@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray], ids=["tensor", "numpy"])
def test_callers_may_fill_their_input_again(subject, kind):
    rnn = build(subject)
    xs = sequence(rnn, 1, 6)
    ys = rnn(xs)[0].detach()
    session = rnn.session()
    buffer = xs[:, 0].clone()
    block = xs[:, :3].clone()
    for t in range(3):
        buffer.copy_(xs[:, t])
        assert_close(torch.as_tensor(session.step(kind(buffer))), ys[:, t])
    session.reset()
    for t in (0, 3):
        block.copy_(xs[:, t : t + 3])
        assert_close(torch.as_tensor(session.steps(kind(block))), ys[:, t : t + 3])


@pytest.mark.share(10)
@every_subject
def test_the_state_is_a_copy(subject):
    rnn = build(subject)
    xs, given = sequence(rnn, 1, 3), random_state(rnn, 1)
    session, reference = rnn.session(), rnn.session()
    session.load(given)
    reference.load(map_state(Tensor.clone, given))
    for state in (given, session.state):
        for _, tensor in named_tensors(state):
            tensor.zero_()
    kept = session.state
    before = map_state(Tensor.clone, kept)
    assert_close(session.steps(xs), reference.steps(xs))
    assert_all_close(named(kept), named(before))


def test_strange_memory():
    """Read-only arrays and arrays that run backwards are fine, tensors that want a gradient too."""
    rnn = build("gru")
    x = np.arange(3.0)
    reference = rnn.session().step(x)
    frozen = x.copy()
    frozen.setflags(write=False)
    for same in (frozen, x[::-1].copy()[::-1], np.repeat(x, 2)[::2], list(x)):
        assert_close(torch.as_tensor(rnn.session().step(same)), torch.as_tensor(reference))
    y = rnn.session().step(torch.as_tensor(x).requires_grad_())
    assert not y.requires_grad


def test_evaluation_mode_and_no_gradient_in_the_copy_only():
    rnn = build("zoneout-lstm").train()
    xs = sequence(rnn, 1)
    session = rnn.session()
    assert torch.equal(session.steps(xs), rnn.session().steps(xs))
    assert rnn.training
    assert all(parameter.requires_grad for parameter in rnn.parameters())
    assert not session.steps(xs).requires_grad
    assert not any(tensor.requires_grad for tensor in named(session.state).values())


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_later_training_is_seen_after_refresh_and_the_state_goes_on(weights):
    rnn = build("stack-feedback", torch.float32, learn_initial_state=True)
    xs = sequence(rnn, 1, dtype=torch.float32)
    session, untouched = rnn.session(weights=weights), rnn.session(weights=weights)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.mul_(1.5)
    assert torch.equal(session.steps(xs), untouched.steps(xs))
    state = session.state
    session.refresh()
    assert_all_close(named(session.state), named(state))
    anew = rnn.session(weights=weights)
    anew.load(state)
    assert torch.equal(session.steps(xs), anew.steps(xs))
    assert not torch.equal(session.steps(xs), untouched.steps(xs))
    session.reset()
    assert_all_close(named(session.state), named(rnn.initial_state(1)))


@pytest.mark.share(6)
@every_subject
def test_bfloat16_weights_stay_close_and_the_network_keeps_its_own(subject):
    rnn = build(subject, torch.float32)
    before = copy.deepcopy(rnn.state_dict())
    xs = sequence(rnn, 2, dtype=torch.float32)
    session = rnn.session(batch_size=2, weights="bfloat16")
    ys = session.steps(xs)
    assert ys.dtype == torch.float32
    assert_close(ys, rnn(xs)[0], torch.bfloat16)
    assert all(torch.equal(value, before[name]) for name, value in rnn.state_dict().items())


def test_bfloat16_rounds_matrices_and_leaves_biases():
    rnn = build("gru", torch.float32)
    rounded = copy.deepcopy(rnn)
    with torch.no_grad():
        for weight in (rounded.cell.weight_ih, rounded.cell.weight_hh):
            weight.copy_(weight.bfloat16())
    x = torch.ones(3)
    assert torch.equal(rnn.session(weights="bfloat16").step(x), rounded.session().step(x))
    assert not torch.equal(rnn.session(weights="bfloat16").step(x), rnn.session().step(x))


def test_refused_sessions():
    rnn = td.Recurrent(td.GRUCell(3, 5))
    for batch_size in (0, -1, 1.5, None):
        with pytest.raises(td.errors.ShapeError, match="one or more rows, but batch_size="):
            rnn.session(batch_size)
    with pytest.raises(ValueError, match="'float32', 'bfloat16', 'int8', but 'int4'"):
        rnn.session(weights="int4")


def test_refused_inputs():
    rnn = td.Recurrent(td.GRUCell(3, 5))
    single, several = rnn.session(), rnn.session(batch_size=4)

    def refused(function, x, words):
        with pytest.raises(td.errors.ShapeError, match=words):
            function(x)

    refused(single.step, np.zeros(4, np.float32), r"takes a step of \[B, 3\].*\[1, 4\]")
    refused(
        single.step,
        torch.zeros(2, 3),
        r"has 1 rows, but x is \[2, 3\]: its axis 0 must be 1; rnn\.session\(batch_size=",
    )
    refused(single.steps, torch.zeros(3), r"\[3\]")
    refused(single.step, torch.zeros(1, 2, 3), r"takes a step of \[B, 3\].*\[1, 2, 3\]")
    refused(several.step, torch.zeros(3), r"has 4 rows, but x is \[3\]")
    refused(several.steps, torch.zeros(3, 4, 3), r"has 4 rows, but x is \[3, 4, 3\]: its axis 0 must be 4")
    time_first = td.Recurrent(td.GRUCell(3, 5), batch_first=False).session(batch_size=4)
    refused(time_first.steps, torch.zeros(4, 2, 3), r"its axis 1 must be 4")


def test_refused_states_and_rows_leave_the_session_as_it_was():
    rnn = td.Recurrent(td.LSTMCell(3, 5))
    session = rnn.session(batch_size=2)
    session.steps(torch.randn(2, 4, 3))
    before = named(session.state)
    wrong = td.Recurrent(td.LSTMCell(3, 6)).initial_state(2)
    for state, words in (
        (wrong, r"state h is \[2, 6\], but this session has \[2, 5\].*another network"),
        (rnn.initial_state(3), "has 2 rows, but state h has 3"),
        (map_state(Tensor.double, rnn.initial_state(2)), "float64"),
        ("h", "holds str"),
        ({"h": torch.zeros(2, 5)}, r"keeps \(h, c\)"),
    ):
        with pytest.raises(td.errors.StateError, match=words):
            session.load(state)
    for rows in ([2], [True], 0.5):
        with pytest.raises(td.errors.StateError, match="row"):
            session.reset(rows)
    assert_all_close(named(session.state), before)


def test_a_session_with_a_network_that_has_counters():
    """Buffers are part of what a session copies and refreshes."""
    g = td.Graph(3)
    rnn = td.Recurrent(g.outputs(g.add("normed", nn.BatchNorm1d(3), reads=g.x)))
    session = rnn.session()
    xs = torch.randn(16, 2, 3)
    before = session.step(torch.ones(3)).clone()
    rnn(xs)
    assert torch.equal(session.step(torch.ones(3)), before)
    session.refresh()
    assert not torch.equal(session.step(torch.ones(3)), before)


def test_takes_floats_of_any_precision():
    session = td.Recurrent(td.GRUCell(3, 4)).session()
    x = np.linspace(-1, 1, 3)
    assert x.dtype == np.float64
    y = session.step(x).copy()
    session.reset()
    assert np.array_equal(session.step(x.astype(np.float32)), y)
    session.reset()
    assert np.array_equal(session.steps(x[None])[0], y)


# Copies


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.share(5)
@every_subject
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_a_copy_goes_on_by_itself_with_the_same_numbers(subject, way, weights):
    dtype = torch.float32 if weights == "int8" else torch.float64
    rnn = build(subject, dtype, learn_initial_state=True)
    xs = sequence(rnn, 2, 6, dtype=dtype)
    session = rnn.session(batch_size=2, weights=weights)
    session.steps(xs[:, :3])
    before = session.state
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.mul_(1.5)  # what training does meanwhile is fetched by refresh alone
    other = way(session)
    went_on = other.step(xs[:, 3]).clone(), other.steps(xs[:, 4:])
    assert_all_close(named(session.state), named(before))
    assert torch.equal(session.step(xs[:, 3]), went_on[0])
    assert torch.equal(session.steps(xs[:, 4:]), went_on[1])
    for (_, a), (_, b) in zip(named_tensors(session.state), named_tensors(other.state), strict=True):
        assert torch.equal(a, b)
    other.refresh()
    session.refresh()
    assert torch.equal(session.steps(xs), other.steps(xs))


def test_a_deep_copy_of_an_agent_refreshes_from_the_copy_of_its_network():
    agent = {"network": td.Recurrent(td.LSTMCell(3, 4))}
    agent["session"] = agent["network"].session()
    other = copy.deepcopy(agent)
    with torch.no_grad():
        for parameter in other["network"].parameters():
            parameter.zero_()
    for one in (agent, other):
        one["session"].refresh()
    x = torch.ones(3)
    assert other["session"].step(x).abs().sum() == 0
    assert agent["session"].step(x).abs().sum() > 0


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled])
def test_sessions_of_drop_ins_and_of_computed_weights_are_copied(way):
    plain = td.LSTM(3, 4, batch_first=True, engine="reference")
    normed = nn.utils.parametrizations.weight_norm(td.LSTM(3, 4, batch_first=True, engine="reference"), "weight_hh_l0")
    for rnn in (plain, normed) if way is not pickled else (plain,):  # PyTorch pickles no parametrised module
        session, x = rnn.session(), torch.ones(3)
        session.step(x)
        assert torch.equal(way(session).step(x), session.step(x))


def _steps_in_another_process(session, xs):
    return session.steps(xs)


@pytest.mark.slow
def test_a_session_is_sent_to_a_process_that_is_spawned():
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.LSTMCell(5, 5)]))
    session, xs = rnn.session(), np.ones((4, 3), np.float32)
    session.step(xs[0])
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(_steps_in_another_process, session, xs).result()
    assert np.array_equal(there, session.steps(xs))
