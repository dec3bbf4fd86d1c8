"""Networks as models of Keras, run by Keras on PyTorch and read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.interop.keras_models import fill, keras_on_torch
from treadle.errors import InteropError
from treadle.interop import formats

keras = keras_on_torch()

TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")


@pytest.fixture(autouse=True)
def quiet(recwarn):
    yield
    recwarn.clear()


def gru_before(I, H):
    return td.GRUCell(I, H, reset_after=False, gate_activation="hard_sigmoid_1/6")


def tagger(network):
    return nn.Sequential(
        nn.Embedding(9, 3), network, nn.LayerNorm(4), nn.Dropout(0.3), nn.Linear(4, 5), nn.LogSoftmax(-1)
    )


NETWORKS = {
    "LSTM": lambda: td.Recurrent(td.LSTMCell(3, 4)),
    "LSTM without biases": lambda: td.Recurrent(td.LSTMCell(3, 4, bias=False)),
    "LSTM with other activations": lambda: td.LSTMCell(3, 4, activation="softsign", gate_activation="hard_sigmoid_1/6"),
    "GRU": lambda: td.Recurrent(td.GRUCell(3, 4)),
    "GRU without biases": lambda: td.Recurrent(td.GRUCell(3, 4, bias=False)),
    "GRU that resets before": lambda: td.Recurrent(gru_before(3, 4)),
    "RNN": lambda: td.Recurrent(td.RNNCell(3, 4)),
    "RNN with relu": lambda: td.Recurrent(td.RNNCell(3, 4, nonlinearity="relu", bias=False)),
    "stack": lambda: td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 2), td.RNNCell(2, 4)], dropout=0.2)),
    "drop-in": lambda: td.LSTM(3, 4, num_layers=2, dropout=0.1, batch_first=True),
    "drop-in in both directions": lambda: td.GRU(3, 4, num_layers=2, bidirectional=True),
    "both directions": lambda: td.Bidirectional(td.LSTMCell(3, 4), td.LSTMCell(3, 4)),
    "tagger": lambda: tagger(td.GRU(3, 4)),
    "square": lambda: td.Recurrent(td.LSTMCell(4, 4)),
    "double": lambda: td.Recurrent(td.GRUCell(3, 4, dtype=torch.float64)),
    "head": lambda: nn.Sequential(
        nn.Linear(6, 3), nn.LeakyReLU(0.2), td.RNNCell(3, 4), nn.LayerNorm(4, bias=False), nn.Linear(4, 2, bias=False),
        nn.GELU(),
    ),
}  # fmt: skip


@pytest.mark.share(8)
@pytest.mark.parametrize("return_sequences", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name, return_sequences):
    network = NETWORKS[name]()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    suffix = ".h5" if name in ("stack", "tagger") else ".keras"
    report = td.interop.to_keras(network, f"net{suffix}", tolerance=TOLERANCE, return_sequences=return_sequences)
    assert report.difference <= TOLERANCE
    back = td.interop.from_keras(f"net{suffix}", tolerance=TOLERANCE)
    if name == "tagger":
        return
    xs = torch.randn(
        2, 6, 6 if name == "head" else 4 if name == "square" else 3, dtype=next(network.parameters()).dtype
    )
    with torch.no_grad():
        wanted = keras.saving.load_model(f"net{suffix}", compile=False)(xs)
        assert torch.allclose(back(xs), wanted, atol=TOLERANCE * 4)
        if isinstance(network, td.Recurrent) and return_sequences:
            assert torch.allclose(network.eval()(xs)[0], wanted, atol=TOLERANCE * 4)


def test_what_keras_does_not_have_is_refused():
    refused = {
        "the network: it has no LayerNormLSTMCell": td.LayerNormLSTMCell(3, 4),
        "the network: its layers are wired as 'relay'": td.LSTM(3, 4, num_layers=2, wiring="relay"),
        "its initial state is learned": td.Recurrent(td.LSTMCell(3, 4), learn_initial_state=True),
        "its hidden state is a projection": td.LSTM(3, 4, proj_size=2),
        "it has no activation 'hard_sigmoid_0.2'": td.GRUCell(3, 4, gate_activation="hard_sigmoid_0.2"),
        "activations of their own": td.LSTMCell(3, 4, output_activation="relu"),
        r"part 1: it has no Conv1d\(4, 2": nn.Sequential(td.LSTMCell(3, 4), nn.Conv1d(4, 2, 1)),
        "it has no activation PReLU": td.RNNCell(3, 4, nonlinearity=nn.PReLU()),
        "no part of the network runs over time": nn.Sequential(nn.Linear(3, 2)),
        "read in both directions themselves": td.Bidirectional(
            td.Bidirectional(td.LSTMCell(3, 4), td.LSTMCell(3, 4)), td.LSTMCell(3, 4)
        ),
    }
    for message, network in refused.items():
        with pytest.raises(InteropError, match=message):
            td.interop.to_keras(network, "net.keras")
    with pytest.raises(ValueError, match=r"must end in .keras or .h5"):
        td.interop.to_keras(td.LSTMCell(3, 4), "net.tf")
    with pytest.raises(TypeError, match="to_keras writes a network, but was given a int"):
        td.interop.to_keras(3, "net.keras")


def test_nothing_is_written_above_the_tolerance():
    with pytest.raises(InteropError, match=r"Keras' model differs from the network by .*: nothing was written"):
        td.interop.to_keras(td.LSTMCell(3, 4), "net.keras", tolerance=0)
    assert not list(Path().iterdir())


def test_the_command_goes_both_ways():
    network = td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 5)]))
    td.save("net.safetensors", network)
    formats.convert("net.safetensors", "net.keras")
    lines = formats.convert("net.keras", "again.safetensors")
    assert lines[0].startswith("net.keras: agrees to")
    xs = torch.randn(2, 5, 3)
    with torch.no_grad():
        assert np.allclose(td.load("again.safetensors")(xs), network(xs)[0], atol=1e-6)


def test_a_network_that_was_read_goes_back_as_it_was():
    layers = keras.layers
    recurrence = layers.LSTM(4, recurrent_activation="hard_sigmoid", return_sequences=True)
    model = [keras.Input((None,)), layers.Embedding(9, 3), recurrence, layers.Bidirectional(layers.GRU(3))]
    model = fill(keras.Sequential([*model, layers.Dense(2, activation="silu")]))
    network = td.interop.from_keras(model)
    assert td.interop.to_keras(network, "again.keras").difference <= TOLERANCE
    xs = torch.tensor([[1, 2, 3, 8]])
    with torch.no_grad():
        assert torch.allclose(keras.saving.load_model("again.keras")(xs), model(xs), atol=1e-6)
    masked = keras.Sequential([keras.Input((None,)), layers.Embedding(9, 3, mask_zero=True), layers.GRU(2)])
    with pytest.raises(InteropError, match=r"layer 'embedding.*': what it does besides is not written back"):
        td.interop.to_keras(td.interop.from_keras(masked), "again.keras")
