"""The cells' recurrences in NumPy, gate by gate, as the papers write them: what the cells are judged by.

Each takes a cell's parameters (by name), one step's input and the fields of the state, and returns the output and the
new fields. ``x @ W.T`` is Wx for every row of a batch.
"""

import math
from functools import partial
from itertools import product

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def gate(p, k, x, h):
    """W x + b + R h + b of the k-th gate, where gates lie above each other in weight_ih and weight_hh."""
    H = p["gate_size"]
    rows = slice(k * H, (k + 1) * H)
    a = x @ p["weight_ih"][rows].T + h @ p["weight_hh"][rows].T
    for name in ("bias_ih", "bias_hh", "bias"):
        if name in p:
            a = a + p[name][rows]
    return a


def lstm(p, x, h, c, bend=np.tanh, bend_gate=sigmoid, bend_output=np.tanh):
    p = p | {"gate_size": c.shape[1]}
    i, f, o = (bend_gate(gate(p, k, x, h)) for k in (0, 1, 3))
    g = bend(gate(p, 2, x, h))
    c = f * c + i * g
    h = o * bend_output(c)
    if "weight_hr" in p:
        h = h @ p["weight_hr"].T
    return h, {"h": h, "c": c}


def gru(p, x, h):
    H = h.shape[1]
    r_i, z_i, n_i = (x @ p["weight_ih"][k * H : (k + 1) * H].T for k in range(3))
    r_h, z_h, n_h = (h @ p["weight_hh"][k * H : (k + 1) * H].T for k in range(3))
    if "bias_ih" in p:
        r_i, z_i, n_i = (a + p["bias_ih"][k * H : (k + 1) * H] for k, a in enumerate((r_i, z_i, n_i)))
        r_h, z_h, n_h = (a + p["bias_hh"][k * H : (k + 1) * H] for k, a in enumerate((r_h, z_h, n_h)))
    r, z = sigmoid(r_i + r_h), sigmoid(z_i + z_h)
    h = (1 - z) * np.tanh(n_i + r * n_h) + z * h
    return h, {"h": h}


def gru_reset_before(p, x, h):
    p = p | {"gate_size": h.shape[1]}
    r, z = (sigmoid(gate(p, k, x, h)) for k in (0, 1))
    h = (1 - z) * np.tanh(gate(p, 2, x, r * h)) + z * h
    return h, {"h": h}


def rnn(activation):
    def step(p, x, h):
        h = activation(gate(p | {"gate_size": h.shape[1]}, 0, x, h))
        return h, {"h": h}

    return step


def with_slopes(cell):
    """A cell that is bent by PReLU."""

    def step(p, x, h):
        slope = p["nonlinearity.weight"]
        return cell(lambda a: np.where(a > 0, a, slope * a))(p, x, h)

    return step


def relu(a):
    return np.maximum(a, 0)


def softsign(a):
    return a / (1 + abs(a))


def hard_sigmoid(a):
    """Of Keras 1 and 2."""
    return np.clip(0.2 * a + 0.5, 0, 1)


def gelu(a):
    return a * (1 + np.vectorize(math.erf)(a / np.sqrt(2))) / 2


def layer_norm(a, gain, shift=0.0, eps=1e-5):
    mean = a.mean(1, keepdims=True)
    variance = ((a - mean) ** 2).mean(1, keepdims=True)
    return (a - mean) / np.sqrt(variance + eps) * gain + shift


def layer_norm_lstm(p, x, h, c):
    a = layer_norm(x @ p["weight_ih"].T, p["norm_input.weight"])
    a = a + layer_norm(h @ p["weight_hh"].T, p["norm_hidden.weight"]) + p["bias"]
    i, f, g, o = np.split(a, 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(layer_norm(c, p["norm_cell.weight"], p["norm_cell.bias"]))
    return h, {"h": h, "c": c}


def peephole_lstm(p, x, h, c):
    p = p | {"gate_size": h.shape[1]}
    to_i, to_f, to_o = p["weight_peephole"]
    i = sigmoid(gate(p, 0, x, h) + to_i * c)
    f = sigmoid(gate(p, 1, x, h) + to_f * c)
    c = f * c + i * np.tanh(gate(p, 2, x, h))
    h = sigmoid(gate(p, 3, x, h) + to_o * c) * np.tanh(c)
    return h, {"h": h, "c": c}


def zoneout_lstm(keep_cell, keep_hidden):
    """In evaluation: the expectation."""

    def step(p, x, h, c):
        new_h, new = lstm(p, x, h, c)
        h = keep_hidden * h + (1 - keep_hidden) * new_h
        return h, {"h": h, "c": keep_cell * c + (1 - keep_cell) * new["c"]}

    return step


def coupled_lstm(p, x, h, c):
    p = p | {"gate_size": h.shape[1]}
    i = sigmoid(gate(p, 0, x, h))
    c = (1 - i) * c + i * np.tanh(gate(p, 1, x, h))
    h = sigmoid(gate(p, 2, x, h)) * np.tanh(c)
    return h, {"h": h, "c": c}


def minimal_gated(p, x, h):
    p = p | {"gate_size": h.shape[1]}
    f = sigmoid(gate(p, 0, x, h))
    candidate = np.tanh(gate(p, 1, x, f * h))
    h = (1 - f) * h + f * candidate
    return h, {"h": h}


def slstm(p, x, h, c, n, m):
    """Equations 8 to 18 without stabiliser: the true c and n are those of the state times exp(m)."""
    heads = p["weight_hh"].shape[0]
    B, H = h.shape
    per_head = H // heads
    gates = np.zeros((4, B, H))
    for k, head in product(range(4), range(heads)):
        units = slice(head * per_head, (head + 1) * per_head)
        recurrent = p["weight_hh"][head][k * per_head : (k + 1) * per_head]
        everywhere = x @ p["weight_ih"][k * H : (k + 1) * H].T + p["bias"][k * H : (k + 1) * H]
        gates[k][:, units] = everywhere[:, units] + h[:, units] @ recurrent.T
    i, f = np.exp(gates[0]), sigmoid(gates[1])
    c, n = c * np.exp(m), n * np.exp(m)
    c = f * c + i * np.tanh(gates[2])
    n = f * n + i
    h = sigmoid(gates[3]) * c / n
    return h, {"h": h, "c": c, "n": n, "m": np.zeros_like(m)}


def ind_rnn(activation):
    def step(p, x, h):
        h = activation(x @ p["weight_ih"].T + p["weight_hh"] * h + p["bias"])
        return h, {"h": h}

    return step


def recurrent_highway(p, x, h):
    s = h
    H = h.shape[1]
    for k in range(p["weight_hh"].shape[0]):
        a = s @ p["weight_hh"][k].T + p["bias"][k]
        if k == 0:
            a = a + x @ p["weight_ih"].T
        candidate, transform = np.tanh(a[:, :H]), sigmoid(a[:, H:])
        s = candidate * transform + s * (1 - transform)
    return s, {"h": s}


def positive(a):
    return np.where(a >= 0, a + 0.5, sigmoid(a))


def linear(a):
    return a


def min_gru(candidate):
    def step(p, x, h):
        z, n = np.split(x @ p["weight_ih"].T + p.get("bias_ih", 0), 2, 1)
        h = (1 - sigmoid(z)) * h + sigmoid(z) * candidate(n)
        return h, {"h": h}

    return step


def min_lstm(p, x, h):
    f, i, n = np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, 1)
    f, i = sigmoid(f), sigmoid(i)
    h = f / (f + i) * h + i / (f + i) * positive(n)
    return h, {"h": h}


def rg_lru(p, x, h):
    u = x @ p["weight_in"].T if "weight_in" in p else x
    heads, _, d = p["weight_gates"].shape
    H = h.shape[1]
    r, i = np.zeros_like(u), np.zeros_like(u)
    for head in range(heads):
        units = slice(head * d, (head + 1) * d)
        r[:, units] = u[:, units] @ p["weight_gates"][head][:d].T
        i[:, units] = u[:, units] @ p["weight_gates"][head][d:].T
    r, i = sigmoid(r + p["bias_gates"][:H]), sigmoid(i + p["bias_gates"][H:])
    a = sigmoid(p["decay"]) ** (8 * r)
    h = a * h + np.sqrt(1 - a**2) * (i * u)
    return h, {"h": h}


def mlstm(p, x, c, n, m):
    """Equations 19 to 27 without stabiliser, head by head: the true c and n are those of the state times exp(m)."""
    B, heads, d = n.shape
    H = heads * d
    c, n = c * np.exp(m)[:, :, None, None], n * np.exp(m)[:, :, None]
    a = x @ p["weight_ih"].T + p["bias_ih"]
    y, new_c, new_n = np.zeros((B, H)), np.zeros_like(c), np.zeros_like(n)
    for row, head in product(range(B), range(heads)):
        units = [slice(k * H + head * d, k * H + (head + 1) * d) for k in range(4)]
        q, k, v, o = (a[row, part] for part in units)
        k = k / np.sqrt(d)
        i, f = np.exp(a[row, 4 * H + head]), sigmoid(a[row, 4 * H + heads + head])
        new_c[row, head] = f * c[row, head] + i * np.outer(v, k)
        new_n[row, head] = f * n[row, head] + i * k
        y[row, units[0]] = sigmoid(o) * (new_c[row, head] @ q) / max(abs(new_n[row, head] @ q), 1)
    return y, {"c": new_c, "n": new_n, "m": np.zeros_like(m)}


def cfc(mode, timed=False):
    def step(p, x, h):
        elapsed, x = (x[:, -1:], x[:, :-1]) if timed else (1.0, x)
        s = np.concatenate([x, h], 1)
        for layer in (0, 2):
            if f"backbone.{layer}.weight" in p:
                s = 1.7159 * np.tanh(0.666 * (s @ p[f"backbone.{layer}.weight"].T + p[f"backbone.{layer}.bias"]))
        u = s @ p["to_u.weight"].T + p["to_u.bias"]
        if mode == "solution":
            A = p["amplitude"]
            h = A - A * np.exp(-elapsed * (abs(p["time_constant"]) + abs(u))) * u
            return h, {"h": h}
        v, slope, shift = (s @ p[f"to_{k}.weight"].T + p[f"to_{k}.bias"] for k in ("v", "slope", "shift"))
        g = sigmoid(slope * elapsed + shift)
        h = np.tanh(u) + g * np.tanh(v) if mode == "ungated" else (1 - g) * np.tanh(u) + g * np.tanh(v)
        return h, {"h": h}

    return step


def convolution(images, kernels):
    """Cross-correlation with zeros around, pixel by pixel: images [B, I, height, width], kernels [O, I, k, k]."""
    B, _, height, width = images.shape
    k = kernels.shape[2]
    around = np.pad(images, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    result = np.zeros((B, kernels.shape[0], height, width))
    for row, column in product(range(height), range(width)):
        window = around[:, :, row : row + k, column : column + k]
        result[:, :, row, column] = np.einsum("bikl,oikl->bo", window, kernels)
    return result


def conv_lstm(p, x, h, c):
    H = h.shape[1]
    a = convolution(x, p["from_input.weight"]) + convolution(h, p["from_hidden.weight"])
    a = a + p["from_input.bias"][:, None, None]
    i, f, g, o = (a[:, k * H : (k + 1) * H] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, {"h": h, "c": c}


RECURRENCES = {
    "lstm": lstm,
    "lstm-no-bias": lstm,
    "lstm-forget-bias": lstm,
    "lstm-projection": lstm,
    "lstm-activations": partial(lstm, bend=softsign, bend_gate=hard_sigmoid, bend_output=gelu),
    "gru": gru,
    "gru-no-bias": gru,
    "gru-reset-before": gru_reset_before,
    "rnn": rnn(np.tanh),
    "rnn-no-bias": rnn(np.tanh),
    "rnn-relu": rnn(relu),
    "rnn-prelu": with_slopes(rnn),
    "layer-norm-lstm": layer_norm_lstm,
    "layer-norm-lstm-forget-bias": layer_norm_lstm,
    "peephole-lstm": peephole_lstm,
    "peephole-lstm-no-bias": peephole_lstm,
    "peephole-lstm-forget-bias": peephole_lstm,
    "zoneout-lstm": zoneout_lstm(0.5, 0.05),
    "zoneout-lstm-forget-bias": zoneout_lstm(0.5, 0.3),
    "coupled-lstm": coupled_lstm,
    "minimal-gated": minimal_gated,
    "slstm": slstm,
    "slstm-two-heads": slstm,
    "ind-rnn": ind_rnn(relu),
    "ind-rnn-tanh": ind_rnn(np.tanh),
    "ind-rnn-prelu-of-one-slope": with_slopes(ind_rnn),
    "recurrent-highway": recurrent_highway,
    "recurrent-highway-depth-1": recurrent_highway,
    "min-gru": min_gru(positive),
    "min-lstm": min_lstm,
    "rg-lru-two-heads": rg_lru,
    "mlstm-two-heads": mlstm,
    "cfc": cfc("gated"),
    "conv-lstm": conv_lstm,
    "conv-lstm-kernel-1": conv_lstm,
}


def parameters(module):
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def run(step, p, xs, state):
    """A recurrence over [B, T, ...] from a dict of fields; the outputs and the last fields."""
    ys = []
    for t in range(xs.shape[1]):
        y, state = step(p, xs[:, t], **state)
        ys.append(y)
    return np.stack(ys, 1), state
