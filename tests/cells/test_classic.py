"""The three classic cells, and projections, are torch.nn's: the same numbers from the same seed."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.tolerances import assert_all_close, assert_close

PAIRS = {
    "lstm": (td.LSTMCell, nn.LSTMCell),
    "gru": (td.GRUCell, nn.GRUCell),
    "rnn": (td.RNNCell, nn.RNNCell),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", PAIRS)
def test_one_step_and_its_gradients(kind, bias, dtype):
    ours, theirs = (cell(3, 5, bias, dtype=dtype) for cell in PAIRS[kind])
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    state = tuple(torch.randn(4, 5, dtype=dtype, requires_grad=True) for _ in td_fields(ours))
    y, after = ours(x, ours.State(*state))
    expected = theirs(x, state if kind == "lstm" else state[0])
    expected = expected if kind == "lstm" else (expected,)
    weights = [torch.randn(4, 5, dtype=dtype) for _ in state]
    assert_close(y, expected[0])
    for tensor, reference in zip(after, expected, strict=True):
        assert_close(tensor, reference)

    def gradients(module, tensors):
        total = sum((tensor * w).sum() for tensor, w in zip(tensors, weights, strict=True))
        leaves = dict(module.named_parameters()) | {"x": x} | dict(zip(td_fields(ours), state, strict=True))
        return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))

    assert_all_close(gradients(ours, after), gradients(theirs, expected))


def td_fields(cell):
    return cell.State._fields


def test_relu():
    theirs, ours = nn.RNNCell(3, 5, nonlinearity="relu"), td.RNNCell(3, 5, nonlinearity="relu")
    ours.load_state_dict(theirs.state_dict())
    x, h = torch.randn(4, 3), torch.randn(4, 5)
    assert_close(ours(x, td.HiddenState(h))[0], theirs(x, h))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", PAIRS)
def test_the_same_seed_gives_the_same_parameters(kind, bias):
    drawn = []
    for cell in PAIRS[kind]:
        torch.manual_seed(3)
        drawn.append(cell(3, 5, bias))
    ours, theirs = (cell.state_dict() for cell in drawn)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    torch.manual_seed(3)
    drawn[0].reset_parameters()
    assert all(torch.equal(drawn[0].state_dict()[name], theirs[name]) for name in theirs)


@pytest.mark.share(3)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("P", [0, 1, 4])
def test_projections_are_those_of_torch_nn_lstm(P, bias):
    torch.manual_seed(3)
    theirs = nn.LSTM(3, 5, bias=bias, proj_size=P, batch_first=True, dtype=torch.float64)
    torch.manual_seed(3)
    rnn = td.Recurrent(td.LSTMCell(3, 5, bias, proj_size=P, dtype=torch.float64))
    parameters = {name.removesuffix("_l0"): value for name, value in theirs.state_dict().items()}
    assert list(parameters) == list(rnn.cell.state_dict())
    assert all(torch.equal(value, parameters[name]) for name, value in rnn.cell.state_dict().items())
    xs = torch.randn(4, 6, 3, dtype=torch.float64)
    h, c = torch.randn(4, P or 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    ys, state = rnn(xs, td.LSTMState(h, c))
    expected, (end_h, end_c) = theirs(xs, (h[None], c[None]))
    assert_close(ys, expected)
    assert_close(state.h, end_h[0])
    assert_close(state.c, end_c[0])
    assert rnn.output_size == (P or 5)


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", PAIRS)
def test_a_stack_is_torch_nns_layers(kind):
    """Over whole sequences, three layers, against the module rather than the cell of torch.nn."""
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](3, 5, num_layers=3, batch_first=True).double()
    cells = [PAIRS[kind][0](I, 5, dtype=torch.float64) for I in (3, 5, 5)]
    for layer, cell in enumerate(cells):
        cell.load_state_dict({name: getattr(theirs, f"{name}_l{layer}") for name in cell.state_dict()})
    xs = torch.randn(4, 6, 3, dtype=torch.float64)
    ys, state = td.Recurrent(td.Stack(cells))(xs)
    expected, end = theirs(xs)
    assert_close(ys, expected)
    h = end[0] if kind == "lstm" else end
    assert_close(torch.stack([state[f"layer{layer}"].h for layer in range(3)]), h)
