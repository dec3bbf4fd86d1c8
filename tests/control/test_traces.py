"""What is learned from: traces, and where one's own mistakes lead."""

import itertools

import numpy as np
import pytest
import torch

import treadle as td
from treadle.control import Trace, dagger, record
from treadle.training import parameter_groups, trace_batches, train


class Ring:
    """Six places, each with a light that the readings tell; an action goes one or two places on. Begins anywhere."""

    def __init__(self, seed: int = 0):
        self.random = np.random.default_rng(seed)

    def reset(self):
        self.place = int(self.random.integers(6))
        return self.place % 3

    def apply(self, action):
        self.place = (self.place + 1 + action) % 6
        return self.place % 3, False


class Alternating:
    """Goes one place on, or two if it has read a 0 an odd number of times: that it has to remember."""

    def reset(self):
        self.odd = False

    def act(self, reading):
        self.odd ^= reading == 0
        return int(self.odd)


class Silent(Alternating):
    def act(self, reading):
        return None if reading == 2 else super().act(reading)


def test_a_demonstration_is_right_by_definition():
    trace = record(Alternating(), Ring(), 20)
    assert len(trace.readings) == 20
    assert (trace.actions == trace.targets).all()
    ring = Ring()
    assert ring.reset() == trace.readings[0]
    assert [ring.apply(action)[0] for action in trace.actions[:-1]] == trace.readings[1:].tolist()


def test_an_expert_hears_what_another_does_and_is_not_obeyed():
    class Stubborn:
        def reset(self): ...

        def act(self, reading):
            return 1

    trace = record(Stubborn(), Ring(), 30, expert=Alternating())
    assert (trace.actions == 1).all()
    expert = Alternating()
    expert.reset()
    assert [expert.act(reading) for reading in trace.readings] == trace.targets.tolist()


def test_a_trace_ends_where_there_is_nothing_more_to_say():
    trace = record(Silent(), Ring(3), 100)
    assert 0 < len(trace.readings) < 100
    assert 2 not in trace.readings
    heard = record(Alternating(), Ring(3), 100, expert=Silent())
    assert 2 not in heard.readings
    assert record(Silent(), Ring(), 0).readings.shape == (0,)


def loop_for_the_ring() -> td.ClosedLoop:
    torch.manual_seed(0)
    return td.ClosedLoop(td.GRUCell(3 + 2, 12), td.Discrete(3), td.Discrete(2))


def learning(loop: td.ClosedLoop, steps: int):
    def learn(traces):
        follower = loop.follower()
        optimiser = torch.optim.AdamW(parameter_groups(follower))
        batches = trace_batches(loop, traces, rows=16)
        for _ in train(follower, batches, optimiser, lambda step: step / steps, learning_rate=0.02):
            pass

    return learn


@pytest.mark.slow
def test_what_is_learned_from_traces_is_done_alone():
    loop = loop_for_the_ring()
    learning(loop, 200)([record(Alternating(), Ring(seed), 30) for seed in range(32)])
    own = record(loop.session(), Ring(99), 300, expert=Alternating())
    assert (own.actions == own.targets).all()
    assert set(own.targets) == {0, 1}


def test_rounds_learn_from_ones_own_mistakes():
    loop = loop_for_the_ring()
    sizes = []

    def learn(traces):
        sizes.append(len(traces))
        learning(loop, 60)(traces)

    rounds = list(dagger(loop, Alternating(), Ring(), learn, rounds=4, traces=16, steps=30))
    assert sizes == [16, 32, 48, 64] == [one.traces for one in rounds]
    assert all(one.decisions == 16 * 30 for one in rounds)
    assert rounds[-1].mistakes == 0 < rounds[0].mistakes


def test_batches_hold_each_trace_once_an_epoch():
    loop = loop_for_the_ring()
    traces = [record(Alternating(), Ring(seed), 5 + seed) for seed in range(5)]
    batches = list(itertools.islice(trace_batches(loop, [*traces, Trace(*[np.zeros(0, int)] * 3)], rows=2), 3))
    assert sorted(int(n) for batch in batches for n in (batch.x.abs().sum((1, 2)) / 2)) == [5, 6, 7, 8, 9]
    first = next(trace_batches(loop, traces[:1], rows=2))
    assert torch.equal(first.x[0, :, :3].argmax(1), torch.as_tensor(traces[0].readings))
    assert torch.equal(first.x[0, :, 3:].argmax(1), torch.as_tensor(traces[0].actions))


def test_actions_outside_the_alphabet_are_refused():
    loop = loop_for_the_ring()
    good = record(Alternating(), Ring(), 5)
    bad = good._replace(targets=np.array([0, 1, 2, 0, 1]))
    with pytest.raises(td.errors.DataError, match=r"trace 1: target 2 at \[2\] is not one of the 2"):
        trace_batches(loop, [good, bad], rows=2)
    with pytest.raises(td.errors.DataError, match="no traces"):
        trace_batches(loop, [], rows=2)
