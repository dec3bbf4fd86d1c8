"""Noise on the state, while training and not otherwise."""

import pytest
import torch

import treadle as td


def test_the_state_that_a_step_starts_from_is_disturbed_and_nothing_else():
    inner = td.RNNCell(3, 4)
    cell, x = td.NoisyStateCell(inner, 0.5), torch.randn(2000, 3)
    before = torch.full((2000, 4), 0.25)
    torch.manual_seed(0)
    _, after = cell(x, td.HiddenState(before))
    torch.manual_seed(0)
    noise = torch.randn_like(before)
    assert torch.allclose(after.h, inner(x, td.HiddenState(before + 0.5 * noise))[1].h)
    assert torch.equal(cell.eval()(x, td.HiddenState(before))[0], inner(x, td.HiddenState(before))[0])


def test_each_step_and_row_has_noise_of_its_own():
    rnn = td.Recurrent(td.NoisyStateCell(td.GRUCell(3, 4), 0.3), engine="cpu")
    ys, _ = rnn(torch.zeros(2, 40, 3))
    assert not torch.allclose(ys[0], ys[1])
    assert len(ys[0, :, 0].unique()) == 40
    still, _ = rnn.eval()(torch.zeros(2, 40, 3))
    assert torch.allclose(still[0], still[1])


@pytest.mark.parametrize("deviation", [-0.1, float("nan"), float("inf"), "much"])
def test_a_deviation_is_a_positive_number(deviation):
    with pytest.raises(ValueError, match="deviation is 0 or a positive number"):
        td.NoisyStateCell(td.GRUCell(3, 4), deviation)
