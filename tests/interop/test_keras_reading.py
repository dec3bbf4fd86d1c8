"""Models of Keras as networks, against Keras itself with PyTorch as its backend."""

import numpy as np
import pytest
import torch

import treadle as td
from tests.covering import pairwise
from tests.interop.keras_models import fill, keras_on_torch
from treadle.errors import InteropError
from treadle.interop.keras_in import compared
from treadle.interop.keras_in.readers import Reader
from treadle.interop.keras_in.saved import read_saved

keras = keras_on_torch()
from keras import layers as L  # noqa: E402

TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return tmp_path


@pytest.fixture(autouse=True)
def quiet(recwarn):
    yield
    recwarn.clear()


def check(model, suffix=".keras", engine="reference"):
    """Written by Keras, read here: both sides agree, and so do the equations, which need no Keras.

    What runs the layers is tested elsewhere, so most models here have their steps in Python, and nothing is compiled.
    """
    path = f"model{suffix}"
    fill(model).save(path)
    network = td.interop.from_keras(path, tolerance=TOLERANCE, engine=engine)
    saved = read_saved(path)
    xs = compared.random_inputs(saved)
    equations = compared.Equations(saved.architecture, saved.arrays, saved.version, {}).run(xs)
    with torch.no_grad():
        found = network(*xs)
    for one, other in zip(found if isinstance(found, tuple) else (found,), equations, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * max(np.abs(other).max(), 1))
    if suffix == ".keras":
        assert network.report.compared.startswith("random inputs, Keras ")
        with torch.no_grad():
            wanted = model(xs if len(xs) > 1 else xs[0])
        wanted = keras.tree.flatten(wanted)
        for one, other in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
            np.testing.assert_allclose(one, other.detach(), rtol=0, atol=TOLERANCE * max(other.abs().max().item(), 1))
    return network


CASES = pairwise(
    kind=["LSTM", "GRU", "GRU before", "SimpleRNN"],
    activation=["tanh", "relu", "softsign", "hard_sigmoid", "elu"],
    gate=["sigmoid", "hard_sigmoid", "tanh"],
    bias=[True, False],
    sequences=[True, False],
    backwards=[False, True],
    masked=["no", "embedding", "masking"],
    both=["", "concat", "sum", "ave", "mul"],
    suffix=[".keras", ".h5"],
    layers=[1, 2],
)


def layer_of(kind, units, **options):
    if kind == "SimpleRNN":
        options.pop("recurrent_activation")
        return L.SimpleRNN(units, **options)
    if kind.startswith("GRU"):
        return L.GRU(units, reset_after=kind == "GRU", **options)
    return L.LSTM(units, **options)


SHARE = [pytest.param(case, marks=pytest.mark.slow if n % 4 else ()) for n, case in enumerate(CASES)]


@pytest.mark.parametrize("case", SHARE, ids=lambda case: "-".join(map(str, case)))
def test_every_option(case):
    kind, activation, gate, bias, sequences, backwards, masked, both, suffix, count = case
    ends = {"no": (L.Input((None, 4)),), "masking": (L.Input((None, 4)), L.Masking(0.5))}
    begin = ends.get(masked) or (L.Input((None,)), L.Embedding(9, 4, mask_zero=True))
    options = {"activation": activation, "use_bias": bias, "recurrent_activation": gate}
    model = keras.Sequential(begin)
    for n in range(count):
        layer = layer_of(kind, 5, return_sequences=sequences or n < count - 1, go_backwards=backwards, **options)
        other = layer_of(kind, 5, return_sequences=sequences or n < count - 1, **options) if backwards else None
        model.add(L.Bidirectional(layer, both, backward_layer=other) if both else layer)
    model.add(L.Dense(3, activation="softmax"))
    check(model, suffix)


def encoder_decoder():
    source, target = L.Input((None,), dtype="int32"), L.Input((None, 3))
    embedded = L.Embedding(9, 4, mask_zero=True)(source)
    ys, h, c = L.LSTM(5, return_state=True, return_sequences=True)(embedded)
    out = L.LSTM(5, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], [L.TimeDistributed(L.Dense(4))(out), ys])


def joined():
    x = L.Input((None, 4))
    masked = L.Masking(0.0)(x)
    one = L.GRU(4, return_sequences=True)(masked)
    two = L.Bidirectional(L.LSTM(2, return_sequences=True))(masked)
    added = L.Add()([one, two, masked])
    both = L.Concatenate()([added, L.Average()([one, two])])
    return keras.Model(x, [L.GRU(3)(both), L.Subtract()([one, two])])


def convolutional():
    x = L.Input((9, 3))
    y = L.Conv1D(4, 3, padding="causal", activation="relu")(x)
    y = L.Conv1D(6, 2, padding="same", strides=2, groups=2, use_bias=False)(y)
    y = L.BatchNormalization()(y)
    y = L.LayerNormalization()(L.MaxPooling1D(2)(y))
    y = L.LSTM(4, return_sequences=True)(y)
    return keras.Model(x, [L.GlobalAveragePooling1D()(y), L.GlobalMaxPooling1D()(y), L.Flatten()(y)])


def shared():
    one, two, layer = L.Input((None, 3)), L.Input((None, 3)), L.LSTM(4)
    return keras.Model([one, two], L.Dense(1)(L.Multiply()([layer(one), layer(two)])))


def both_ends():
    x = L.Input((None,))
    embedded = L.Embedding(9, 4, mask_zero=True)(x)
    ys, back, *states = L.Bidirectional(L.GRU(3, return_sequences=True, return_state=True), merge_mode=None)(embedded)
    again = L.Bidirectional(L.GRU(3, return_sequences=True))(ys, initial_state=states)
    return keras.Model(x, [ys, back, again, *states])


def shapes():
    x = L.Input((6, 4))
    y = L.RepeatVector(3)(L.LSTM(8)(L.SpatialDropout1D(0.1)(L.GaussianNoise(0.1)(x))))
    y = L.Permute((2, 1))(L.Reshape((6, 4))(L.SimpleRNN(8, return_sequences=True)(y)))
    return keras.Model(x, [L.LeakyReLU()(y), L.ReLU(6.0)(y), L.ELU(0.5)(y), L.Softmax()(y), L.Activation("gelu")(y)])


def pooled():
    x = L.Input((None, 4))
    return keras.Model(x, L.GlobalAveragePooling1D()(L.LSTM(3, return_sequences=True)(L.Masking()(x))))


def operations():
    x = L.Input((5, 4))
    return keras.Model(x, L.LSTM(4, return_sequences=True)(x) * 0.5 + x)


def zeros_for_masked_steps():
    x = L.Input((None, 4))
    ys = L.LSTM(3, return_sequences=True, zero_output_for_mask=True)(L.Masking()(x))
    return keras.Model(x, [ys, L.GRU(3)(ys)])


def models_within():
    deepest = keras.Sequential([L.Input((None, 5)), L.BatchNormalization(), L.Dense(5)], name="deepest")
    encoder = keras.Sequential(
        [L.Input((None, 4)), L.LSTM(5, return_sequences=True), deepest, L.GRU(3)], name="encoder"
    )
    y, z = L.Input((6,)), L.Input((3,))
    head = keras.Model([y, z], [L.Dense(2)(y), L.Add()([z, z])], name="head")
    one, other = L.Input((None, 4)), L.Input((None, 4))
    first, second = encoder(one), encoder(other)  # one encoder, called twice
    return keras.Model([one, other], head([L.Concatenate()([first, second]), first]))


@pytest.mark.parametrize("suffix", [".keras", pytest.param(".h5", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "model",
    [
        encoder_decoder,
        joined,
        convolutional,
        shared,
        both_ends,
        shapes,
        pooled,
        operations,
        zeros_for_masked_steps,
        models_within,
    ],
)
def test_functional_models(model, suffix):
    check(model(), suffix)


def test_what_is_stateful_begins_at_zeros_each_time():
    model = keras.Sequential([L.Input(batch_shape=(2, 5, 3)), L.LSTM(4, stateful=True, return_sequences=True)])
    model.add(L.Bidirectional(L.GRU(3, stateful=True)))
    for suffix in (".keras", ".h5"):
        fill(model)
        for layer in model.layers:
            layer.reset_state()
        path = f"model{suffix}"
        model.save(path)
        report = td.interop.from_keras(path, tolerance=TOLERANCE).report
        assert "is stateful in Keras" in str(report)


def test_a_model_in_memory_and_weights_alone():
    model = fill(keras.Sequential([L.Input((None,)), L.Embedding(9, 4), L.GRU(5), L.Dense(2)]))
    xs = np.arange(8).reshape(2, 4)
    with torch.no_grad():
        wanted = model(xs)
    model.save_weights("model.weights.h5")
    for network in (td.interop.from_keras(model), td.interop.from_keras("model.weights.h5", model.to_json())):
        with torch.no_grad():
            assert torch.allclose(network(xs), wanted, atol=1e-6)
    with pytest.raises(InteropError, match="holds weights alone: pass config="):
        td.interop.from_keras("model.weights.h5")
    with pytest.raises(TypeError, match="a file or a model of Keras, but was given a int"):
        td.interop.from_keras(3)


def test_a_network_that_was_read_is_saved_trained_and_run_live():
    recurrence = L.LSTM(5, return_sequences=True, name="recurrence")
    model = keras.Sequential([L.Input((None,)), L.Embedding(9, 4, name="table"), recurrence, L.Dense(2, name="head")])
    network = check(model, engine="auto")
    xs = torch.tensor([[1, 2, 3, 8]])
    wanted = network(xs)
    td.save("model.safetensors", network)
    assert torch.equal(td.load("model.safetensors")(xs), wanted)
    session = network.recurrent().session()
    for t in range(4):
        found = session.step(xs[:, t])
    assert torch.allclose(found, wanted[:, -1], atol=1e-6)
    wanted.sum().backward()
    assert isinstance(network.layer("recurrence").network.cell, td.LSTMCell)
    with pytest.raises(KeyError, match="there is no layer 'other': 'table', 'recurrence', 'head'"):
        network.layer("other")
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_what_is_no_chain_of_steps_has_no_session():
    network = check(keras.Sequential([L.Input((None, 4)), L.Bidirectional(L.LSTM(3)), L.Dense(2)]))
    with pytest.raises(InteropError, match="does not go forwards step by step"):
        network.recurrent()


def test_layers_of_ones_own():
    @keras.saving.register_keras_serializable("mine")
    class Scale(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],))

        def call(self, x):
            return x * self.scale

    class Scaled(torch.nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(weights[0]))

        def forward(self, x):
            return x * self.scale

    model = fill(keras.Sequential([L.Input((None, 4)), L.LSTM(3), Scale()]))
    model.save("model.keras")
    with pytest.raises(InteropError, match=r"\(mine>Scale\): there is no such layer here"):
        td.interop.from_keras("model.keras")
    network = td.interop.from_keras("model.keras", custom={"mine>Scale": lambda config, weights: Scaled(weights)})
    assert "compared with themselves: scale" in str(network.report)
    xs = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("f")
    with torch.no_grad():
        assert torch.allclose(network(xs), model(xs), atol=1e-6)


def test_what_cannot_be_read_is_refused_by_name():
    x = L.Input((5, 4))
    refused = {
        "multi_head": L.MultiHeadAttention(2, 2, name="multi_head")(x, x),
        "layer 'code'": L.Lambda(lambda x: x, name="code", output_shape=(5, 4))(x),
        "'inner': a model within a model that is called with mask": keras.Sequential(
            [L.Input((5, 4)), L.LSTM(3)], name="inner"
        )(L.Masking()(x)),
        "'prelu'": L.PReLU(name="prelu")(x),
        "'half'.*float16": L.LSTM(3, dtype="mixed_float16", name="half")(x),
        "'bad' .LSTM.: softmax within a recurrence": L.LSTM(3, activation="softmax", name="bad")(x),
        "'product'.*what it gives for masked steps": L.Multiply(name="product")([L.Masking()(x), L.Masking()(x)]),
    }
    for message, y in refused.items():
        keras.Model(x, y).save("model.keras")
        with pytest.raises(InteropError, match=message):
            td.interop.from_keras("model.keras")


def test_a_difference_is_noticed(monkeypatch):
    fill(keras.Sequential([L.Input((None, 4)), L.LSTM(4)])).save("model.keras")
    read = Reader.read

    def broken(self, layer, arrays):
        return read(self, layer, [array.T.copy() if array.shape == (4, 4) else array for array in arrays[:1]] + [
            np.concatenate([block.T for block in np.split(arrays[1], 4, 1)], 1), arrays[2]
        ])  # fmt: skip

    monkeypatch.setattr(Reader, "read", broken)
    with pytest.raises(InteropError, match="differs from Keras"):
        td.interop.from_keras("model.keras")
