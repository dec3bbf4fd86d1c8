"""From a layer's options and weights to the layer: a function for each kind that can be read."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from treadle.interop.keras_in import layers, merging
from treadle.interop.keras_in.architecture import Layer
from treadle.interop.keras_in.layer import KerasLayer, Weights, fill
from treadle.interop.keras_in.options import Options
from treadle.interop.keras_in.recurrent import read_bidirectional, read_recurrent

Custom = Callable[[Mapping[str, Any], Sequence[np.ndarray]], nn.Module]
"""What a caller passes for a layer that Keras does not have: from its config and its weights to a module."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads layers.

    Attributes:
        version: of the Keras that wrote them.
        engine: what runs recurrent layers, as of `treadle.Recurrent`.
        custom: by the name of the class, layers that Keras does not have.
        notes: what is other than in Keras, a sentence each; it grows.
    """

    version: str
    engine: str = "auto"
    custom: Mapping[str, Custom] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def custom_of(self, layer: Layer) -> Custom | None:
        """What the caller passed for a layer: by its class, with the package or without."""
        return self.custom.get(layer.kind) or self.custom.get(layer.kind.rpartition(">")[2])

    def read(self, layer: Layer, arrays: Sequence[np.ndarray]) -> KerasLayer:
        """A layer with its weights.

        Raises:
            InteropError: it cannot be read, and why, with its name.
        """
        custom = self.custom_of(layer)
        if custom is not None:
            return layers.CustomLayer(custom(dict(layer.config), list(arrays)))
        options = Options(layer, self.version)
        weights = Weights(options, arrays)
        if layer.is_operation:
            found = _operation(options)
        elif layer.kind == "TimeDistributed":
            found = self._time_distributed(options, weights)
        elif layer.kind in _RECURRENT:
            found = _RECURRENT[layer.kind](options, weights, self.engine, self.notes)
        elif layer.kind in _READERS:
            found = _READERS[layer.kind](options, weights)
        else:
            raise options.error(_WHY_NOT.get(layer.kind, "there is no such layer here, so this model cannot be read"))
        options.finish()
        weights.finish()
        return found

    def _time_distributed(self, options: Options, weights: Weights) -> KerasLayer:
        inner = options.inner()
        if inner.kind in _SEVERAL_STEPS:
            raise options.error(f"a {inner.kind} applied to every step cannot be read")
        return layers.TimeDistributed(self.read(inner, weights.raw()))


_RECURRENT: dict[str, Callable[..., KerasLayer]] = {
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU"), read_recurrent),
    "Bidirectional": read_bidirectional,
}
_SEVERAL_STEPS = ("TimeDistributed", *_RECURRENT)
_CODE = "it holds Python code, which a file must not"
_ATTENTION = "attention cannot be read"
_WHY_NOT = {
    "Lambda": _CODE, "TFOpLambda": "operations of TensorFlow cannot be read", "RNN": "a cell of its own cannot be read",
    **dict.fromkeys(("Attention", "AdditiveAttention", "MultiHeadAttention", "GroupQueryAttention"), _ATTENTION),
    **dict.fromkeys(("ConvLSTM2D", "ConvLSTM1D", "ConvLSTM3D"), "convolutions within a recurrence cannot be read"),
}  # fmt: skip


def _dense(options: Options, weights: Weights) -> KerasLayer:
    units, name, bias = options.number("units"), options.activation(), options.flag("use_bias", True)
    kernel = weights.take("kernel", None, units)
    linear = nn.Linear(kernel.shape[0], units, bias=bias)
    fill(linear, weights.dtype, weight=kernel.T, **({"bias": weights.take("bias", units)} if bias else {}))
    if name == "linear":
        return layers.Stepwise(linear)
    return layers.Stepwise(nn.Sequential(linear, layers.activation(name)))


def _embedding(options: Options, weights: Weights) -> KerasLayer:
    size = options.number("output_dim")
    rows = int(options.ignored("input_dim") or 0)
    table = weights.take("embeddings", rows or None, size)
    module = nn.Embedding(*table.shape)
    fill(module, weights.dtype, weight=table)
    mask_zero = options.flag("mask_zero")
    options.refuse("dropout", 0, None)
    return layers.KerasEmbedding(module, mask_zero)


def _layer_norm(options: Options, weights: Weights) -> KerasLayer:
    options.refuse("axis", -1, [-1], [2])
    options.refuse("rms_scaling", False)
    epsilon, scale, center = options.real("epsilon", 1e-3), options.flag("scale", True), options.flag("center", True)
    given = weights.raw()
    if len(given) != scale + center or not given:
        raise options.error("normalisation without scale and center cannot be read")
    weights.give(given)
    size = given[0].shape[0] if given[0].ndim == 1 else 0
    gamma = weights.take("gamma", size or None) if scale else np.ones(size, np.float32)
    beta = weights.take("beta", size) if center else np.zeros(size, np.float32)
    module = nn.LayerNorm(size, eps=epsilon)
    fill(module, weights.dtype, weight=gamma, bias=beta)
    return layers.Stepwise(module)


def _batch_norm(options: Options, weights: Weights) -> KerasLayer:
    options.refuse("axis", -1, [-1], [2], 2)
    options.refuse("mode", 0, None)
    epsilon, scale, center = options.real("epsilon", 1e-3), options.flag("scale", True), options.flag("center", True)
    gamma = weights.take("gamma", None) if scale else None
    beta = weights.take("beta", None) if center else None
    mean = weights.take("moving mean", None)
    size = mean.shape[0]
    module = nn.BatchNorm1d(size, eps=epsilon, momentum=1 - float(options.ignored("momentum") or 0.99))
    fill(
        module,
        weights.dtype,
        weight=np.ones(size) if gamma is None else gamma,
        bias=np.zeros(size) if beta is None else beta,
        running_mean=mean,
        running_var=weights.take("moving variance", size),
    )
    return layers.KerasNorm(module.eval())


def _softmax(options: Options, weights: Weights) -> KerasLayer:
    options.refuse("axis", -1)
    return layers.Stepwise(nn.Softmax(-1))


def _relu(options: Options, weights: Weights) -> KerasLayer:
    largest, slope = options.take("max_value"), options.real("negative_slope", 0.0)
    options.refuse("threshold", 0, 0.0, None)
    if largest not in (None, 6, 6.0) or (largest is not None and slope):
        raise options.error(f"max_value={largest!r:.40} with negative_slope={slope} cannot be read")
    return layers.Stepwise(nn.LeakyReLU(slope) if slope else nn.ReLU6() if largest else nn.ReLU())


def _leaky_relu(options: Options, weights: Weights) -> KerasLayer:
    old = options.take("alpha")
    return layers.Stepwise(
        nn.LeakyReLU(float(old) if isinstance(old, int | float) else options.real("negative_slope", 0.3))
    )


def _dropout(options: Options, weights: Weights) -> KerasLayer:
    rate = options.real("rate")
    options.refuse("noise_shape", None)
    return layers.Stepwise(nn.Dropout(rate))


def _nothing(options: Options, weights: Weights) -> KerasLayer:
    """What only regularises, and acts in training alone."""
    for name in ("rate", "stddev", "l1", "l2"):
        options.take(name)
    return layers.Stepwise(nn.Identity())


def _shape(name: str) -> Callable[[Options, Weights], KerasLayer]:
    def read(options: Options, weights: Weights) -> KerasLayer:
        numbers = options.take(name) if name else []
        numbers = [numbers] if isinstance(numbers, int) else list(numbers or [])
        if not all(isinstance(number, int) for number in numbers):
            raise options.error(f"{name}={numbers!r:.40} are no sizes")
        options.refuse("data_format", "channels_last", None)
        return layers.KerasShape(options.layer.kind, numbers)

    return read


def _pooling(options: Options, weights: Weights) -> KerasLayer:
    kind = "max" if "Max" in options.layer.kind else "average"
    options.refuse("data_format", "channels_last", None)
    if options.layer.kind.startswith("Global"):
        return layers.KerasPooling(kind, keepdims=options.flag("keepdims"))
    size = options.number("pool_size")
    stride, padding = _one(options, "strides", size), options.take("padding", "valid")
    if padding not in ("valid", "same") or (padding == "same" and kind == "average"):
        raise options.error(f"padding={padding!r:.40} cannot be read")
    return layers.KerasPooling(kind, size, stride, padding == "same")


def _one(options: Options, name: str, usual: int) -> int:
    """A number of steps, which may be a list of one."""
    value = options.take(name)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if value is None:
        return usual
    if not isinstance(value, int) or value < 1:
        raise options.error(f"{name}={value!r:.40} is no number of steps")
    return value


def _convolution_1d(options: Options, weights: Weights) -> KerasLayer:
    filters, size = options.number("filters"), options.number("kernel_size")
    stride, dilation, groups = (_one(options, name, 1) for name in ("strides", "dilation_rate", "groups"))
    padding, name, bias = options.take("padding", "valid"), options.activation(), options.flag("use_bias", True)
    options.refuse("data_format", "channels_last", None)
    if padding not in ("valid", "same", "causal"):
        raise options.error(f"padding={padding!r:.40} cannot be read")
    if options.major < 2:
        raise options.error("convolutions of Keras 1 cannot be read")
    kernel = weights.take("kernel", size, None, filters)
    module = nn.Conv1d(kernel.shape[1] * groups, filters, size, stride, 0, dilation, groups, bias)
    fill(
        module,
        weights.dtype,
        weight=kernel.transpose(2, 1, 0),
        **({"bias": weights.take("bias", filters)} if bias else {}),
    )
    return layers.KerasConv1D(module, padding, layers.activation(name))


def _join(options: Options, weights: Weights) -> KerasLayer:
    return merging.Join(options.layer.kind, options.major >= 3)


def _concatenate(options: Options, weights: Weights) -> KerasLayer:
    axis = options.take("axis", -1)
    if not isinstance(axis, int):
        raise options.error(f"axis={axis!r:.40} cannot be read")
    return merging.Concatenate(axis, options.major >= 3)


def _merge(options: Options, weights: Weights) -> KerasLayer:
    """The one layer of Keras 1 that joins values, in several modes."""
    modes = {"concat": "", "sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum"}
    mode = options.take("mode", "sum")
    if not isinstance(mode, str) or mode not in modes:
        raise options.error(f"mode={mode!r:.40} cannot be read")
    axis = options.take("concat_axis", -1)
    for name in ("dot_axes", "mode_type", "output_shape", "output_shape_type", "output_mask", "output_mask_type"):
        options.take(name)
    options.take("arguments")
    return merging.Join(modes[mode], False) if modes[mode] else merging.Concatenate(axis, False)


def _operation(options: Options) -> KerasLayer:
    if options.layer.kind not in merging.OPERATIONS:
        raise options.error("there is no such operation here, so this model cannot be read")
    taken = {name: options.take(name) for name in ("axis", "keepdims", "dtype") if name in options.layer.config}
    taken["dtype"] = options.layer.config.get("dtype")
    return merging.Operation(options.layer.kind, {name: value for name, value in taken.items() if value is not None})


def _activation_layer(options: Options, weights: Weights) -> KerasLayer:
    return layers.Stepwise(layers.activation(options.activation()))


def _masking(options: Options, weights: Weights) -> KerasLayer:
    return layers.KerasMasking(options.real("mask_value", 0.0))


def _elu(options: Options, weights: Weights) -> KerasLayer:
    return layers.Stepwise(nn.ELU(options.real("alpha", 1.0)))


_READERS: dict[str, Callable[[Options, Weights], KerasLayer]] = {
    "Dense": _dense, "Embedding": _embedding, "Activation": _activation_layer, "Masking": _masking,
    "LayerNormalization": _layer_norm, "BatchNormalization": _batch_norm, "Conv1D": _convolution_1d,
    "Softmax": _softmax, "ReLU": _relu, "LeakyReLU": _leaky_relu, "ELU": _elu, "Dropout": _dropout,
    **dict.fromkeys(("SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"), _nothing),
    "ActivityRegularization": _nothing, "Flatten": _shape(""), "Reshape": _shape("target_shape"),
    "Permute": _shape("dims"), "RepeatVector": _shape("n"),
    **dict.fromkeys(
        ("MaxPooling1D", "AveragePooling1D", "GlobalMaxPooling1D", "GlobalAveragePooling1D"), _pooling
    ),
    **dict.fromkeys(merging.JOINS, _join), "Concatenate": _concatenate, "Merge": _merge, "TimeDistributedDense": _dense,
}  # fmt: skip
