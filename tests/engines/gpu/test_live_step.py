"""Sessions on a GPU: the same function as the sequence, whoever runs that."""

import copy
import logging

import numpy as np
import pytest
import torch

import treadle as td
from tests.engines.gpu.conftest import TILINGS
from tests.registry import LEFT_OUT, SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle import engines
from treadle.engines import ENGINES
from treadle.engines.gpu.plan import launches, live_step
from treadle.errors import EngineError
from treadle.state import named_tensors

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy's, in lanes that nobody reads
]

TAKEN = [subject for subject in SUBJECTS if subject not in LEFT_OUT and subject != "graph-tokens"]
"""What is one kernel; tokens that are compared with each other are whole numbers, which none reads."""
SOME = "lstm gru layer-norm-lstm stack-feedback graph-delays".split()


def on_a_gpu(subject, dtype=torch.float64):
    """A network whose sessions are on the pretended GPU, and the same in Python."""
    rnn = build(subject, dtype, learn_initial_state=True)
    other = copy.copy(rnn)
    rnn.engine, other.engine = "gpu", "reference"
    return rnn, other


def goes_live(subject, B=3):
    rnn, other = on_a_gpu(subject)
    xs, state = sequence(rnn, B, 5), random_state(rnn, B)
    ys, end = other.eval()(xs, state)
    one_by_one, blocks = rnn.session(batch_size=B), rnn.session(batch_size=B)
    for session in (one_by_one, blocks):
        session.load(state)
    assert_close(torch.stack([one_by_one.step(x).clone() for x in xs.unbind(1)], 1), ys)
    assert_close(torch.cat([blocks.steps(part) for part in xs.split([1, 0, 4], 1)], 1), ys)
    for session in (one_by_one, blocks):
        assert isinstance(session._live, live_step.LiveStep)
        assert_all_close(dict(named_tensors(session.state)), dict(named_tensors(end)))


@pytest.mark.share(8)
@pytest.mark.parametrize("subject", TAKEN)
def test_steps_one_by_one_and_in_blocks_equal_the_sequence(subject):
    goes_live(subject)


@pytest.mark.share(2)
@pytest.mark.parametrize("subject", SOME)
@pytest.mark.parametrize("tiling", [name for name in TILINGS if name != "as chosen"])
def test_however_kernels_are_cut(subject, tiling, cut):
    cut(tiling)
    goes_live(subject)


def test_reset_starts_rows_again_and_leaves_the_others():
    rnn, _ = on_a_gpu("lstm")
    session, state = rnn.session(batch_size=3), random_state(rnn, 3)
    session.load(state)
    session.reset([0, 2])
    initial = dict(named_tensors(rnn.initial_state(3)))
    for name, now in named_tensors(session.state):
        before = dict(named_tensors(state))[name]
        assert torch.equal(now, torch.stack([initial[name][0], before[1], initial[name][2]]))


def test_it_answers_in_kind_and_copies_go_their_own_way():
    rnn, other = on_a_gpu("gru", torch.float32)
    session = rnn.session()
    xs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    first = [session.step(x).copy() for x in xs[:2]]
    twin = copy.deepcopy(session)
    rest = [[one.step(x).copy() for x in xs[2:]] for one in (twin, session)]
    np.testing.assert_array_equal(*rest)
    ys, _ = other(torch.from_numpy(xs)[None])
    np.testing.assert_allclose(np.stack([*first, *rest[0]]), ys[0].detach().numpy(), atol=1e-5)


def test_weights_are_those_of_the_moment():
    rnn, other = on_a_gpu("gru")
    session, x = rnn.session(), torch.randn(1, 3, dtype=torch.float64)
    before = session.step(x).clone()
    with torch.no_grad():
        rnn.cell.weight_hh.mul_(2)
        rnn.cell.weight_ih.mul_(2)
    session.reset()
    assert torch.equal(session.step(x), before)
    session.refresh()
    session.reset()
    assert_close(session.step(x), other(x[:, None])[0][:, 0])


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_weights_in_fewer_bits(weights):
    rnn, other = on_a_gpu("lstm", torch.float32)
    xs = sequence(rnn, 1, 4, torch.float32)
    session, python = (one.session(weights=weights) for one in (rnn, other))
    assert_close(session.steps(xs), python.steps(xs), torch.bfloat16)
    kept = {one.numbers: one.reason for one in session.snapshot.programs()[0].matrices}
    assert kept == ({"bfloat16": ""} if weights == "bfloat16" else {"float32": "the GPU engine multiplies no int8"})


def test_the_second_step_is_captured_and_those_after_it_replayed(monkeypatch):
    replayed = []
    monkeypatch.setattr(live_step, "captured", lambda work, device: lambda: replayed.append(device) or work())
    rnn, other = on_a_gpu("gru")
    with td.engines.verification.switched("never"):
        session, xs = rnn.session(), sequence(rnn, 1, 4)
        ys = torch.stack([session.step(x).clone() for x in xs.unbind(1)], 1)
    assert_close(ys, other(xs)[0])
    assert len(replayed) == 3


def test_kernels_are_made_once_for_sessions_of_one_network(monkeypatch):
    made, write = [], launches.write
    monkeypatch.setattr(launches, "write", lambda *given: made.append(given) or write(*given))
    rnn = td.Recurrent(td.GRUCell(3, 9), engine="gpu").double()  # no other test has it
    for rows in (1, 2, 20):
        rnn.session(batch_size=rows).step(torch.zeros(rows, 3, dtype=torch.float64))
    assert len(made) == 1


def test_what_has_no_kernel_steps_in_python(monkeypatch, caplog):
    monkeypatch.setattr(ENGINES["cpu"], "automatic", False)
    rnn = build("conv-lstm")
    engines.say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        rnn.session().step(sequence(rnn, 1, 1)[:, 0])
    assert "steps in Python, much slower than compiled" in caplog.text
    assert "has no machine code here" in caplog.text
    assert "x is on" not in caplog.text
    rnn.engine = "gpu"
    with pytest.raises(EngineError, match=r"engine 'gpu' cannot step ConvLSTMCell: .*conv_lstm\.py"):
        rnn.session()


def test_explaining_a_network_says_that_its_sessions_are_compiled():
    rnn, _ = on_a_gpu("gru")
    assert not td.explain(rnn).session
    other = td.Recurrent(td.ConvLSTMCell(2, 2, image_size=(3, 5)))
    assert not td.explain(other).session.startswith("a session steps")
