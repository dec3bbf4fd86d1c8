"""A closed loop in an environment: for as long as somebody asks, whatever the environment does."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch

import treadle as td
from treadle.state import named_tensors

R, A = 3, 2


def a_loop(readings=None, actions=None) -> td.ClosedLoop:
    torch.manual_seed(3)
    readings, actions = readings or td.Discrete(R), actions or td.Discrete(A)
    loop = td.ClosedLoop(td.GRUCell(readings.n + actions.n, 6), readings, actions)
    with torch.no_grad():
        for parameter in loop.parameters():
            parameter.normal_(0, 2)
    return loop


class Counting:
    """Reads the number of steps and the last action, modulo R; fails at a step, if asked to."""

    def __init__(self, fails_at: int | None = None, last: int | None = None):
        self.fails_at, self.last = fails_at, last

    def reset(self):
        self.step = 0
        return 0

    def apply(self, action):
        if self.step == self.fails_at:
            raise OSError("the tape tore")
        self.step += 1
        return (self.step + action) % R, self.step == self.last


def test_a_run_is_what_the_sequence_gives():
    loop = a_loop()
    acted = list(itertools.islice(loop.session().run(Counting()), 50))
    readings = torch.tensor([[one.reading for one in acted]])
    assert loop(readings)[0][0].argmax(1).tolist() == [one.action for one in acted]
    assert {one.action for one in acted} == {0, 1}
    assert not any(one.done for one in acted)


def test_a_run_ends_with_its_environment_and_another_begins_anew():
    session = a_loop().session()
    first = list(session.run(Counting(last=7)))
    assert [one.done for one in first] == [False] * 6 + [True]
    assert list(session.run(Counting(last=7))) == first


def test_after_an_environment_that_raises_the_session_goes_on():
    session, whole = a_loop().session(), list(itertools.islice(a_loop().session().run(Counting()), 20))
    torn, seen = Counting(fails_at=5), []
    with pytest.raises(OSError, match="the tape tore"):
        seen.extend(session.run(torn))
    assert seen == whole[:5]
    torn.fails_at = None
    # The decision of step 5 is made and in the state; it is carried out now, and the run goes on from there.
    reading, _ = torn.apply(whole[5].action)
    assert list(itertools.islice(session.run(torn, reading), 10)) == whole[6:16]
    assert list(itertools.islice(session.run(Counting()), 20)) == whole


@pytest.mark.parametrize("reading", [R, -1, 1.5, "a", None, [0], np.int64(R)])
def test_a_reading_that_there_is_not_leaves_the_state(reading):
    session = a_loop().session()
    session.act(1)
    before = dict(named_tensors(session.state))
    with pytest.raises(td.errors.DataError, match="is not one of the 3"):
        session.act(reading)
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(session.state))
    assert session.act(np.int64(2)) in (0, 1)


def test_numbers_in_and_out():
    loop = a_loop(td.Continuous(2), td.Continuous(3))
    session = loop.session()
    xs = torch.randn(6, 2)
    kept = [session.act(x.tolist()) for x in xs]
    assert np.allclose(np.stack(kept), loop(xs[None])[0][0].detach().numpy(), atol=1e-5)
    before = dict(named_tensors(session.state))
    with pytest.raises(td.errors.DataError, match="finite"):
        session.act([0.0, np.nan])
    with pytest.raises(td.errors.ShapeError, match="2 numbers"):
        session.act([0.0, 1, 2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(session.state))


def test_rows_act_side_by_side():
    loop = a_loop()
    rows, alone = loop.session(batch_size=3), [loop.session() for _ in range(3)]
    for readings in np.random.default_rng(0).integers(R, size=(20, 3)):
        assert rows.act(readings).tolist() == [one.act(r) for one, r in zip(alone, readings, strict=True)]
    with pytest.raises(td.errors.DataError, match="reading 3 is not"):
        rows.act(np.array([0, 3, 1]))
    with pytest.raises(td.errors.ShapeError, match="3 whole numbers"):
        rows.act(np.array([0, 1]))
    with pytest.raises(td.errors.ShapeError, match="one row"):
        next(rows.run(Counting()))


def test_weights_that_are_no_numbers_are_said_to_be():
    loop = a_loop()
    with torch.no_grad():
        loop.cell.decision.bias.fill_(float("nan"))
    with pytest.raises(td.errors.ModelFileError, match="diverged"):
        loop.session().act(0)
    with pytest.raises(td.errors.ModelFileError, match="diverged"):
        loop.session(batch_size=2).act(np.array([0, 1]))


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
@pytest.mark.parametrize("spaces", [(td.Discrete(3), td.Discrete(2)), (td.Continuous(3), td.Continuous(2))])
def test_a_copy_acts_by_itself(way, spaces):
    session = a_loop(*spaces).session()
    reading = 2 if isinstance(spaces[0], td.Discrete) else np.ones(3)
    session.act(reading)
    before = session.state
    other = way(session)
    actions = [other.act(reading) for _ in range(3)]
    after = named_tensors(session.state)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(named_tensors(before), after, strict=True))
    assert [np.array_equal(action, session.act(reading)) for action in actions] == [True] * 3
