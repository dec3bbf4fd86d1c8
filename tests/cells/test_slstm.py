"""What the stabiliser of the sLSTM is for: gates of any size, values that do not depend on it."""

import math

import pytest
import torch

import treadle as td
from tests.registry import build, random_state, sequence
from tests.tolerances import assert_close


@pytest.mark.share(21)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [-20_000, -200, -90, 0, 90, 200, 20_000])
@pytest.mark.parametrize("forget", [-200, 0, 200])
def test_extreme_gates_stay_finite(size, forget, dtype):
    """From the initial state and from one that has seen something, forwards and backwards."""
    cell = td.SLSTMCell(2, 3, dtype=dtype)
    with torch.no_grad():
        cell.weight_ih[:3], cell.weight_ih[3:6] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        cell.bias.zero_()
    rnn = td.Recurrent(cell, learn_initial_state=True)
    xs = torch.tensor([[[size, forget], [-size, forget], [size, -forget], [0.0, 0.0]]], dtype=dtype, requires_grad=True)
    ys, state = rnn(xs)
    assert ys.isfinite().all()
    assert ys.abs().max() <= 1  # a weighted mean of tanh, gated
    assert all(tensor.isfinite().all() for tensor in state)
    for gradient in torch.autograd.grad(ys.sum() + state.h.sum(), [xs, *rnn.parameters()]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 90, 200, 20_000])
def test_extreme_gates_weigh_the_past_as_they_should(size, dtype):
    """Without recurrent weights h is a weighted mean of all candidates so far, with weights that need no recurrence."""
    rnn = build("slstm", dtype)
    with torch.no_grad():
        rnn.cell.weight_hh.zero_()
    xs = size * sequence(rnn, 2, 9, dtype)
    i, f, z, o = (xs @ rnn.cell.weight_ih.T + rnn.cell.bias).double().chunk(4, 2)
    kept = torch.nn.functional.logsigmoid(f).cumsum(1)
    expected = [
        o[:, t].sigmoid() * ((i + kept[:, t : t + 1] - kept)[:, : t + 1].softmax(1) * z[:, : t + 1].tanh()).sum(1)
        for t in range(9)
    ]
    assert_close(rnn(xs)[0], torch.stack(expected, 1), dtype)


@pytest.mark.parametrize("first", [-200.0, 200.0])
def test_the_first_step_sees_its_input_alone(first):
    cell = td.SLSTMCell(1, 2)
    with torch.no_grad():
        cell.bias[:2] = first
    _, state = cell(torch.randn(3, 1))
    assert (state.n == 1).all()
    assert (state.c.abs() <= 1).all()


@pytest.mark.parametrize("shift", [-30.0, -1.0, 2.5, 30.0])
@pytest.mark.parametrize("name", ["slstm", "slstm-two-heads"])
def test_values_do_not_depend_on_the_stabiliser(name, shift):
    rnn = build(name)
    xs, state = sequence(rnn), random_state(rnn)
    scale = math.exp(-shift)
    shifted = state._replace(c=state.c * scale, n=state.n * scale, m=state.m + shift)
    (ys, end), (other, other_end) = rnn(xs, state), rnn(xs, shifted)
    assert_close(other, ys)
    assert_close(other_end.c * other_end.m.exp(), end.c * end.m.exp())
    assert_close(other_end.n * other_end.m.exp(), end.n * end.m.exp())


def test_heads_do_not_mix():
    rnn = build("slstm-two-heads")
    x, state = sequence(rnn, 1, 1)[:, 0], random_state(rnn, 1)
    h = state.h.requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda h: rnn.cell(x, state._replace(h=h))[0][0], h)[:, 0]
    half = len(jacobian) // 2
    assert not jacobian[:half, half:].any()
    assert not jacobian[half:, :half].any()
    assert jacobian[:half, :half].all()
    assert jacobian[half:, half:].all()


@pytest.mark.parametrize("heads", [2, 4, 6])
def test_heads_must_divide_the_units(heads):
    with pytest.raises(td.errors.ShapeError, match=rf"{heads} heads do not divide hidden_size \(5\)"):
        td.SLSTMCell(3, 5, heads=heads)
