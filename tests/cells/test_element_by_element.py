"""Cells without a matrix between one state and the next, in the forms that the registry leaves out."""

from functools import partial

import pytest
import torch

import treadle as td
from tests.cells.recurrences import cfc, linear, min_gru, mlstm, parameters, rg_lru, run
from tests.tolerances import assert_close
from treadle.errors import ShapeError

FORMS = {
    "minGRU, linear": (partial(td.MinGRUCell, 3, 5, bias=False, positive=False), min_gru(linear)),
    "RG-LRU, one head, same sizes": (partial(td.RGLRUCell, 6, 6), rg_lru),
    "mLSTM, one head": (partial(td.MLSTMCell, 3, 5), mlstm),
    "CfC, in time": (partial(td.CfCCell, 4, 5, backbone_size=7, timed=True), cfc("gated", True)),
    "CfC, no backbone": (
        partial(td.CfCCell, 4, 5, backbone_layers=0, mode="ungated", timed=True),
        cfc("ungated", True),
    ),
    "CfC, solution": (partial(td.CfCCell, 3, 5, backbone_size=4, backbone_layers=2, mode="solution"), cfc("solution")),
    "CfC, solution in time": (partial(td.CfCCell, 4, 5, mode="solution", timed=True), cfc("solution", True)),
}


@pytest.mark.share(4)
@pytest.mark.parametrize("form", FORMS)
def test_the_form_is_its_recurrence_in_values_and_as_compiled(form):
    make, recurrence = FORMS[form]
    torch.manual_seed(0)
    rnn = td.Recurrent(make(dtype=torch.float64)).eval()
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    xs = torch.randn(3, 6, rnn.cell.input_size, dtype=torch.float64).abs()
    state = rnn.initial_state(3)
    state = type(state)(*(torch.rand_like(tensor) for tensor in state))
    expected, _ = run(recurrence, parameters(rnn.cell), xs.numpy(), {k: v.numpy() for k, v in state._asdict().items()})
    for engine in ("reference", "cpu"):
        rnn.engine = engine
        assert_close(rnn(xs, state)[0], torch.as_tensor(expected), what=engine)


def test_closed_gates_of_a_min_lstm_do_not_divide_by_zero():
    cell = td.MinLSTMCell(1, 2)
    with torch.no_grad():
        cell.weight_ih.zero_()
        cell.bias_ih.copy_(torch.tensor([-200.0, -300.0, -300.0, -200.0, 1.0, 1.0]))
    y, _ = cell(torch.zeros(1, 1), (torch.full((1, 2), 4.0),))
    assert_close(y, torch.tensor([[4.0, 1.5]]))


def test_an_mlstm_holds_what_a_float_cannot():
    """Input gates of e^1000: values and gradients are finite, and those of smaller gates where n counts alone."""
    cell, x = td.MLSTMCell(3, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    rnn = td.Recurrent(cell)
    with torch.no_grad():
        cell.bias_ih[-2:] = torch.tensor([1000.0, 3.0])
    large, _ = rnn(x)
    large.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in cell.parameters())
    with torch.no_grad():
        cell.bias_ih[-2] = 30.0
    assert_close(large, rnn(x)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rates_of_decay_start_between_their_bounds(dtype):
    rates = td.RGLRUCell(3, 400, dtype=dtype).decay.detach().double().sigmoid() ** 8
    rounding = torch.finfo(dtype).eps
    assert 0.9 - rounding <= rates.min() < 0.905
    assert 0.994 < rates.max() <= 0.9991 + rounding


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: td.RGLRUCell(3, 5, heads=2), ShapeError, r"2 heads do not divide hidden_size \(5\)"),
        (lambda: td.MLSTMCell(3, 5, heads=2), ShapeError, r"2 heads do not divide hidden_size \(5\)"),
        (lambda: td.MLSTMCell(3, 5, heads=0), ShapeError, "heads must be a positive whole number"),
        (
            lambda: td.CfCCell(3, 5, mode="pure"),
            ValueError,
            "mode is one of 'gated', 'ungated', 'solution', but 'pure'",
        ),
        (lambda: td.CfCCell(1, 5, timed=True), ShapeError, "input_size must be 2 or more, but is 1"),
        (lambda: td.CfCCell(3, 5, backbone_layers=-1), ShapeError, "backbone_layers must be a positive whole number"),
    ],
)
def test_what_they_refuse(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_more_time_carries_a_timed_cell_further():
    """Two steps of half the time are not one, but no time at all leaves the gate to its shift alone."""
    cell = td.CfCCell(3, 4, timed=True)
    x, h = torch.randn(2, 2), td.HiddenState(torch.randn(2, 4))
    at = [cell(torch.cat([x, torch.full((2, 1), t)], 1), h)[0] for t in (0.0, 1.0, 50.0)]
    assert not torch.allclose(at[0], at[1])
    assert not torch.allclose(at[1], at[2])


def test_a_unit_that_forgets_nothing_has_gradients():
    """σ(Λ) = 1 in float32: the state stands still, and nothing is NaN."""
    cell = td.RGLRUCell(2, 2)
    with torch.no_grad():
        cell.decay.fill_(200.0)
    xs, h = torch.randn(3, 4, 2, requires_grad=True), torch.randn(3, 2)
    ys, _ = td.Recurrent(cell)(xs, td.HiddenState(h))
    assert_close(ys, h[:, None].expand(3, 4, 2))
    gradients = torch.autograd.grad(ys.square().sum(), [xs, *cell.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
