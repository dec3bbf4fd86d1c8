"""Noise on the state and gaps in it, while training and not otherwise."""

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


def test_a_share_of_the_state_is_lost_and_the_rest_is_as_it_was():
    inner = td.GRUCell(3, 4)
    cell, x, seen = td.NoisyStateCell(inner, 0, dropout=0.25), torch.randn(5000, 3), []
    inner.register_forward_pre_hook(lambda _, given: seen.append(given[1].h))
    cell(x, td.HiddenState(torch.full((5000, 4), 0.5)))
    assert set(seen[0].unique().tolist()) == {0.0, 0.5}
    assert abs((seen[0] == 0).float().mean() - 0.25) < 0.02
    cell.eval()(x, td.HiddenState(torch.full((5000, 4), 0.5)))
    assert (seen[1] == 0.5).all()


@pytest.mark.parametrize("dropout", [-0.1, 1, float("nan"), "much"])
def test_a_share_is_below_one(dropout):
    with pytest.raises(ValueError, match="dropout is a fraction"):
        td.NoisyStateCell(td.GRUCell(3, 4), 0.1, dropout)


@pytest.mark.parametrize("deviation", [-0.1, float("nan"), float("inf"), "much"])
def test_a_deviation_is_a_positive_number(deviation):
    with pytest.raises(ValueError, match="deviation is 0 or a positive number"):
        td.NoisyStateCell(td.GRUCell(3, 4), deviation)


@pytest.mark.share(2)
@pytest.mark.parametrize("engine", ["cpu", "interpreter"])
@pytest.mark.parametrize("wiring", ["relay", "stack"])
def test_noise_that_nobody_reads_is_drawn_all_the_same(wiring, engine, caplog):
    """The upper layers of a relay read the state below in place of their own: the noise on that one is drawn for
    nothing, and all that is drawn after it depends on that."""
    sizes = [(3, 4), (3, 4)] if wiring == "relay" else [(3, 4), (4, 4)]
    cell = td.NoisyStateCell(td.Stack([td.GRUCell(*size) for size in sizes], wiring), 0.3, dropout=0.2).double()
    xs, found = torch.randn(2, 5, 3, dtype=torch.float64), {}
    for one in (engine, "reference"):
        torch.manual_seed(1)
        ys, state = td.Recurrent(cell, engine=one)(xs, lengths=[5, 3])
        found[one] = [ys, *(t for layer in state.values() for t in layer), torch.rand(1)]
    for mine, right in zip(*found.values(), strict=True):
        assert torch.allclose(mine, right, atol=1e-12)
    assert not caplog.records
