"""Layers of Keras with the weights of treadle's cells and of PyTorch's layers."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from treadle.interop.keras_in.gates import to_keras_layout
from treadle.interop.keras_in.layers import NamedActivation
from treadle.interop.keras_out.parts import CELLS, Part, refuse

_ACTIVATIONS: dict[type, str] = {
    nn.Identity: "linear", nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SiLU: "silu",
    nn.SELU: "selu", nn.Softsign: "softsign", nn.Mish: "mish", nn.Hardtanh: "hard_tanh", nn.Hardsigmoid: "hard_sigmoid",
    nn.ELU: "elu", nn.GELU: "gelu", nn.Softplus: "softplus", nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax",
}  # fmt: skip
_AS_USUAL = {
    "alpha": 1.0,
    "approximate": "none",
    "beta": 1.0,
    "threshold": 20.0,
    "dim": -1,
    "min_val": -1.0,
    "max_val": 1.0,
}
"""What their options have to be."""
_OWN = {"hard_sigmoid_1/6": "hard_sigmoid", "hard_sigmoid_0.2": None, "gelu_tanh": None}
"""Functions of cells that Keras 3 calls otherwise, or does not have."""

Arrays = list[np.ndarray]


def layer_of(keras: Any, part: Part, name: str, dtype: str) -> tuple[Any, Arrays]:
    """The layer of a part, and its weights in Keras' order.

    Raises:
        InteropError: Keras has no such layer.
    """
    if part.module is not None:
        return _without_memory(keras, part, name, dtype)
    if part.back is None:
        return _recurrent(keras, part.ahead, part.name, bool(part.every), name=name, dtype=dtype)
    ahead, arrays = _recurrent(keras, part.ahead, part.name, bool(part.every), dtype=dtype)
    options = {"go_backwards": True, "dtype": dtype}
    back, others = _recurrent(keras, part.back, part.name, bool(part.every), **options)
    return keras.layers.Bidirectional(ahead, backward_layer=back, name=name, dtype=dtype), [*arrays, *others]


def _recurrent(keras: Any, cell: Any, where: str, return_sequences: bool, **options: Any) -> tuple[Any, Arrays]:
    kind = CELLS[type(cell)]
    if kind == "SimpleRNN":
        options["activation"] = _named(where, cell.nonlinearity)
    else:
        options |= {"activation": _named(where, cell.activation)}
        options |= {"recurrent_activation": _named(where, cell.gate_activation)}
    if kind == "GRU":
        options["reset_after"] = cell.reset_after
    arrays = [to_keras_layout(kind, _array(weight).T) for weight in (cell.weight_ih, cell.weight_hh)]
    if cell.bias:
        both = to_keras_layout(kind, np.stack([_array(cell.bias_ih), _array(cell.bias_hh)]))
        arrays.append(both if kind == "GRU" and cell.reset_after else both.sum(0))
    options |= {"use_bias": bool(cell.bias), "return_sequences": return_sequences}
    return getattr(keras.layers, kind)(cell.hidden_size, **options), arrays


def _named(where: str, activation: Any) -> str:
    name = _OWN.get(activation, activation) if isinstance(activation, str) else None
    if name is None:
        raise refuse(where, f"it has no activation {activation!r:.60}")
    return name


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _without_memory(keras: Any, part: Part, name: str, dtype: str) -> tuple[Any, Arrays]:
    module: Any = part.module
    layers, of = keras.layers, {"name": name, "dtype": dtype}
    biases = [] if getattr(module, "bias", None) is None else [_array(module.bias)]
    if isinstance(module, nn.Linear):
        return layers.Dense(module.out_features, use_bias=bool(biases), **of), [_array(module.weight).T, *biases]
    if isinstance(module, nn.Embedding) and module.max_norm is None:
        return layers.Embedding(module.num_embeddings, module.embedding_dim, **of), [_array(module.weight)]
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        scale = [] if module.weight is None else [_array(module.weight)]
        of |= {"epsilon": module.eps, "scale": bool(scale), "center": bool(biases)}
        return layers.LayerNormalization(**of), [*scale, *biases]
    if isinstance(module, nn.Dropout):
        return layers.Dropout(module.p, **of), []
    if isinstance(module, NamedActivation):
        return layers.Activation(_named(part.name, module.name), **of), []
    if isinstance(module, nn.LeakyReLU):
        return layers.LeakyReLU(negative_slope=module.negative_slope, **of), []
    usual = all(getattr(module, option, usual) == usual for option, usual in _AS_USUAL.items())
    if type(module) in _ACTIVATIONS and usual:
        return layers.Activation(_ACTIVATIONS[type(module)], **of), []
    raise refuse(part.name, f"it has no {module!r:.60}")
