"""PyTorch's recurrent networks as treadle's, and back."""

import itertools

import pytest
import torch
from torch import nn

import treadle as td
from treadle.errors import InteropError
from treadle.interop import torch_modules
from treadle.interop.report import check_agreement

KINDS = {
    "LSTM": lambda **options: nn.LSTM(3, 5, **options),
    "LSTM with projections": lambda **options: nn.LSTM(3, 5, proj_size=2, **options),
    "GRU": lambda **options: nn.GRU(3, 5, **options),
    "RNN": lambda **options: nn.RNN(3, 5, nonlinearity="relu", **options),
}
OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias, "dropout": dropout}
    for layers, dropout, both, first, bias in itertools.product((1, 3), (0, 0.5), *[(False, True)] * 3)
    if layers > 1 or not dropout
]


@pytest.mark.share(2)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind):
    for options in OPTIONS:
        torch.manual_seed(0)
        module = KINDS[kind](**options).eval()
        network = td.interop.from_torch(module)
        xs = torch.randn(2, 7, 3)
        with torch.no_grad():
            torch.testing.assert_close(network(xs)[0], module(xs)[0])
        again = td.interop.to_torch(network)
        assert type(again) is type(module)
        assert repr(again) == repr(module)
        for name, parameter in module.state_dict().items():
            assert torch.equal(again.state_dict()[name], parameter), name
            assert again.state_dict()[name].data_ptr() != parameter.data_ptr()
        assert isinstance(network, td.Recurrent) != options["bidirectional"]
        assert network.training == again.training == module.training


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(kind, bias):
    module = kind(3, 5, bias=bias).double()
    network = td.interop.from_torch(module)
    x = torch.randn(2, 3, dtype=torch.float64)
    y, _ = network.step(x)
    wanted = module(x)
    torch.testing.assert_close(y, wanted[0] if kind is nn.LSTMCell else wanted)


def test_drop_ins_become_what_they_stand_for():
    lstm = td.LSTM(3, 5, num_layers=2, bidirectional=True, dropout=0.1).double()
    module = td.interop.to_torch(lstm)
    assert type(module) is nn.LSTM
    xs = torch.randn(7, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(module.eval()(xs)[0], lstm.eval()(xs)[0])


def stack(*layers, **options):
    return td.Recurrent(td.Stack(layers, **options))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: td.LSTM(3, 5, num_layers=2, wiring="relay"), "its layers are wired as 'relay'"),
        (lambda: stack(td.GRUCell(3, 5), td.GRUCell(8, 5), wiring="skip"), "its layers are wired as 'skip'"),
        (lambda: stack(td.GRUCell(3, 5), td.LSTMCell(5, 5)), "layers of GRUCell and LSTMCell"),
        (lambda: stack(td.GRUCell(3, 5), td.GRUCell(5, 4)), "hidden_size is 5 in one layer and 4 in another"),
        (lambda: td.Recurrent(td.SLSTMCell(3, 5)), "it has no SLSTMCell"),
        (lambda: td.Recurrent(td.RNNCell(3, 5, nonlinearity=nn.PReLU())), "nonlinearity is PReLU"),
        (lambda: td.Recurrent(td.RNNCell(3, 5, nonlinearity="sigmoid")), "nonlinearity is 'sigmoid'"),
        (lambda: td.Recurrent(td.LSTMCell(3, 5, gate_activation="relu")), "gate_activation is 'relu'"),
        (lambda: td.Recurrent(td.LSTMCell(3, 5, output_activation="linear")), "output_activation is 'linear'"),
        (lambda: stack(td.GRUCell(3, 5), td.GRUCell(5, 5, reset_after=False)), "reset_after is False"),
    ],
)
def test_what_pytorch_has_not_is_refused(network, reason):
    with pytest.raises(InteropError, match=f"PyTorch has no such network: {reason}"):
        td.interop.to_torch(network())


def test_other_modules_are_refused():
    class Own(nn.LSTM):
        pass

    for module in (Own(3, 5), nn.Linear(3, 5)):
        with pytest.raises(TypeError, match=f"was given a {type(module).__name__}"):
            td.interop.from_torch(module)


def test_a_difference_is_an_error(monkeypatch):
    monkeypatch.setattr(torch_modules, "_of_cell", lambda module: td.Recurrent(td.GRUCell(3, 5)))
    with pytest.raises(InteropError, match=r"differs from the network by .*nothing was given back"):
        td.interop.from_torch(nn.GRUCell(3, 5))


def test_numbers_that_cannot_be_compared_are_not_blamed_on_the_user_alone():
    with pytest.raises(InteropError, match=r"finite ones, that is a fault of treadle.*Nothing was written"):
        check_agreement(float("inf"), 1e-5, "the file")
