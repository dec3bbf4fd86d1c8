"""In which order libraries lay the gates of a layer beside each other, and the way from one order to another."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

OURS = {"LSTM": "ifgo", "GRU": "rzn", "RNN": "n"}
"""PyTorch's, and so treadle's: input, forget, cell and output gate; reset, update and candidate."""
ONNX = {"LSTM": "iofg", "GRU": "zrn", "RNN": "n"}
KERAS = {"LSTM": "ifgo", "GRU": "zrn", "RNN": "n"}

A = TypeVar("A", Tensor, np.ndarray)


def reordered(array: A, given: Sequence[str], wanted: Sequence[str], axis: int = 0) -> A:
    """Equal blocks of an axis, named in the order in which they are given, in the order that is wanted."""
    size = array.shape[axis] // len(given)
    places = np.concatenate([np.arange(size) + size * list(given).index(gate) for gate in wanted])
    if isinstance(array, Tensor):
        return array.index_select(axis, torch.from_numpy(places).to(array.device))
    return np.take(array, places, axis)
