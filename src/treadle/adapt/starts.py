"""How new weights start."""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor

Start: TypeAlias = Literal["zeros", "xavier", "mean", "fresh"]
"""How new weights start: at zero, uniform as Glorot and Bengio drew them for the fan of the tensor, as the mean of the
old ones along the axis, or as the network that is filled had them."""

STARTS = ("zeros", "xavier", "mean", "fresh")


def _xavier(value: Tensor, tensor: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    bound = math.sqrt(6 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
    return value.new_empty(shape).uniform_(-bound, bound)


STARTED: dict[str, Callable[[Tensor, Tensor, tuple[int, ...], int], Tensor]] = {
    "zeros": lambda value, tensor, shape, axis: value.new_zeros(shape),
    "xavier": _xavier,
    "mean": lambda value, tensor, shape, axis: value.mean(axis, keepdim=True).expand(shape).clone(),
    "fresh": lambda value, tensor, shape, axis: tensor.clone(),
}
