"""What rounding does to outputs and states, against sessions that are stepped."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, sequence
from treadle.state import named_tensors


def relative(found, right):
    return ((found.double() - right.double()).norm() / right.double().norm()).item()


@pytest.mark.share(8)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_the_errors_are_those_of_sessions(subject, weights):
    rnn = build(subject, torch.float32)
    xs = sequence(rnn, 2, 9, torch.float32)
    report = td.rounding_error(rnn, xs, weights)
    session = rnn.session(batch_size=2, weights=weights)
    ys, end = rnn(xs)
    assert report.outputs == pytest.approx(relative(session.steps(xs), ys), rel=1e-2, abs=1e-5)
    right = dict(named_tensors(end))
    for name, tensor in named_tensors(session.state):
        if tensor.is_floating_point():
            assert report.states[name] == pytest.approx(relative(tensor, right[name]), rel=1e-2, abs=1e-5)


def test_a_trained_network_is_off_by_less_than_two_per_cent():
    torch.manual_seed(0)
    g = td.Graph(1)
    low = g.add("low", td.LSTMCell(1, 24), reads=g.x)
    high = g.add("high", td.GRUCell(24, 24), reads=low)
    rnn = td.Recurrent(g.outputs(g.add("head", nn.Linear(24, 1), reads=high)))
    optimiser = torch.optim.Adam(rnn.parameters(), lr=0.01)
    for _ in range(60):
        waves = torch.sin((100 * torch.rand(8, 1, 1) + torch.arange(41.0)[:, None]) / 3)
        loss = nn.functional.mse_loss(rnn(waves[:, :-1])[0], waves[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    assert td.rounding_error(rnn, waves[:, :-1], "bfloat16").outputs < 0.02
    assert td.rounding_error(rnn, waves[:, :-1], "int8").outputs < 0.02


def test_layer_by_layer():
    torch.manual_seed(0)
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 16), td.LSTMCell(16, 16)]))
    xs = torch.randn(4, 20, 3)
    report = td.rounding_error(rnn, xs)
    assert [(one.name, one.matrices) for one in report.layers] == [("layer0", 2), ("layer1", 2)]
    other = td.Recurrent(td.Stack([td.LSTMCell(3, 16), td.LSTMCell(16, 16)]))
    other.load_state_dict(rnn.state_dict())
    rounded = rnn.session(weights="int8").snapshot.recurrent.cell
    with torch.no_grad():
        other.cell.layer1.load_state_dict(rounded.layer1.state_dict())
    assert report.layers[1].outputs == pytest.approx(relative(other(xs)[0], rnn(xs)[0]), rel=1e-2)
    text = str(report)
    assert text.startswith("Recurrent(Stack) with int8 weights: outputs are off by ")
    assert "final states: layer0/h " in text
    assert text.splitlines()[-1].startswith("layer1 ")


def test_it_takes_what_the_network_takes():
    rnn, xs = td.LSTM(3, 5, 2, batch_first=True), torch.randn(3, 6, 3)
    report = td.rounding_error(rnn, xs, lengths=[6, 2, 0])
    assert 0 < report.outputs < 0.02
    state = rnn.recurrent()(xs)[1]
    assert td.rounding_error(rnn, xs, state=state).outputs != td.rounding_error(rnn, xs).outputs
    assert rnn.training


def test_what_is_refused():
    rnn, xs = td.Recurrent(td.GRUCell(3, 5)), torch.randn(1, 4, 3)
    for weights in ("float32", "int4"):
        with pytest.raises(ValueError, match=f"rounded to 'bfloat16' or 'int8', but '{weights}'"):
            td.rounding_error(rnn, xs, weights)
    with pytest.raises(TypeError, match=r"but was given a Linear: pass td\.Recurrent"):
        td.rounding_error(nn.Linear(3, 3), xs)
    with pytest.raises(td.errors.ShapeError, match="takes a sequence of"):
        td.rounding_error(rnn, xs[..., :2])
    with pytest.raises(ValueError, match="in float64"):
        td.rounding_error(td.Recurrent(td.GRUCell(3, 5)).double(), xs.double())
