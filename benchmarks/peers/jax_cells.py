"""The equations of the cells in JAX, over the parameters of the PyTorch modules under their names.

A step is ``(parameters, x, state, noise) -> state``, where the first of the state is the output.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

Parameters = dict[str, Any]
State = tuple[Any, ...]


class JaxCell(NamedTuple):
    """A step, how many tensors its state has, and with which probabilities they are kept at random."""

    step: Callable[[Parameters, Any, State, Any], State]
    fields: int
    keep: tuple[float, ...] = ()


def gates(p: Parameters, x: Any, h: Any) -> Any:
    return x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]


def lstm(p: Parameters, x: Any, state: State, _: Any) -> State:
    h, c = state
    i, f, g, o = jnp.split(gates(p, x, h), 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def layer_norm(a: Any, gain: Any, shift: Any = 0.0) -> Any:
    return (a - a.mean(1, keepdims=True)) * jax.lax.rsqrt(a.var(1, keepdims=True) + 1e-5) * gain + shift


def layer_norm_lstm(p: Parameters, x: Any, state: State, _: Any) -> State:
    h, c = state
    read = layer_norm(x @ p["weight_ih"].T, p["norm_input.weight"])
    i, f, g, o = jnp.split(read + layer_norm(h @ p["weight_hh"].T, p["norm_hidden.weight"]) + p["bias"], 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(layer_norm(c, p["norm_cell.weight"], p["norm_cell.bias"])), c


def peephole_lstm(p: Parameters, x: Any, state: State, _: Any) -> State:
    h, c = state
    i, f, g, o = jnp.split(gates(p, x, h), 4, 1)
    p_i, p_f, p_o = p["weight_peephole"]
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * jnp.tanh(g)
    return sigmoid(o + p_o * c) * jnp.tanh(c), c


def zoneout_lstm(p: Parameters, x: Any, state: State, noise: Any) -> State:
    after = lstm(p, x, state, None)
    return tuple(jnp.where(kept, old, new) for kept, old, new in zip(noise, state, after, strict=True))


def prelu_gru(p: Parameters, x: Any, state: State, _: Any) -> State:
    (h,) = state
    r_x, z_x, n_x = jnp.split(x @ p["weight_ih"].T + p["bias_ih"], 3, 1)
    r_h, z_h, n_h = jnp.split(h @ p["weight_hh"].T + p["bias_hh"], 3, 1)
    a = n_x + sigmoid(r_x + r_h) * n_h
    n = jnp.where(a >= 0, a, p["slope"] * a)
    return (n + sigmoid(z_x + z_h) * (h - n),)


def multiplicative(p: Parameters, x: Any, state: State, _: Any) -> State:
    h, trace = state
    of_x, of_h = x @ p["weight_ih"].T, h @ p["weight_hh"].T
    a = p["both"] * of_x * of_h + p["of_state"] * of_h + p["of_input"] * of_x
    gate, value = jnp.split(layer_norm(a, p["norm.weight"], p["norm.bias"]), 2, 1)
    gate = jax.nn.softplus(gate)
    trace = trace + sigmoid(p["keep"]) * (h - trace)
    n = jnp.where(value >= 0, value, p["slope"] * value)
    return trace + gate / (1 + gate) * (n - trace), trace


def sieving(p: Parameters, x: Any, state: State, _: Any) -> State:
    (h,) = state
    read = x @ p["read_sieve.weight"].T + p["read_sieve.bias"]
    sieve = jax.nn.softmax(read + h @ p["hidden_sieve.weight"].T, 1)
    value = x @ p["read_value.weight"].T + p["read_value.bias"]
    value = value + (h.shape[1] * sieve * h) @ p["hidden_value.weight"].T
    keep = sigmoid(p["keep"])
    return (keep * h + (1 - keep) * value * sigmoid(p["slope"] * value),)


CELLS = {
    "layer-norm LSTM": JaxCell(layer_norm_lstm, 2),
    "peephole LSTM": JaxCell(peephole_lstm, 2),
    "zoneout LSTM": JaxCell(zoneout_lstm, 2, keep=(0.05, 0.5)),
    "PReLU GRU": JaxCell(prelu_gru, 1),
    "multiplicative cell": JaxCell(multiplicative, 2),
    "sieving cell": JaxCell(sieving, 1),
}
