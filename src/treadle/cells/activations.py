"""What bends the units and gates of a cell: functions of one number each, by name, or any module or function."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.errors import ShapeError

Activation: TypeAlias = str | nn.Module | Callable[[Tensor], Tensor]
"""A name in `ACTIVATIONS`, or what is called with [B, H]: a module, such as `torch.nn.PReLU`, or a function."""


def _linear(x: Tensor) -> Tensor:
    return x


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _hard_sigmoid(x: Tensor, slope: float) -> Tensor:
    # Not `F.hardsigmoid`: its derivative takes 1/6 in float32, whatever x is.
    return F.hardtanh(x * slope + 0.5, 0, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "relu6": F.relu6,
    "elu": F.elu,
    "selu": torch.selu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "exponential": torch.exp,
    "hard_tanh": F.hardtanh,
    "hard_silu": F.hardswish,
    "hard_sigmoid_0.2": partial(_hard_sigmoid, slope=0.2),
    "hard_sigmoid_1/6": partial(_hard_sigmoid, slope=1 / 6),
}
"""The functions that have a name. None takes a number: those that do, a slope for instance, are modules."""

_TWO_FUNCTIONS = {"hard_sigmoid", "hardsigmoid", "hard-sigmoid"}


def function_of(activation: Activation) -> Callable[[Tensor], Tensor]:
    """The function that an activation names, or is."""
    return ACTIVATIONS[activation] if isinstance(activation, str) else activation


def check_activation(option: str, activation: Any, hidden_size: int) -> None:
    """Refuse what cannot bend ``hidden_size`` units; ``option`` is where it was passed.

    Raises:
        ValueError: there is no such function, or it is a class where an instance is wanted.
        ShapeError: slopes for another number of units.
    """
    if isinstance(activation, str) and activation.lower() in _TWO_FUNCTIONS:
        raise ValueError(
            f"{option}={activation!r} is one of two functions: pass 'hard_sigmoid_0.2' for 0.2x + 0.5, which Keras 1"
            " and 2 and ONNX call so, or 'hard_sigmoid_1/6' for x/6 + 0.5, as PyTorch and Keras 3 do"
        )
    if isinstance(activation, type):
        raise ValueError(f"{option} is the class {activation.__name__}: pass an instance, {activation.__name__}(…)")
    if not callable(activation) and not (isinstance(activation, str) and activation in ACTIVATIONS):
        raise ValueError(
            f"{option} is one of {', '.join(map(repr, ACTIVATIONS))}, or a module such as"
            f" torch.nn.PReLU({hidden_size}), but {activation!r:.60} was passed"
        )
    if isinstance(activation, nn.PReLU) and activation.num_parameters not in (1, hidden_size):
        raise ShapeError(
            f"PReLU({activation.num_parameters}) has {activation.num_parameters} slopes, but the cell has"
            f" {hidden_size} units: pass PReLU({hidden_size}), a slope for each, or PReLU(), one for all"
        )
