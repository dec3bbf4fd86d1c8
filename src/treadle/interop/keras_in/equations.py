"""Keras' layers as its documentation writes them, in NumPy and float64: the other side where there is no Keras.

Each function reads a layer's config, its weights, and values with their masks; it gives values with masks. They are
written for comparison alone: plain, slow, and apart from the layers that they are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from treadle.interop.keras_in.architecture import Architecture, Layer, read_layer
from treadle.interop.keras_in.gates import GATES, todays_layout
from treadle.interop.keras_in.options import Options, is_tensorflow

Array = np.ndarray
Pair = tuple[Array, Array | None]
"""A value and its mask."""


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, 0)


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _gelu(x: Array) -> Array:
    from math import erf

    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x, "tanh": np.tanh, "sigmoid": _sigmoid, "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6), "elu": _elu, "exponential": np.exp, "softplus": _softplus,
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "softsign": lambda x: x / (1 + np.abs(x)), "gelu": _gelu, "silu": lambda x: x * _sigmoid(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x), "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(_softplus(x)), "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_sigmoid_0.2": lambda x: np.clip(0.2 * x + 0.5, 0, 1), "log_softmax": _log_softmax,
    "hard_sigmoid_1/6": lambda x: np.clip(x + 3, 0, 6) / 6, "softmax": lambda x: np.exp(_log_softmax(x)),
}  # fmt: skip


class Equations:
    """A model as its equations.

    Args:
        architecture: its layers and their calls.
        arrays: the weights of each layer.
        version: of the Keras that wrote it.
        own: layers by name that have no equations: functions of arrays.
    """

    def __init__(
        self,
        architecture: Architecture,
        arrays: Mapping[str, Sequence[Array]],
        version: str,
        own: Mapping[str, Callable[..., Array]],
    ):
        self.architecture, self.arrays, self.version, self.own = architecture, arrays, version, own

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The model's outputs."""
        known: dict[Any, Pair] = {
            (name, 0): (x, None) for name, x in zip(self.architecture.inputs, inputs, strict=True)
        }
        with np.errstate(over="ignore"):
            for call in self.architecture.calls:
                read = [known[one] if isinstance(one, tuple) else (np.asarray(one), None) for one in call.inputs]
                if isinstance(call.options.get("mask"), tuple):
                    read[0] = (read[0][0], known[call.options["mask"]][0])
                if call.options.get("ignore_mask"):
                    read[0] = (read[0][0], None)
                state = call.options.get("initial_state") or []
                read += [known[one] for one in (state if isinstance(state, list) else [state])]
                found = self._layer(self.architecture.layers[call.layer], self.arrays.get(call.layer, ()), read)
                known |= {
                    (call.output, n): pair for n, pair in enumerate(found if isinstance(found, list) else [found])
                }
        return [known[value][0] for value in self.architecture.outputs]

    def _layer(self, layer: Layer, arrays: Sequence[Array], read: Sequence[Pair]) -> Any:
        arrays = [np.asarray(one, dtype=np.float64) for one in arrays]
        if layer.name in self.own:
            return self.own[layer.name](*(x for x, _ in read)), None
        if layer.is_operation:
            return _operation(layer, [x for x, _ in read]), None
        options = Options(layer, self.version)
        if layer.kind == "TimeDistributed":
            return self._time_distributed(layer, arrays, read[0])
        if layer.kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Merge"):
            return _joined(options, read)
        return _LAYERS[layer.kind](options, arrays, *read)

    def _time_distributed(self, layer: Layer, arrays: Sequence[Array], value: Pair) -> Pair:
        x, mask = value
        inner = read_layer(layer.config["layer"])
        steps = [self._layer(inner, arrays, [(x[:, t], None)])[0] for t in range(x.shape[1])]
        return np.stack(steps, 1), mask


def _dense(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    y = value[0] @ arrays[0]
    y = y + arrays[1] if options.flag("use_bias", True) else y
    return _ACTIVATIONS[options.activation()](y), value[1]


def _embedding(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    numbers = value[0].astype(int)
    return arrays[0][numbers], numbers != 0 if options.flag("mask_zero") else None


def _masking(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    counts = np.any(value[0] != options.real("mask_value", 0.0), -1)
    return value[0] * counts[..., None], counts


def _layer_norm(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    x, left = value[0], list(arrays)
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + options.real("epsilon", 1e-3))
    y = y * left.pop(0) if options.flag("scale", True) else y
    return y + left.pop(0) if options.flag("center", True) else y, value[1]


def _batch_norm(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    *learned, mean, variance = arrays
    y = (value[0] - mean) / np.sqrt(variance + options.real("epsilon", 1e-3))
    y = y * learned.pop(0) if options.flag("scale", True) else y
    return y + learned.pop(0) if options.flag("center", True) else y, value[1]


def _convolution(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    kernel, x = arrays[0], value[0]
    size, step, apart = kernel.shape[0], _one(options, "strides"), _one(options, "dilation_rate")
    reach, padding, groups = apart * (size - 1), options.take("padding", "valid"), _one(options, "groups")
    if padding == "causal":
        x = np.pad(x, ((0, 0), (reach, 0), (0, 0)))
    elif padding == "same":
        short = max((-(-x.shape[1] // step) - 1) * step + reach + 1 - x.shape[1], 0)
        x = np.pad(x, ((0, 0), (short // 2, short - short // 2), (0, 0)))
    ys = []
    for t in range(0, x.shape[1] - reach, step):
        window = x[:, t : t + reach + 1 : apart]
        parts = zip(np.split(window, groups, -1), np.split(kernel, groups, -1), strict=True)
        ys.append(np.concatenate([np.einsum("bki,kio->bo", one, own) for one, own in parts], -1))
    y = np.stack(ys, 1)
    y = y + arrays[1] if options.flag("use_bias", True) else y
    return _ACTIVATIONS[options.activation()](y), None


def _one(options: Options, name: str) -> int:
    value = options.take(name, 1)
    return value[0] if isinstance(value, list) else value or 1


def _pooling(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    x, mask = value
    largest = "Max" in options.layer.kind
    if options.layer.kind.startswith("Global"):
        keep = options.flag("keepdims")
        if largest or mask is None:
            return (x.max if largest else x.mean)(1, keepdims=keep), None
        return (x * mask[..., None]).sum(1, keepdims=keep) / mask.sum(1).reshape(-1, *[1] * (1 + keep)), None
    size = options.take("pool_size")
    size = size[0] if isinstance(size, list) else size
    step = options.take("strides") or size
    step = step[0] if isinstance(step, list) else step
    if options.take("padding") == "same":
        short = max((-(-x.shape[1] // step) - 1) * step + size - x.shape[1], 0)
        x = np.pad(x, ((0, 0), (short // 2, short - short // 2), (0, 0)), constant_values=-np.inf)
    windows = [x[:, t : t + size] for t in range(0, x.shape[1] - size + 1, step)]
    return np.stack([window.max(1) if largest else window.mean(1) for window in windows], 1), None


def _activation(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    return _ACTIVATIONS[options.activation()](value[0]), value[1]


def _softmax(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    return _ACTIVATIONS["softmax"](value[0]), value[1]


def _slopes(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    """ReLU, LeakyReLU and ELU, the layers."""
    x, kind = value[0], options.layer.kind
    if kind == "ELU":
        return np.where(x > 0, x, options.real("alpha", 1.0) * np.expm1(np.minimum(x, 0))), value[1]
    old = options.take("alpha") if kind == "LeakyReLU" else None
    slope = old if isinstance(old, int | float) else options.real("negative_slope", 0.3 if kind == "LeakyReLU" else 0.0)
    return np.minimum(np.where(x > 0, x, slope * x), options.take("max_value") or np.inf), value[1]


def _unchanged(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    return value


def _shape(options: Options, arrays: Sequence[Array], value: Pair) -> Pair:
    x, kind = value[0], options.layer.kind
    if kind == "Permute":
        return x.transpose(0, *options.take("dims")), None
    if kind == "RepeatVector":
        return np.repeat(x[:, None], options.take("n"), 1), None
    return x.reshape(len(x), *(options.take("target_shape") if kind == "Reshape" else [-1])), None


def _joined(options: Options, read: Sequence[Pair]) -> Pair:
    kind, masks = options.layer.kind, [mask for _, mask in read]
    if kind == "Merge":
        modes = {"concat": "Concatenate", "sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum"}
        kind = modes[options.take("mode", "sum")]
    xs = [x for x, _ in read]
    today = options.major >= 3
    if kind == "Concatenate":
        axis = options.take("axis", options.take("concat_axis", -1))
        if not any(mask is not None for mask in masks):
            return np.concatenate(xs, axis), None
        spread = [
            np.ones(x.shape, bool) if mask is None else mask[..., None] & np.ones(x.shape, bool) for x, mask in read
        ]
        return np.concatenate(xs, axis), (np.any if today else np.all)(np.concatenate(spread, axis), -1)
    functions: dict[str, Callable[..., Array]] = {
        "Add": np.sum, "Average": np.mean, "Multiply": np.prod, "Maximum": np.max, "Minimum": np.min,
    }  # fmt: skip
    y = xs[0] - xs[1] if kind == "Subtract" else functions[kind](np.stack(xs), 0)
    known = [mask for mask in masks if mask is not None]
    if not known or (today and len(known) < len(masks)):
        return y, None
    return y, (np.any if today else np.all)(np.stack(known), 0)


def _operation(layer: Layer, xs: Sequence[Array]) -> Array:
    functions: dict[str, Callable[..., Array]] = {
        "Add": np.add, "Subtract": np.subtract, "Multiply": np.multiply, "Divide": np.divide, "TrueDivide": np.divide,
        "NotEqual": np.not_equal, "Equal": np.equal, "LogicalOr": np.logical_or, "LogicalAnd": np.logical_and,
        "LogicalNot": np.logical_not, "ExpandDims": np.expand_dims, "Squeeze": np.squeeze, "ZerosLike": np.zeros_like,
        "OnesLike": np.ones_like, "Any": np.any, "Concatenate": lambda *of, axis: np.concatenate(of, axis),
    }  # fmt: skip
    options = {
        key: value for key, value in layer.config.items() if key in ("axis", "keepdims", "dtype") and value is not None
    }
    return functions[layer.kind](*xs, **options)


def _lstm(
    x: Array, state: list[Array], weights: Sequence[Array], bend: Any, gate: Any, options: Options
) -> list[Array]:
    h, c = state
    z = x @ weights[0] + h @ weights[1] + (weights[2] if len(weights) > 2 else 0)
    i, f, g, o = np.split(z, 4, -1)
    c = gate(f) * c + gate(i) * bend(g)
    return [gate(o) * bend(c), c]


def _gru(x: Array, state: list[Array], weights: Sequence[Array], bend: Any, gate: Any, options: Options) -> list[Array]:
    (h,) = state
    bias = weights[2] if len(weights) > 2 else np.zeros(weights[0].shape[1])
    outside, inside = (bias[0], bias[1]) if bias.ndim == 2 else (bias, np.zeros_like(bias))
    xz, xr, xh = np.split(x @ weights[0] + outside, 3, -1)
    uz, ur, uh = np.split(weights[1], 3, -1)
    bz, br, bh = np.split(inside, 3, -1)
    z, r = gate(xz + h @ uz + bz), gate(xr + h @ ur + br)
    after = bias.ndim == 2 if len(weights) > 2 else bool(options.ignored("reset_after"))
    new = bend(xh + r * (h @ uh + bh)) if after else bend(xh + (r * h) @ uh)
    return [z * h + (1 - z) * new]


def _simple(
    x: Array, state: list[Array], weights: Sequence[Array], bend: Any, gate: Any, options: Options
) -> list[Array]:
    return [bend(x @ weights[0] + state[0] @ weights[1] + (weights[2] if len(weights) > 2 else 0))]


_STEPS = {"LSTM": _lstm, "GRU": _gru, "SimpleRNN": _simple}


def _over_time(
    options: Options, arrays: Sequence[Array], value: Pair, states: Sequence[Pair], zeros: bool | None = None
) -> tuple[Array, list[Array]]:
    """Step after step, as K.rnn does: a masked step gives the output before it again, and keeps the state."""
    kind = options.layer.kind.removeprefix("CuDNN")
    weights = todays_layout(kind, arrays)[: 2 + bool(options.ignored("use_bias") is not False)]
    today = options.major >= 3 or is_tensorflow(options.version) or options.layer.kind != kind
    bend = _ACTIVATIONS[options.activation(usual="tanh")]
    gate = _ACTIVATIONS[options.activation("recurrent_activation", "sigmoid" if today else "hard_sigmoid")]
    (xs, mask), H = value, weights[1].shape[0]
    zeros = options.flag("zero_output_for_mask") if zeros is None else zeros
    state = [x for x, _ in states] or [np.zeros((len(xs), H))] * (2 if kind == "LSTM" else 1)
    steps = range(xs.shape[1])
    y, ys = np.zeros((len(xs), H)), []
    for t in reversed(steps) if options.ignored("go_backwards") else steps:
        after = _STEPS[kind](xs[:, t], state, weights, bend, gate, options)
        counts = np.ones((len(xs), 1), bool) if mask is None else mask[:, t, None]
        y = np.where(counts, after[0], 0 if zeros else y)
        state = [np.where(counts, new, old) for new, old in zip(after, state, strict=True)]
        ys.append(y)
    return np.stack(ys, 1), state


def _recurrent(options: Options, arrays: Sequence[Array], value: Pair, *states: Pair) -> Any:
    ys, state = _over_time(options, arrays, value, states)
    y = (ys, value[1]) if options.flag("return_sequences") else (ys[:, -1], None)
    return [y, *((part, None) for part in state)] if options.flag("return_state") else y


def _bidirectional(options: Options, arrays: Sequence[Array], value: Pair, *states: Pair) -> Any:
    layers = [read_layer(options.ignored("layer"))]
    other = options.ignored("backward_layer")
    turned = dict(layers[0].config) | {"go_backwards": not layers[0].config.get("go_backwards")}
    layers.append(read_layer(other) if other else Layer(layers[0].name, layers[0].kind, turned))
    each = Options(layers[0], options.version)
    whole = each.flag("return_sequences")
    if layers[0].config.get("stateful"):
        arrays = arrays[: 2 * (2 + bool(layers[0].config.get("use_bias", True)))]
    zeros = whole and (options.major >= 3 or is_tensorflow(options.version))
    half, middle, ends = len(arrays) // 2, len(states) // 2, []
    sides = ((layers[0], arrays[:half], states[:middle]), (layers[1], arrays[half:], states[middle:]))
    for layer, own, before in sides:
        ends.append(_over_time(Options(layer, options.version), own, value, before, zeros))
    (one, end), (back, back_end) = ends
    one, back = (one, back[:, ::-1]) if whole else (one[:, -1], back[:, -1])
    mode, mask = options.take("merge_mode", "concat"), value[1] if whole else None
    merged = {"sum": lambda: one + back, "ave": lambda: (one + back) / 2, "mul": lambda: one * back}
    merged["concat"] = lambda: np.concatenate([one, back], -1)
    found: list[Pair] = [(one, mask), (back, mask)] if mode is None else [(merged[mode](), mask)]
    return found + [(part, None) for part in (*end, *back_end)] if each.flag("return_state") else found


_LAYERS: dict[str, Callable[..., Any]] = {
    "Dense": _dense, "TimeDistributedDense": _dense, "Embedding": _embedding, "Masking": _masking,
    "LayerNormalization": _layer_norm, "BatchNormalization": _batch_norm, "Conv1D": _convolution,
    "Activation": _activation, "Softmax": _softmax, "Bidirectional": _bidirectional,
    **dict.fromkeys(("ReLU", "LeakyReLU", "ELU"), _slopes),
    **dict.fromkeys(("MaxPooling1D", "AveragePooling1D", "GlobalMaxPooling1D", "GlobalAveragePooling1D"), _pooling),
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"), _unchanged),
    "ActivityRegularization": _unchanged,
    **dict.fromkeys(("Flatten", "Reshape", "Permute", "RepeatVector"), _shape),
    **dict.fromkeys((*GATES, "CuDNNLSTM", "CuDNNGRU"), _recurrent),
}  # fmt: skip
