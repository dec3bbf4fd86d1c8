"""Files of Keras 1.2 and 2 in every layout that they had, made here with h5py, against equations in NumPy."""

import json

import numpy as np
import pytest
import torch

import treadle as td
from treadle.errors import InteropError
from treadle.interop.keras_in import compared

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")
pytest.importorskip("pyfive", reason="pyfive is not installed: pip install pyfive")

I, H, B, T = 3, 4, 2, 5


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def arrays(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [(random.normal(size=shape) * 0.5).astype("float32") for shape in shapes]


def write(layers, version="2.2.4", whole=True, chunked=False, config_of_model=None, backend="tensorflow"):
    """A file; ``layers`` are the class, the config and the weights of each."""
    with h5py.File("old.h5", "w") as file:
        described = [{"class_name": kind, "config": config} for kind, config, _ in layers]
        group = file
        if whole:
            model = config_of_model or {"class_name": "Sequential", "config": described}
            file.attrs["model_config"] = json.dumps(model).encode()
            group = file.create_group("model_weights")
        if version:
            group.attrs["keras_version"] = version.encode()
        group.attrs["backend"] = backend.encode()
        names = [config["name"].encode() for _, config, _ in layers]
        if chunked:
            for n, name in enumerate(names):
                group.attrs[f"layer_names{n}"] = [name]
        else:
            group.attrs["layer_names"] = names
        for _, config, weights in layers:
            own = group.create_group(config["name"])
            own.attrs["weight_names"] = [f"{config['name']}_{n}".encode() for n in range(len(weights))]
            for n, weight in enumerate(weights):
                own.create_dataset(f"{config['name']}_{n}", data=weight)
    return "old.h5"


def read(*layers, xs=None, **options):
    network = td.interop.from_keras(write(list(layers), **options), tolerance=1e-6, engine="reference")
    assert network.report.compared == "random inputs, Keras' equations in float64"
    xs = np.random.default_rng(9).normal(size=(B, T, I)).astype("float32") if xs is None else xs
    with torch.no_grad():
        found = network(xs)
    return np.asarray(found, dtype=np.float64), np.asarray(xs, dtype=np.float64)


def hard(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(xs, W, U, b, gate):
    """Gate by gate, from dicts of matrices."""
    h = c = np.zeros((len(xs), H))
    ys = []
    for t in range(xs.shape[1]):
        z = {k: xs[:, t] @ W[k] + h @ U[k] + b[k] for k in "ifco"}
        c = gate(z["f"]) * c + gate(z["i"]) * np.tanh(z["c"])
        h = gate(z["o"]) * np.tanh(c)
        ys.append(h)
    return np.stack(ys, 1)


def gru(xs, W, U, b, gate, inside=None):
    """With the reset gate before the product; or after it, with biases ``inside``."""
    h, ys = np.zeros((len(xs), H)), []
    for t in range(xs.shape[1]):
        x, inner = xs[:, t], inside or dict.fromkeys("zrh", 0)
        z = gate(x @ W["z"] + b["z"] + h @ U["z"] + inner["z"])
        r = gate(x @ W["r"] + b["r"] + h @ U["r"] + inner["r"])
        new = x @ W["h"] + b["h"] + ((r * h) @ U["h"] if inside is None else r * (h @ U["h"] + inner["h"]))
        h = z * h + (1 - z) * np.tanh(new)
        ys.append(h)
    return np.stack(ys, 1)


def of_gates(gates, seed=0):
    return tuple(
        dict(zip(gates, arrays(*[shape] * len(gates), seed=seed + n), strict=True))
        for n, shape in enumerate([(I, H), (H, H), (H,)])
    )


def same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


def recurrent(units=H, **options):
    return {"name": "over_time", "units": units, "return_sequences": True, "activation": "tanh"} | options


def test_keras_1_has_three_arrays_for_each_gate_of_an_lstm():
    W, U, b = of_gates("icfo")  # in this order
    config = {
        "name": "lstm_1", "output_dim": H, "inner_activation": "hard_sigmoid", "activation": "tanh", "input_dim": I,
        "return_sequences": True, "go_backwards": False, "stateful": False, "unroll": False, "consume_less": "cpu",
        "inner_init": "orthogonal", "init": "glorot_uniform", "forget_bias_init": "one", "W_regularizer": None,
        "dropout_W": 0.0, "dropout_U": 0.0, "trainable": True, "batch_input_shape": [None, None, I],
        "input_length": None,
    }  # fmt: skip
    weights = [part[gate] for gate in "icfo" for part in (W, U, b)]
    for version in ("1.2.2", ""):
        found, xs = read(("LSTM", config, weights), version=version)
        same(found, lstm(xs, W, U, b, hard))


def test_keras_1_has_three_arrays_for_each_gate_of_a_gru():
    W, U, b = of_gates("zrh")
    config = {"name": "gru_1", "output_dim": H, "inner_activation": "sigmoid", "input_dim": I, "return_sequences": True}
    found, xs = read(("GRU", config, [part[gate] for gate in "zrh" for part in (W, U, b)]), version="1.2.0")
    same(found, gru(xs, W, U, b, sigmoid))


def test_keras_1_embeds_and_merges():
    table, W, U, b, kernel, bias = arrays((9, I), (I, H), (H, H), (H,), (H, 2), (2,))
    layers = [
        ("Embedding", {"name": "embedding_1", "input_dim": 9, "output_dim": I, "mask_zero": False, "dropout": 0.0,
                       "batch_input_shape": [None, T], "W_regularizer": None, "input_dtype": "int32"}, [table]),
        ("SimpleRNN", {"name": "rnn_1", "output_dim": H, "activation": "relu", "return_sequences": True}, [W, U, b]),
        ("TimeDistributed", {"name": "out", "trainable": True, "layer": {"class_name": "Dense", "config": {
            "name": "dense", "output_dim": 2, "activation": "hard_sigmoid", "bias": True}}}, [kernel, bias]),
    ]  # fmt: skip
    numbers = np.random.default_rng(1).integers(0, 9, (B, T))
    found, _ = read(*layers, xs=numbers, version="1.2.2")
    h, ys = np.zeros((B, H)), []
    for t in range(T):
        h = np.maximum(table[numbers[:, t]] @ W + h @ U + b, 0)
        ys.append(hard(h @ kernel + bias))
    same(found, np.stack(ys, 1))


@pytest.mark.parametrize("version", ["2.0.8", "2.2.4-tf", "2.15.0"])
def test_hard_sigmoid_is_that_of_keras_2(version):
    W, U, b = of_gates("ifco")
    weights = [np.concatenate([part[gate] for gate in "ifco"], -1) for part in (W, U, b)]
    config = recurrent(recurrent_activation="hard_sigmoid", batch_input_shape=[None, None, I], implementation=2)
    found, xs = read(("LSTM", config, weights), version=version)
    same(found, lstm(xs, W, U, b, hard))
    found, xs = read(("LSTM", config | {"recurrent_activation": "sigmoid"}, weights), version=version)
    same(found, lstm(xs, W, U, b, sigmoid))


def test_a_gru_of_keras_2_resets_before_unless_it_says_otherwise():
    W, U, b = of_gates("zrh")
    weights = [np.concatenate([part[gate] for gate in "zrh"], -1) for part in (W, U, b)]
    config = recurrent(recurrent_activation="sigmoid", batch_input_shape=[None, None, I])
    found, xs = read(("GRU", config, weights), version="2.1.0")  # which had no option
    same(found, gru(xs, W, U, b, sigmoid))
    _, _, inside = of_gates("zrh", seed=5)
    both = np.stack([weights[2], np.concatenate([inside[gate] for gate in "zrh"])])
    found, xs = read(("GRU", config | {"reset_after": True}, [*weights[:2], both]), version="2.2.4")
    same(found, gru(xs, W, U, b, sigmoid, inside))
    with pytest.raises(InteropError, match=r"its bias is \[2, 12\] in the file, but has to be \[12\]"):
        read(("GRU", config | {"reset_after": False}, [*weights[:2], both]))


def cudnn(W, U, order):
    """Matrices of CuDNN: those of a gate are [H, I] and [H, H] in memory, whatever shape Keras gives the whole."""
    kernel = np.concatenate([W[gate].T.reshape(I, H) for gate in order], -1)
    return kernel, np.concatenate([U[gate].T for gate in order], -1)


@pytest.mark.parametrize("kind", ["CuDNNLSTM", "LSTM"])
def test_an_lstm_of_cudnn_has_eight_biases_and_matrices_that_lie_transposed(kind):
    W, U, b = of_gates("ifco")
    _, _, more = of_gates("ifco", seed=7)
    bias = np.concatenate([part[gate] for part in (b, more) for gate in "ifco"])
    config = recurrent(batch_input_shape=[None, None, I])
    config |= {} if kind == "CuDNNLSTM" else {"recurrent_activation": "sigmoid"}
    if kind == "CuDNNLSTM":
        del config["activation"]
    found, xs = read((kind, config, [*cudnn(W, U, "ifco"), bias]))
    same(found, lstm(xs, W, U, {gate: b[gate] + more[gate] for gate in "ifco"}, sigmoid))
    if kind == "LSTM":
        with pytest.raises(InteropError, match=r"which has tanh and sigmoid, not tanh and hard_sigmoid_0.2"):
            read((kind, config | {"recurrent_activation": "hard_sigmoid"}, [*cudnn(W, U, "ifco"), bias]))


def test_a_gru_of_cudnn_resets_after():
    W, U, b = of_gates("zrh")
    _, _, more = of_gates("zrh", seed=7)
    bias = np.concatenate([part[gate] for part in (b, more) for gate in "zrh"])
    config = {key: value for key, value in recurrent(batch_input_shape=[None, T, I]).items() if key != "activation"}
    found, xs = read(("CuDNNGRU", config, [*cudnn(W, U, "zrh"), bias]))
    same(found, gru(xs, W, U, b, sigmoid, more))


def test_a_square_kernel_that_lies_transposed_is_another_network():
    """What copies without an error: the equations tell the two apart, so a mistake here would be refused."""
    kernel, U, b = arrays((H, 4 * H), (H, 4 * H), (4 * H,))
    config = recurrent(recurrent_activation="sigmoid", batch_input_shape=[None, None, H])
    xs = np.random.default_rng(3).normal(size=(B, T, H)).astype("float32")
    found, _ = read(("LSTM", config, [kernel, U, b]), xs=xs)
    turned = np.concatenate([block.T for block in np.split(kernel, 4, -1)], -1)
    other, _ = read(("LSTM", config, [turned, U, b]), xs=xs)
    assert np.abs(found - other).max() > 0.01


def test_backwards_gives_the_last_step_first():
    W, U, b = of_gates("ifco")
    weights = [np.concatenate([part[gate] for gate in "ifco"], -1) for part in (W, U, b)]
    config = recurrent(recurrent_activation="sigmoid", go_backwards=True, batch_input_shape=[None, None, I])
    found, xs = read(("LSTM", config, weights))
    same(found, lstm(xs[:, ::-1], W, U, b, sigmoid))


def masked(xs, counts, W, U, b):
    """Keras' rule for padded steps: the output before is given again, the state stands still."""
    h = c = y = np.zeros((len(xs), H))
    ys = []
    for t in range(xs.shape[1]):
        z = {k: xs[:, t] @ W[k] + h @ U[k] + b[k] for k in "ifco"}
        c_after = sigmoid(z["f"]) * c + sigmoid(z["i"]) * np.tanh(z["c"])
        h_after = sigmoid(z["o"]) * np.tanh(c_after)
        here = counts[:, t, None]
        h, c, y = np.where(here, h_after, h), np.where(here, c_after, c), np.where(here, h_after, y)
        ys.append(y)
    return np.stack(ys, 1)


@pytest.mark.parametrize("version", ["2.2.4", "2.2.4-tf"])
def test_padded_steps_give_the_output_before_again(version):
    W, U, b = of_gates("ifco")
    weights = [np.concatenate([part[gate] for gate in "ifco"], -1) for part in (W, U, b)]
    xs = np.random.default_rng(4).normal(size=(3, T, I)).astype("float32")
    counts = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=bool)
    xs[~counts] = 7.0
    masking = ("Masking", {"name": "masking", "mask_value": 7.0, "batch_input_shape": [None, None, I]}, [])
    config = recurrent(recurrent_activation="sigmoid")
    ys, _ = read(masking, ("LSTM", config, weights), xs=xs, version=version)
    same(ys, masked(xs, counts, W, U, b))
    last, _ = read(masking, ("LSTM", config | {"return_sequences": False}, weights), xs=xs, version=version)
    same(last, masked(xs, counts, W, U, b)[:, -1])
    both = {"name": "both", "merge_mode": "concat", "layer": {"class_name": "LSTM", "config": config}}
    ys, _ = read(masking, ("Bidirectional", both, weights * 2), xs=xs, version=version)
    one, other = masked(xs, counts, W, U, b), masked(xs[:, ::-1], counts[:, ::-1], W, U, b)[:, ::-1]
    wanted = np.concatenate([one, other], -1)
    if version.endswith("tf"):  # TensorFlow's Keras makes these zeros, in both directions only
        wanted = np.where(counts[..., None], wanted, 0)
    same(ys, wanted)


def test_weights_alone_by_name_and_by_order():
    W, U, b = arrays((I, 4 * H), (H, 4 * H), (4 * H,))
    layers = [("LSTM", {"name": "first"}, [W, U, b]), ("Dense", {"name": "second"}, arrays((H, 2), (2,)))]
    path = write(layers, whole=False, chunked=True)

    def config(*names):
        kinds = (recurrent(recurrent_activation="sigmoid"), {"units": 2, "activation": "softmax"})
        described = [
            {"class_name": kind, "config": options | {"name": name}}
            for kind, options, name in zip(("LSTM", "Dense"), kinds, names, strict=True)
        ]
        return {"class_name": "Sequential", "config": {"name": "model", "layers": described}}

    named = td.interop.from_keras(path, config("first", "second"))
    json_file = "model.json"
    with open(json_file, "w") as file:
        json.dump(config("lstm", "dense"), file)
    xs = torch.randn(2, 3, I)
    assert torch.equal(named(xs), td.interop.from_keras(path, json_file)(xs))
    assert torch.equal(
        named(xs), td.interop.from_keras(path, config("second", "other"))(xs)
    )  # by order, not by one name
    part = config("first", "second")
    del part["config"]["layers"][1]
    assert td.interop.from_keras(path, part)(xs).shape == (2, 3, H)  # the file may hold more than a model by name
    one = {"class_name": "Sequential", "config": config("lstm", "dense")["config"]["layers"][:1]}
    with pytest.raises(InteropError, match="holds the weights of first, second, but the model has lstm"):
        td.interop.from_keras(path, one)


def test_a_model_within_a_model_of_keras_2_counts_its_calls_from_one():
    W, U, b = arrays((I, 4 * H), (H, 4 * H), (4 * H,))
    inner = {
        "class_name": "Sequential",
        "config": {
            "name": "inner",
            "layers": [
                {
                    "class_name": "LSTM",
                    "config": recurrent(recurrent_activation="sigmoid", batch_input_shape=[None, None, I]),
                }
            ],
        },
    }
    entry = {
        "name": "x",
        "class_name": "InputLayer",
        "inbound_nodes": [],
        "config": {"name": "x", "batch_input_shape": [None, T, I]},
    }
    model = {
        "class_name": "Model",
        "config": {
            "layers": [entry, inner | {"name": "inner", "inbound_nodes": [[["x", 0, 0, {}]]]}],
            "input_layers": [["x", 0, 0]],
            "output_layers": [["inner", 1, 0]],
        },
    }
    with h5py.File("old.h5", "w") as file:
        file.attrs["model_config"], group = json.dumps(model), file.create_group("model_weights")
        group.attrs["layer_names"], group.attrs["keras_version"] = [b"x", b"inner"], b"2.2.4"
        for name, weights in (("x", ()), ("inner", (W, U, b))):
            own = group.create_group(name)
            own.attrs["weight_names"] = [f"over_time/{n}:0".encode() for n in range(len(weights))]
            for n, weight in enumerate(weights):
                own[f"over_time/{n}:0"] = weight
    network = td.interop.from_keras("old.h5", engine="reference")
    assert isinstance(network.layer("inner/over_time").network.cell, td.LSTMCell)
    assert network.recurrent().session().step(np.zeros(I, "f")).shape == (H,)


def test_what_a_file_says_and_is_not_known_is_refused():
    weights = arrays((I, 4 * H), (H, 4 * H), (4 * H,))
    config = recurrent(recurrent_activation="sigmoid", batch_input_shape=[None, None, I])
    refused = {
        "what peephole ask": config | {"peephole": True},
        "time_major=True cannot be read": config | {"time_major": True},
        "activation='snake' cannot be read": config | {"activation": "snake"},
        "activation=a 'Custom' cannot be read": config | {"activation": {"class_name": "Custom", "config": {}}},
        r"kernel is \[3, 16\] in the file, but has to be \[any, 20\]": config | {"units": 5},
        "units=-1 is no number": config | {"units": -1},
        "units=None is no number": config | {"units": None},
    }
    for message, one in refused.items():
        with pytest.raises(InteropError, match=f"layer 'over_time' .LSTM.: .*{message}"):
            read(("LSTM", one, weights))
    with pytest.raises(InteropError, match=r"holds weights that it does not have: \[16\]"):
        read(("LSTM", config, [*weights, weights[2]]))
    with pytest.raises(InteropError, match="a bias of 8 times its units"):
        read(("CuDNNLSTM", config, weights))
    with pytest.raises(InteropError, match=r"its bias is not in the file"):
        read(("LSTM", config, weights[:2]))
    with pytest.raises(InteropError, match="was written by Theano, whose convolutions turn their kernels"):
        read(("Conv1D", {"name": "c", "filters": 4, "kernel_size": [3]}, []), backend="theano")


def test_the_equations_are_another_way(monkeypatch):
    """A step that is wrong here does not agree with them."""
    weights = arrays((I, 4 * H), (H, 4 * H), (4 * H,))
    config = recurrent(recurrent_activation="sigmoid", batch_input_shape=[None, None, I])
    path = write([("LSTM", config, weights)])
    forward = td.LSTMCell.forward
    monkeypatch.setattr(td.LSTMCell, "forward", lambda self, x, state: forward(self, x.flip(1), state))
    with pytest.raises(InteropError, match="differs from Keras' equations in float64 by"):
        td.interop.from_keras(path)


def test_random_inputs_have_padding_where_there_may_be_some():
    padding = compared._padding((3, 7))
    assert padding.any(1).tolist() == [False, True, True]
    assert not padding.all(1).any()
