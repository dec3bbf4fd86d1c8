"""Each named wiring against the same recurrence written out by hand in NumPy: loops over steps and layers, no graph."""

import numpy as np
import pytest
import torch

import treadle as td
from tests.registry import HIDDEN_SIZES, stack
from tests.tolerances import assert_close
from treadle.state import named_tensors
from treadle.wiring.named import layer_input_size

B, T, I, L = 3, 6, 3, 3


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm(p, x, h, c):
    a = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    i, f, g, o = np.split(a, 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(p, x, h, c):
    """``c`` is carried along untouched, so that loops need not know which cell they run."""
    r_x, z_x, n_x = np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, 1)
    r_h, z_h, n_h = np.split(h @ p["weight_hh"].T + p["bias_hh"], 3, 1)
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    return (1 - z) * np.tanh(n_x + r * n_h) + z * h, c


def beside(*parts):
    return np.concatenate(parts, 1)


# Each of these takes the step of a layer, its parameters p[l], the inputs x[t], h[l], c[l] before the first step, and
# what was there one step before it. It returns the outputs and leaves h, c, and the late values at their last.


def by_stack(step, p, x, h, c, late):
    ys = []
    for t in range(T):
        below = x[t]
        for l in range(L):
            h[l], c[l] = step(p[l], below, h[l], c[l])
            below = h[l]
        ys.append(below)
    return ys


def by_relay(step, p, x, h, c, late):
    ys = []
    for t in range(T):
        h[0], c[0] = step(p[0], x[t], h[0], c[0])
        h[1], c[1] = step(p[1], x[t], h[0], c[1])
        h[2], c[2] = step(p[2], x[t], h[1], c[2])
        ys.append(h[2])
    return ys


def by_skip(step, p, x, h, c, late):
    ys = []
    for t in range(T):
        h[0], c[0] = step(p[0], x[t], h[0], c[0])
        h[1], c[1] = step(p[1], beside(h[0], x[t]), h[1], c[1])
        h[2], c[2] = step(p[2], beside(h[1], x[t]), h[2], c[2])
        ys.append(h[2])
    return ys


def by_lateral(step, p, x, h, c, late):
    ys = []
    for t in range(T):
        h[0], c[0] = step(p[0], x[t], h[0], c[0])
        h[1], c[1] = step(p[1], beside(h[0], late[0]), h[1], c[1])
        h[2], c[2] = step(p[2], beside(h[1], late[1]), h[2], c[2])
        late[0], late[1] = h[0], h[1]
        ys.append(h[2])
    return ys


def by_residual(step, p, x, h, c, late):
    ys = []
    for t in range(T):
        h[0], c[0] = step(p[0], x[t], h[0], c[0])
        y = h[0]
        for l in (1, 2):
            h[l], c[l] = step(p[l], y, h[l], c[l])
            y = y + h[l] if y.shape == h[l].shape else h[l]
        ys.append(y)
    return ys


def by_dense(step, p, x, h, c, late):
    ys = []
    for t in range(T):
        h[0], c[0] = step(p[0], x[t], h[0], c[0])
        h[1], c[1] = step(p[1], beside(x[t], h[0]), h[1], c[1])
        h[2], c[2] = step(p[2], beside(x[t], h[0], h[1]), h[2], c[2])
        ys.append(h[2])
    return ys


def by_feedback(step, p, x, h, c, late):
    ys = []
    for t in range(T):
        h[0], c[0] = step(p[0], beside(x[t], late[2]), h[0], c[0])
        h[1], c[1] = step(p[1], h[0], h[1], c[1])
        h[2], c[2] = step(p[2], h[1], h[2], c[2])
        late[2] = h[2]
        ys.append(h[2])
    return ys


BY_HAND = {
    "stack": by_stack,
    "relay": by_relay,
    "skip": by_skip,
    "lateral": by_lateral,
    "residual": by_residual,
    "dense": by_dense,
    "feedback": by_feedback,
}
LATE = {"lateral": [0, 1], "feedback": [2]}  # which layers are read one step late


@pytest.mark.share(7)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("wiring", BY_HAND)
@pytest.mark.parametrize("sizes", [None, (4, 4, 4)], ids=["differing", "equal"])
def test_a_wiring_is_its_recurrence(wiring, kind, sizes):
    sizes = sizes or HIDDEN_SIZES.get(wiring, (5, 3, 4))
    cell, step = {"lstm": (td.LSTMCell, lstm), "gru": (td.GRUCell, gru)}[kind]
    network = stack(wiring, cell, I, sizes).double()
    parameters = [{n: p.detach().numpy() for n, p in layer.named_parameters()} for layer in network.cells]

    xs = np.random.default_rng(1).standard_normal((T, B, I))
    random = np.random.default_rng(2)
    h, c, late = ([random.standard_normal((B, size)) for size in sizes] for _ in range(3))
    state = {}
    for l in range(L):
        fields = {"h": h[l], "c": c[l]} if kind == "lstm" else {"h": h[l]}
        state[f"layer{l}"] = cell.State(**{name: torch.from_numpy(value.copy()) for name, value in fields.items()})
        if l in LATE.get(wiring, []):
            state[f"layer{l}.delayed"] = (torch.from_numpy(late[l].copy()),)

    ys, end = td.Recurrent(network, batch_first=False)(torch.from_numpy(xs), state)
    expected = BY_HAND[wiring](step, parameters, xs, h, c, late)

    assert_close(ys, torch.from_numpy(np.stack(expected)), torch.float64)
    assert end.keys() == state.keys()
    for l in range(L):
        assert_close(end[f"layer{l}"].h, torch.from_numpy(h[l]), what=f"h of layer {l}")
        if kind == "lstm":
            assert_close(end[f"layer{l}"].c, torch.from_numpy(c[l]), what=f"c of layer {l}")
        if l in LATE.get(wiring, []):
            assert_close(end[f"layer{l}.delayed"][0], torch.from_numpy(late[l]), what=f"late output of layer {l}")


@pytest.mark.parametrize("wiring", BY_HAND)
def test_a_single_layer(wiring):
    """With one layer all wirings are that layer, but for what is fed back."""
    network = stack(wiring, td.GRUCell, 3, (4,)).double()
    xs = torch.randn(2, 5, 3, dtype=torch.float64)
    ys, _ = td.Recurrent(network)(xs)
    if wiring != "feedback":
        assert torch.equal(ys, td.Recurrent(network.cells[0])(xs)[0])
        return
    y, state = torch.zeros(2, 4, dtype=torch.float64), None
    for t in range(5):
        y, state = network.cells[0](torch.cat([xs[:, t], y], 1), state)
        assert_close(ys[:, t], y)


def test_every_named_wiring_is_written_out_here():
    assert set(BY_HAND) == set(td.WIRINGS)


@pytest.mark.parametrize("wiring", BY_HAND)
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_arithmetic_of_sizes_agrees_with_the_graphs(wiring, layers):
    sizes = [4] * layers if wiring == "relay" else [5, 3, 4, 2][:layers]
    network = stack(wiring, td.LSTMCell, 3, tuple(sizes))
    assert network.input_size == 3
    assert network.output_size == sizes[-1]
    for layer in range(layers):
        one_more = [td.LSTMCell(layer_input_size(wiring, l, 3, sizes) + (l == layer), H) for l, H in enumerate(sizes)]
        if layer:
            with pytest.raises(td.errors.ShapeError, match=rf"^layer 'layer{layer}' reads .*features, but its cell"):
                td.Stack(one_more, wiring)
    y, state = network(torch.zeros(2, 3))
    assert y.shape == (2, sizes[-1])
    late = {"lateral": layers - 1, "feedback": 1}.get(wiring, 0)
    assert sum(name.endswith(".delayed") for name in state) == late
    assert len(list(named_tensors(state))) == 2 * layers + late
