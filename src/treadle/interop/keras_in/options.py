"""What a layer of Keras is asked for, whichever version wrote it down; what is not known is refused."""

from collections.abc import Mapping
from typing import Any

from treadle import cells
from treadle.errors import InteropError
from treadle.interop.keras_in.architecture import Layer, read_layer

_HARMLESS = frozenset(
    "name trainable dtype batch_input_shape batch_shape input_shape input_dtype input_dim input_length seed"
    " kernel_initializer recurrent_initializer bias_initializer embeddings_initializer beta_initializer"
    " gamma_initializer moving_mean_initializer moving_variance_initializer beta_init gamma_init init inner_init"
    " forget_bias_init unit_forget_bias kernel_regularizer recurrent_regularizer bias_regularizer"
    " embeddings_regularizer activity_regularizer beta_regularizer gamma_regularizer W_regularizer U_regularizer"
    " b_regularizer kernel_constraint recurrent_constraint bias_constraint embeddings_constraint beta_constraint"
    " gamma_constraint W_constraint U_constraint b_constraint implementation consume_less unroll sparse ragged optional"
    " momentum renorm renorm_momentum renorm_clipping"
    " virtual_batch_size adjustment synchronized experimental_autocast dropout_W dropout_U".split()
)
"""What says how weights begin, how they are trained, or how a result is computed, and not what is computed."""

_TODAY = {
    "output_dim": "units", "inner_activation": "recurrent_activation", "nb_filter": "filters", "p": "rate",
    "filter_length": "kernel_size", "subsample_length": "strides", "border_mode": "padding", "bias": "use_bias",
    "pool_length": "pool_size", "stride": "strides", "sigma": "stddev", "atrous_rate": "dilation_rate",
}  # fmt: skip
"""Options of Keras 1 by the names that they have had since Keras 2."""

ACTIVATIONS = frozenset({*cells.ACTIVATIONS, "softmax", "log_softmax", "leaky_relu"} - {"gelu_tanh"})
"""The functions that a layer may name; both meanings of ``hard_sigmoid`` have a name here."""


_ALSO = {"swish": "silu", "hard_swish": "hard_silu"}


class Options:
    """The options of a layer, which are taken one by one; `finish` refuses what is left.

    Args:
        layer: the layer.
        version: of the Keras that wrote it, ``"2.2.4-tf"`` for example.
    """

    def __init__(self, layer: Layer, version: str):
        self.layer, self.version, self.major = layer, version, major(version)
        config = dict(layer.config)
        if self.major < 2:
            old = {} if layer.kind == "Embedding" else _TODAY
            config = {old.get(key, key): value for key, value in config.items()}
        self._left = {key: value for key, value in config.items() if key not in _HARMLESS}
        self._config = config
        self._check_precision()

    def error(self, why: str) -> InteropError:
        """The refusal of this layer."""
        return InteropError(f"layer {self.layer.name!r} ({self.layer.kind}): {why}")

    def take(self, name: str, usual: Any = None) -> Any:
        """An option, as it is."""
        return self._left.pop(name, usual)

    def ignored(self, name: str) -> Any:
        """An option that only says how the layer is trained."""
        return self._config.get(name)

    def number(self, name: str) -> int:
        """A whole number above zero."""
        value = self.take(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise self.error(f"{name}={value!r:.40} is no number of features or steps")
        return value

    def real(self, name: str, usual: float | None = None) -> float:
        """A number; Keras 3 may write it as an array of one."""
        value = self.take(name, usual)
        if isinstance(value, Mapping) and value.get("class_name") in ("__numpy__", "__tensor__"):
            value = value["config"]["value"]
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(f"{name}={value!r:.40} is no number")
        return float(value)

    def flag(self, name: str, usual: bool = False) -> bool:
        """A switch."""
        return bool(self.take(name, usual))

    def activation(self, name: str = "activation", usual: str = "linear") -> str:
        """The name of an activation; those that changed their meaning have a name for each meaning."""
        value = self.take(name, usual)
        if isinstance(value, Mapping) and value.get("class_name") == "function":
            value = value.get("config")
        value = "linear" if value is None else value
        if value == "hard_sigmoid":
            return "hard_sigmoid_0.2" if self.major < 3 else "hard_sigmoid_1/6"
        value = _ALSO.get(value, value) if isinstance(value, str) else value
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.error(f"{name}={_shown(value)} cannot be read: only {', '.join(sorted(ACTIVATIONS))}")
        return value

    def refuse(self, name: str, *allowed: Any) -> None:
        """An option of which only some values can be read."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise self.error(f"{name}={value!r:.40} cannot be read: only {' or '.join(map(repr, allowed))}")

    def inner(self, name: str = "layer") -> Layer:
        """A layer within this one."""
        value = self.take(name)
        try:
            return read_layer(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise self.error(f"{name} is no layer ({type(error).__name__})") from None

    def finish(self) -> None:
        """Refuse what nobody took, but for what is left out."""
        left = sorted(key for key, value in self._left.items() if value is not None)
        if left:
            raise self.error(f"what {', '.join(left)} ask for is not known, so it cannot be read")

    def _check_precision(self) -> None:
        dtype = self._config.get("dtype", "float32")
        if isinstance(dtype, Mapping):
            policy = dtype.get("config") or {}
            dtype = policy.get("name") if dtype.get("class_name") in ("DTypePolicy", "Policy") else dtype
        if not self.layer.is_operation and dtype not in ("float32", "float64", None):
            raise self.error(f"it computes in {dtype!r:.60}: only float32 and float64 can be read")
        self.is_double = dtype == "float64"
        if self._left.pop("quantization_config", None) is not None:
            raise self.error("its weights are quantised, which cannot be read")


def major(version: str) -> int:
    """The first number of a version: what wrote a file without one is Keras 1."""
    first = version.split(".")[0]
    return int(first) if first.isdigit() else 1


def is_tensorflow(version: str) -> bool:
    """Whether a file of Keras 2 is of TensorFlow's own Keras, which became the only one with 2.4."""
    numbers = [int(part) for part in version.removesuffix("-tf").split(".")[:2] if part.isdigit()]
    return version.endswith("-tf") or numbers >= [2, 4]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {value.get('class_name')!r:.40}"
    return repr(value)[:60]
