"""The functions that bend a cell's units and gates, by name, as modules and as functions."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle as td
from tests.tolerances import assert_close
from treadle.cells import ACTIVATIONS
from treadle.errors import ModelFileError

EQUATIONS = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "gelu": lambda x: F.gelu(torch.tensor(x)).numpy(),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "exponential": np.exp,
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard_sigmoid_0.2": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_sigmoid_1/6": lambda x: np.clip(x + 3, 0, 6) / 6,
}


def results(rnn, xs):
    """Outputs, and gradients of all parameters."""
    ys, _ = rnn(xs)
    chosen = torch.linspace(-1, 1, ys.numel(), dtype=ys.dtype).reshape(ys.shape)
    return [ys, *torch.autograd.grad(ys, list(rnn.parameters()), chosen)]


@pytest.mark.share(5)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_name_is_its_equation_compiled_too(name):
    cell = td.RNNCell(3, 5, nonlinearity=name, dtype=torch.float64)
    xs = 4 * torch.randn(6, 1, 3, dtype=torch.float64)
    with torch.no_grad():
        a = xs[:, 0] @ cell.weight_ih.T + cell.bias_ih + cell.bias_hh
    by_hand = torch.as_tensor(EQUATIONS[name](a.numpy()))
    compiled, python = (results(td.Recurrent(cell, engine=engine), xs) for engine in ("cpu", "reference"))
    assert_close(python[0][:, 0], by_hand)
    for one, other in zip(compiled, python, strict=True):
        assert_close(one, other)


def test_every_name_has_an_equation():
    assert list(ACTIVATIONS) == list(EQUATIONS)


CELLS = {
    "LSTM": lambda f, g: td.LSTMCell(3, 5, activation=f, gate_activation=g),
    "LSTM, another at the output": lambda f, g: td.LSTMCell(3, 5, gate_activation=g, output_activation=f),
    "GRU": lambda f, g: td.GRUCell(3, 5, activation=f, gate_activation=g),
    "GRU, reset before": lambda f, g: td.GRUCell(3, 5, activation=f, gate_activation=g, reset_after=False),
    "RNN": lambda f, g: td.RNNCell(3, 5, nonlinearity=f),
}


@pytest.mark.share(3)
@pytest.mark.parametrize("kind", CELLS)
def test_names_modules_and_functions_are_one(kind):
    xs, found = torch.randn(2, 6, 3, dtype=torch.float64), []
    for f, g in (("softsign", "sigmoid"), (nn.Softsign(), nn.Sigmoid()), (F.softsign, torch.sigmoid)):
        torch.manual_seed(1)
        found.append(results(td.Recurrent(CELLS[kind](f, g).double(), engine="cpu"), xs))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_close(other, one)


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", CELLS)
def test_they_are_kept_in_files(kind, tmp_path):
    xs = torch.randn(2, 6, 3)
    for f, g in (("softsign", "hard_sigmoid_1/6"), (nn.PReLU(5, init=0.1), nn.Hardsigmoid())):
        rnn = td.Recurrent(CELLS[kind](f, g))
        td.save(tmp_path / "net.safetensors", rnn)
        again = td.load(tmp_path / "net.safetensors")
        assert repr(again) == repr(rnn)
        assert torch.equal(again(xs)[0], rnn(xs)[0])
    with pytest.raises(ModelFileError, match=r"a model file cannot hold <built-in method si.*only numbers, words"):
        td.save(tmp_path / "net.safetensors", CELLS[kind](torch.sin, torch.sigmoid))


def test_a_learned_slope_of_both_uses_is_one_parameter(tmp_path):
    slope = nn.PReLU(5)
    cell = td.GRUCell(3, 5, activation=slope, gate_activation=slope)
    assert len(list(cell.parameters())) == 5
    td.save(tmp_path / "net.safetensors", cell)
    assert len(list(td.load(tmp_path / "net.safetensors").parameters())) == 5


def test_drop_ins_take_cells_with_options(tmp_path):
    make = partial(td.GRUCell, reset_after=False, activation=nn.Softsign())
    rnn = td.GRU(3, 5, num_layers=2, cell=make)
    assert not any(cell.reset_after for cell in rnn.layers)
    td.save(tmp_path / "net.safetensors", rnn)
    xs = torch.randn(6, 2, 3)
    assert torch.equal(td.load(tmp_path / "net.safetensors")(xs)[0], rnn(xs)[0])


def test_an_option_that_is_changed_later_counts():
    rnn = td.Recurrent(td.LSTMCell(3, 5), engine="cpu")
    xs = torch.randn(2, 6, 3)
    before, _ = rnn(xs)
    rnn.cell.activation = "relu"
    after, _ = rnn(xs)
    assert not torch.equal(before, after)
    assert_close(after, td.Recurrent(rnn.cell, engine="reference")(xs)[0])


def test_print_says_what_is_unusual():
    assert repr(td.GRUCell(3, 5)) == "GRUCell(3, 5)"
    cell = td.GRUCell(3, 5, gate_activation="relu", reset_after=False)
    assert repr(cell) == "GRUCell(3, 5, gate_activation='relu', reset_after=False)"
