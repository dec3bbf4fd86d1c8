"""Weights as other libraries lay them out, against these libraries' equations written out in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.tolerances import assert_close
from treadle.adapt import Copy, Crop, Fresh, Gates, MergeBiases, Part, Transpose, Widen, transplant
from treadle.adapt.layouts import fitting_axes
from treadle.errors import AdaptError

I, H, B = 3, 5, 2
TO_TORCH = Gates("zrh", "rzh")


def arrays(**shapes):
    random = np.random.default_rng(7)
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def filled(cell, given, rules):
    model, report = transplant(cell.double(), given, rules)
    assert report.counts.get("missing", 0) == 0
    return model


def step(cell, x, *state):
    with torch.no_grad():
        _, after = cell(torch.from_numpy(x), type(cell.initial_state(1))(*map(torch.from_numpy, state)))
    return after


def test_an_lstm_of_keras():
    a = arrays(kernel=(I, 4 * H), recurrent_kernel=(H, 4 * H), bias=(4 * H,), x=(B, I), h=(B, H), c=(B, H))
    rules = {
        "weight_ih": Transpose(source="kernel"),
        "weight_hh": Transpose(source="recurrent_kernel"),
        "bias_*": MergeBiases("bias"),
    }
    i, f, g, o = np.split(a["x"] @ a["kernel"] + a["h"] @ a["recurrent_kernel"] + a["bias"], 4, -1)
    c = sigmoid(f) * a["c"] + sigmoid(i) * np.tanh(g)
    after = step(filled(td.LSTMCell(I, H), a, rules), a["x"], a["h"], a["c"])
    assert_close(after.c, torch.from_numpy(c))
    assert_close(after.h, torch.from_numpy(sigmoid(o) * np.tanh(c)))


def test_a_gru_of_keras_with_reset_after():
    a = arrays(kernel=(I, 3 * H), recurrent_kernel=(H, 3 * H), bias=(2, 3 * H), x=(B, I), h=(B, H))
    rules = {
        "weight_ih": [Transpose(source="kernel"), TO_TORCH],
        "weight_hh": [Transpose(source="recurrent_kernel"), TO_TORCH],
        "bias_ih": [Part(0, 2, source="bias"), TO_TORCH],
        "bias_hh": [Part(1, 2, source="bias"), TO_TORCH],
    }
    z, r, new = np.split(a["x"] @ a["kernel"] + a["bias"][0], 3, -1)
    z_h, r_h, new_h = np.split(a["h"] @ a["recurrent_kernel"] + a["bias"][1], 3, -1)
    z, r = sigmoid(z + z_h), sigmoid(r + r_h)
    h = z * a["h"] + (1 - z) * np.tanh(new + r * new_h)
    assert_close(step(filled(td.GRUCell(I, H), a, rules), a["x"], a["h"]).h, torch.from_numpy(h))


def test_an_lstm_of_onnx():
    a = arrays(W=(1, 4 * H, I), R=(1, 4 * H, H), B=(1, 8 * H), x=(B, I), h=(B, H), c=(B, H))
    order = Gates("iofc", "ifco")
    rules = {
        "weight_ih": [Part(0, 1, source="W"), order],
        "weight_hh": [Part(0, 1, source="R"), order],
        "bias_ih": [Part(0, 1, source="B"), Part(0, 2), order],
        "bias_hh": [Part(0, 1, source="B"), Part(1, 2), order],
    }
    both = a["B"][0, : 4 * H] + a["B"][0, 4 * H :]
    i, o, f, g = np.split(a["x"] @ a["W"][0].T + a["h"] @ a["R"][0].T + both, 4, -1)
    c = sigmoid(f) * a["c"] + sigmoid(i) * np.tanh(g)
    after = step(filled(td.LSTMCell(I, H), a, rules), a["x"], a["h"], a["c"])
    assert_close(after.c, torch.from_numpy(c))
    assert_close(after.h, torch.from_numpy(sigmoid(o) * np.tanh(c)))


def test_a_convolution_of_keras():
    a = arrays(kernel=(3, 2, 4, 6), bias=(6,), x=(1, 4, 5, 5))
    model = filled(
        nn.Conv2d(4, 6, (3, 2)), a, {"weight": Transpose((3, 2, 0, 1), source="kernel"), "bias": Copy("bias")}
    )
    patches = np.lib.stride_tricks.sliding_window_view(a["x"], (3, 2), (2, 3))  # B, I, y, x, kernel
    expected = np.einsum("biyxhw,hwio->boyx", patches, a["kernel"]) + a["bias"][:, None, None]
    with torch.no_grad():
        assert_close(model(torch.from_numpy(a["x"])), torch.from_numpy(expected))


class OneBias(nn.Module):
    """A cell with a single bias."""

    def __init__(self, gates=1):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(gates * H, I + H))
        self.bias = nn.Parameter(torch.zeros(gates * H))


def test_two_biases_are_one():
    given = nn.LSTMCell(I, H)
    model, report = transplant(
        OneBias(4), given, {"weight": Fresh(), "bias": [MergeBiases("bias_ih", "bias_hh"), Gates("ifgo", "iogf")]}
    )
    i, f, g, o = (given.bias_ih + given.bias_hh).detach().chunk(4)
    assert torch.equal(model.bias, torch.cat([i, o, g, f]))
    assert (report["bias"].action, report["bias"].detail) == ("merged", "with bias_hh, gates ifgo to iogf")
    assert report.names("unused") == ["weight_ih", "weight_hh"]


def test_biases_of_a_gru_are_not_one():
    gru, target = nn.GRUCell(I, H), OneBias(3)
    rules = {"weight": Fresh(), "bias": MergeBiases("bias_ih", "bias_hh")}
    with pytest.raises(AdaptError, match=r"adds 'bias_hh'.*multiplied by the reset gate.*gru=False"):
        transplant(target, gru, rules)
    with pytest.raises(AdaptError, match="reset gate"):
        transplant(target, {name: t for name, t in gru.state_dict().items() if "bias" in name}, {
            **rules, "bias": MergeBiases("bias_ih", "bias_hh", gru=True)
        })  # fmt: skip
    asked, _ = transplant(target, gru, rules | {"bias": MergeBiases("bias_ih", "bias_hh", gru=False)})
    assert torch.equal(asked.bias, gru.bias_ih + gru.bias_hh)
    with torch.no_grad():
        gru.bias_hh.zero_()
    assert torch.equal(transplant(target, gru, rules)[0].bias, gru.bias_ih)


def test_one_bias_goes_into_the_first_of_two_in_every_layer():
    given = {f"{layer}.b": torch.full((4 * H,), float(layer + 1)) for layer in range(2)}
    target = nn.ModuleList([td.LSTMCell(I, H), td.LSTMCell(H, H)])
    model, report = transplant(target, given, {"*.bias_*": MergeBiases("{1}.b"), "*": Fresh()})
    for layer in range(2):
        assert model[layer].bias_ih.eq(layer + 1).all()
        assert not model[layer].bias_hh.any()
        assert report[f"{layer}.bias_hh"].action == "zeroed"
    with pytest.raises(AdaptError, match=r"one bias, '0.b', into two, but names 0.bias_ih: write a pattern"):
        transplant(target, given, {"0.bias_ih": MergeBiases("0.b"), "*": Fresh()})


@pytest.mark.parametrize(
    ("has", "wants", "rules"),
    [
        ((19, 24), (24, 19), "Transpose()"),
        ((19, 24), (24, 20), "[td.adapt.Transpose(), td.adapt.Widen(axis=1)]"),
        ((19, 24), (19, 20), "Crop(axis=1)"),
        ((19, 24), (20, 25), "[td.adapt.Widen(axis=0), td.adapt.Widen(axis=1)]"),
        ((3, 3, 4, 6), (6, 4, 3, 3), "Transpose((3, 2, 0, 1))"),
        ((5, 4, 6), (6, 4, 5), "Transpose((2, 1, 0))"),
        ((24,), (19,), "Crop(axis=0)"),
        ((4, 6), (24,), "Copy(reshape=True)"),
    ],
)
def test_advice_transposes_where_that_fits(has, wants, rules):
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(wants))
    with pytest.raises(AdaptError) as caught:
        transplant(model, {"weight": np.zeros(has)})
    written = str(caught.value).split("{'weight': ")[1].split("}, or")[0]
    assert written.replace("td.adapt.", "") == rules.replace("td.adapt.", "")
    scope = {"td": td}
    report = transplant(model, {"weight": np.zeros(has)}, {"weight": eval(written, scope)})[1]
    assert report["weight"].shape == wants


def test_a_square_matrix_is_said_to_fit_either_way():
    a = arrays(weight_ih=(I, H), weight_hh=(H, H), bias_ih=(H,), bias_hh=(H,))
    with pytest.raises(AdaptError, match=r"Transpose\(\).*square matrix such as weight_hh \[5, 5\] fits either way"):
        transplant(td.RNNCell(I, H), a)
    _, report = transplant(td.RNNCell(I, H), a, {"weight_ih": Transpose()})
    assert report["weight_hh"].detail == "float64 to float32, square: no shape shows if it is to be transposed"
    _, report = transplant(td.RNNCell(I, H), a, {"weight_*": Transpose()})
    assert report["weight_hh"].detail == "transposed, float64 to float32"


def test_axes_in_every_order():
    assert fitting_axes((2, 3), (2, 4)) is None
    assert fitting_axes((2, 3, 4, 5), (3, 2, 5, 4)) == (1, 0, 3, 2)
    assert fitting_axes((4,), (4,)) is None


def test_stars_by_order_and_by_number():
    torch.manual_seed(0)
    given, target = nn.LSTM(I, H, num_layers=2), td.Stack([td.LSTMCell(I, H), td.LSTMCell(H, H)])
    with pytest.raises(AdaptError, match=r"did you mean '\{2\}_l\{1\}', with the second \* of the pattern first"):
        transplant(target, given, {"layer*.*": Copy("*_l*")})
    model, report = transplant(target, given, {"layer*.*": Copy("{2}_l{1}")})
    assert report.counts == {"copied": 8}
    assert torch.equal(model.layer1.weight_ih, given.weight_ih_l1)
    old = {f"enc.lstm.{name}": tensor for name, tensor in nn.LSTMCell(I, H).state_dict().items()}
    target = nn.ModuleDict({"enc": nn.ModuleDict({"rnn": td.LSTMCell(I, H)})})
    for pattern, written in (
        ("*.rnn.*", "*.lstm.*"),
        ("*.rnn", "*.lstm"),
        ("*.rnn", "*.lstm.*"),
        ("*.rnn.*", "{1}.lstm.{2}"),
        ("enc.rnn", "enc.lstm.*"),
    ):
        assert transplant(target, old, {pattern: Copy(written)})[1].counts == {"copied": 4}
    bare = {name.removeprefix("enc.lstm."): tensor for name, tensor in old.items()}
    assert transplant(target, bare, {"*.rnn.*": Copy("{2}")})[1].counts == {"copied": 4}
    with pytest.raises(AdaptError, match=r"'lstm.\*' has fewer \* than .*as in 'lstm.\{1\}'"):
        transplant(target, old, {"*.rnn.*": Copy("lstm.*")})
    with pytest.raises(AdaptError, match=r"numbers the \* of the pattern '\*.rnn.\*': write \{1\} to \{2\}"):
        transplant(target, old, {"*.rnn.*": Copy("{3}")})


def test_arrays_of_every_kind(tmp_path):
    weight, bias = np.arange(6.0).reshape(2, 3), np.ones(2)
    np.savez(tmp_path / "weights.npz", weight=weight.astype(">f4"), bias=bias)
    with np.load(tmp_path / "weights.npz") as file:
        model, _ = transplant(nn.Linear(3, 2), file)
    assert torch.equal(model.weight, torch.arange(6.0).reshape(2, 3))
    locked = np.asfortranarray(weight)
    locked.flags.writeable = False
    model, _ = transplant(nn.Linear(3, 2), {"weight": locked, "bias": torch.ones(2)})
    assert torch.equal(model.weight, torch.arange(6.0).reshape(2, 3))
    with pytest.raises(TypeError, match="'weight' is a ndarray, not a tensor"):
        transplant(nn.Linear(3, 2), {"weight": np.array(["a"]), "bias": bias})


WRONG = {
    "axes": (Transpose((0, 0)), r"axes=\(0, 0\) are not its 2 axes, each once"),
    "gates": (Gates("ifgo", "ifg"), r"does not name the same gates"),
    "a gate twice": (Gates("ii", "ii"), r"does not name the same gates"),
    "no whole gates": (Gates("ifgoc", "ifgco"), r"axis 0 is not made of 5 gates"),
    "no axis": (Gates("if", "fi", axis=2), r"there is no axis 2"),
    "part": (Part(2, 2), r"axis 0 has no part 2 of 2"),
    "late": ([Transpose(), MergeBiases("weight")], r"merges biases late: write MergeBiases first"),
    "second": (MergeBiases("weight", "wieght"), r"adds 'wieght' to 'weight', but .*did you mean 'weight'"),
    "sizes": (MergeBiases("weight", "bias"), r"two biases that are merged have one shape"),
    "then resized": ([Transpose(), Crop(0)], r"axis 0 is not shorter there"),
    "still another shape": (Transpose(), r"makes \[3, 4\] of weight.*wants \[4, 3\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_says_why(name):
    rule, message = WRONG[name]
    with pytest.raises(AdaptError, match=message):
        transplant(nn.Linear(3, 4), nn.Linear(3, 4), {"weight": rule})


def test_layouts_and_sizes_together():
    a = arrays(kernel=(I, 4 * H), recurrent=(H, 4 * H), bias=(4 * H,))
    rules = {
        "weight_ih": [Transpose(source="kernel"), Gates("iofc", "ifco"), Widen(0, blocks=4), Widen(1)],
        "*": Fresh(),
    }
    model, report = transplant(td.LSTMCell(I + 1, H + 2).double(), a, rules)
    assert report["weight_ih"].action == "widened"
    i, o, f, c = np.split(a["kernel"].T, 4)
    for block, expected in zip(model.weight_ih.detach().chunk(4), (i, f, c, o), strict=True):
        assert torch.equal(block[:H, :I], torch.from_numpy(expected))
