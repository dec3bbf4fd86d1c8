"""Zoneout: the right share is kept while training, the expectation in evaluation."""

import pytest
import torch

import treadle as td
from tests.registry import random_state
from tests.tolerances import assert_close


def step(cell, rows=400):
    x, state = torch.randn(rows, 3, dtype=torch.float64), random_state(td.Recurrent(cell), rows)
    plain = td.LSTMCell(3, 5, dtype=torch.float64)
    plain.load_state_dict(cell.state_dict())
    return state, cell(x, state), plain(x, state)[1]


@pytest.mark.parametrize(("keep_cell", "keep_hidden"), [(0.5, 0.05), (0.2, 0.7)])
def test_training_keeps_the_right_share_unit_by_unit(keep_cell, keep_hidden):
    cell = td.ZoneoutLSTMCell(3, 5, zoneout_cell=keep_cell, zoneout_hidden=keep_hidden, dtype=torch.float64)
    before, (y, after), lstm = step(cell)
    masks = []
    for field, share in (("c", keep_cell), ("h", keep_hidden)):
        old, new, kept = (getattr(state, field) for state in (before, lstm, after))
        was_kept = (kept - old).abs() < (kept - new).abs()
        assert_close(kept, torch.where(was_kept, old, new))
        deviation = (share * (1 - share) / was_kept.numel()) ** 0.5
        assert abs(was_kept.double().mean() - share) < 4 * deviation
        for axis in (0, 1):  # neither whole rows nor whole columns: each row and unit has its own draw
            assert (was_kept.any(axis) & ~was_kept.all(axis)).any()
        masks.append(was_kept)
    assert torch.equal(y, after.h)
    assert not torch.equal(*masks)


def test_evaluation_is_the_expectation_of_training():
    cell = td.ZoneoutLSTMCell(3, 5, zoneout_cell=0.3, zoneout_hidden=0.6, dtype=torch.float64).eval()
    before, (y, after), lstm = step(cell)
    assert_close(after.c, 0.3 * before.c + 0.7 * lstm.c)
    assert_close(after.h, 0.6 * before.h + 0.4 * lstm.h)
    assert torch.equal(y, after.h)


@pytest.mark.parametrize("training", [True, False])
def test_certain_probabilities(training):
    never = td.ZoneoutLSTMCell(3, 5, zoneout_cell=0, zoneout_hidden=0, dtype=torch.float64).train(training)
    _, (_, after), lstm = step(never)
    assert_close(after.h, lstm.h)
    assert_close(after.c, lstm.c)
    always = td.ZoneoutLSTMCell(3, 5, zoneout_cell=1, zoneout_hidden=1.0, dtype=torch.float64).train(training)
    before, (_, after), _ = step(always)
    assert_close(after.h, before.h)
    assert_close(after.c, before.c)


def test_each_step_draws_its_own_mask():
    cell = td.ZoneoutLSTMCell(3, 50, zoneout_cell=0.5, zoneout_hidden=0.0)
    _, _, every = td.Recurrent(cell)(torch.randn(1, 4, 3).mul(10), return_states=True)
    stood_still = every.c[0].diff(dim=0).abs() < 1e-7
    assert stood_still.any(1).all()
    assert not (stood_still[0] == stood_still[1]).all()


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", ["zoneout_cell", "zoneout_hidden"])
def test_what_is_no_probability(name, probability):
    with pytest.raises(ValueError, match=f"{name} is a probability, from 0 to 1"):
        td.ZoneoutLSTMCell(3, 5, **{name: probability})
