"""Nests in two turns: what waits comes after what it waits for, and nothing that takes long is computed twice."""

import pytest
import torch

import treadle as td
from tests.registry import SUBJECTS, build, sequence
from treadle.compiler.program import EXPENSIVE
from treadle.compiler.walk import postorder
from treadle.engines import network
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.passes.indices import operands_at, root_index
from treadle.engines.passes.loop_nests import Nest
from treadle.engines.passes.schedule import schedule
from treadle.engines.passes.support import why_not
from treadle.engines.passes.turns import turns


def schedules(rnn, xs):
    """Of every kernel of a network: forwards, with what a derivative keeps, and backwards."""
    net = network.network_of(rnn.cell, xs[:, 0], rnn.initial_state(len(xs)))
    for section in net.plan(False).sections:
        if section.kind in ("loop", "parallel") and not why_not(section):
            compiled = CompiledSection(section)
            derivative = compiled.derivative((True,) * len(section.inputs))
            for one in (compiled.plain, derivative.forward, derivative.backward):
                yield schedule(one.kernel)


def nests(plan):
    for phase in plan.grouped:
        yield from (phase,) if isinstance(phase, Nest) else phase if isinstance(phase, tuple) else ()


def ops(turn, nest, plan):
    """What a turn computes that takes long."""
    readable = plan.kernel.memory | plan.stored

    def made_of(place):
        value, index = place
        return [] if plan.is_loaded(value, nest) else operands_at(value, index, nest.domain, readable)

    known = {one.place for one in turn.stored}
    computed = postorder([root_index(root, nest) for root in turn.roots], made_of, known)
    return [place for place in computed if place[0].op in EXPENSIVE and not plan.is_loaded(place[0], nest)]


def names(places):
    return sorted(value.op for value, _ in places)


def test_an_lstm_has_its_last_tanh_in_a_turn_of_its_own():
    every = schedules(td.Recurrent(td.LSTMCell(3, 5)), torch.zeros(2, 1, 3))
    plain, keeping, _ = (plan for plan in every if plan.kernel.carries)
    for plan, first, then in (
        (plain, ["sigmoid"] * 2 + ["tanh"], ["sigmoid", "tanh"]),
        (keeping, ["sigmoid"] * 3 + ["tanh"], ["tanh"]),
    ):
        (nest,) = nests(plan)
        assert [names(ops(turn, nest, plan)) for turn in turns(nest, plan)] == [first, then]


def test_where_nothing_waits_there_is_one_turn():
    for plan in schedules(td.Recurrent(td.RNNCell(3, 5)), torch.zeros(2, 1, 3)):
        assert all(len(turns(nest, plan)) == 1 for nest in nests(plan))


@pytest.mark.share(8)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_root_has_its_turn_and_nothing_that_takes_long_has_two(subject):
    rnn = build(subject).float()
    for plan in schedules(rnn, sequence(rnn, dtype=torch.float32)):
        for nest in nests(plan):
            found = turns(nest, plan)
            assert sorted(id(root) for turn in found for root in turn.roots) == sorted(map(id, nest.roots))
            if len(found) == 2:
                before, after = (set(ops(turn, nest, plan)) for turn in found)
                assert before
                assert after
                assert not before & after
                assert {one.place for one in found[1].stored} <= {root_index(root, nest) for root in found[0].roots}
