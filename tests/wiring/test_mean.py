"""The mean over time as a cell: it is NumPy's, and what goes back from it reaches every step alike."""

import numpy as np
import pytest
import torch

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import ShapeError


def test_it_gives_the_mean_of_all_steps_so_far_and_goes_on_from_a_state():
    xs = torch.randn(3, 7, 4, dtype=torch.float64)
    rnn = td.Recurrent(td.MeanCell(4)).double()
    ys, state = rnn(xs)
    means = np.cumsum(xs.numpy(), 1) / np.arange(1, 8)[:, None]
    assert_close(ys, torch.as_tensor(means))
    assert_close(state.mean, xs.mean(1))
    more, _ = rnn(xs[:, :2], state)
    assert_close(more[:, -1], torch.cat([xs, xs[:, :2]], 1).mean(1))


def test_steps_behind_the_end_and_holes_do_not_count_and_a_reset_begins_again():
    xs, rnn = torch.randn(2, 6, 3), td.Recurrent(td.MeanCell(3))
    _, state = rnn(xs, lengths=[6, 2])
    assert_close(state.mean, torch.stack([xs[0].mean(0), xs[1, :2].mean(0)]))
    resets = torch.zeros(2, 6, dtype=torch.bool)
    resets[0, 4] = True
    _, state = rnn(xs, resets=resets)
    assert_close(state.mean, torch.stack([xs[0, 4:].mean(0), xs[1].mean(0)]))
    assert state.n.flatten().tolist() == [2, 6]


def test_every_step_gets_the_same_share_of_the_gradient():
    xs = torch.randn(1, 50, 2, requires_grad=True)
    ys, _ = td.Recurrent(td.MeanCell(2))(xs)
    ys[:, -1].sum().backward()
    assert xs.grad is not None
    assert_close(xs.grad, torch.full((1, 50, 2), 1 / 50))


def test_it_goes_where_the_network_goes():
    cell = td.MeanCell(3).double()
    assert {tensor.dtype for tensor in cell.initial_state(2)} == {torch.float64}
    assert not cell.state_dict()


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="input_size must be a positive whole number, but is 0"):
        td.MeanCell(0)
    with pytest.raises(ShapeError, match=r"MeanCell takes one step of \[B, 3\], but x is \[2, 4\]"):
        td.MeanCell(3)(torch.zeros(2, 4))
