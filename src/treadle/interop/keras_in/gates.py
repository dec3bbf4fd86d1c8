"""The weights of recurrent layers: every layout that Keras has written as that of today, and that as PyTorch's.

Today's layout: a kernel [I, gates·H], a recurrent kernel [H, gates·H] and a bias; gates in the order i, f, c, o of an
LSTM and z, r, h of a GRU, whose bias is [2, 3H] where the reset gate acts after the recurrent product.
"""

from collections.abc import Sequence

import numpy as np

from treadle.adapt.gate_orders import KERAS, OURS, reordered

_NAMES = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
GATES = {kind: len(KERAS[name]) for kind, name in _NAMES.items()}
_OF_KERAS_1 = {"LSTM": ("i", "c", "f", "o"), "GRU": ("z", "r", "h")}
_OF_TODAY = {"LSTM": ("i", "f", "c", "o"), "GRU": ("z", "r", "h")}


def todays_layout(kind: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Kernel, recurrent kernel and bias, whatever wrote them.

    Keras 1 has three arrays for each gate; a layer of CuDNN has two biases one after the other, and the matrices of its
    gates lie transposed in the memory of the kernel. What is of neither kind stays as it is.
    """
    gates = GATES[kind]
    if kind in _OF_KERAS_1 and len(arrays) == 3 * gates:
        return _of_keras_1(kind, arrays)
    if kind in _OF_KERAS_1 and is_of_cudnn(kind, arrays):
        return _of_cudnn(kind, arrays)
    return list(arrays)


def is_of_cudnn(kind: str, arrays: Sequence[np.ndarray]) -> bool:
    """Whether these are the weights of a layer of CuDNN: its bias has both biases, in one row."""
    if len(arrays) != 3 or arrays[1].ndim != 2:
        return False
    return arrays[2].shape == (2 * GATES[kind] * arrays[1].shape[0],)


def _of_keras_1(kind: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    by_gate = {gate: arrays[3 * n : 3 * n + 3] for n, gate in enumerate(_OF_KERAS_1[kind])}
    return [np.concatenate([by_gate[gate][part] for gate in _OF_TODAY[kind]], -1) for part in range(3)]


def _of_cudnn(kind: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    kernel, recurrent, bias = arrays
    gates, H = GATES[kind], recurrent.shape[0]

    def turned(matrix: np.ndarray) -> np.ndarray:
        blocks = np.split(matrix, gates, -1)
        return np.concatenate([block.reshape(H, -1).T for block in blocks], -1)

    both = bias.reshape(2, -1)
    return [turned(kernel), turned(recurrent), both.sum(0) if kind == "LSTM" else both]


def to_torch_layout(kind: str, array: np.ndarray) -> np.ndarray:
    """A kernel [n, gates·H] or a bias [gates·H] with the gates in PyTorch's order: i, f, g, o and r, z, n."""
    return reordered(array, KERAS[_NAMES[kind]], OURS[_NAMES[kind]], -1)


def to_keras_layout(kind: str, array: np.ndarray) -> np.ndarray:
    """The way back."""
    return reordered(array, OURS[_NAMES[kind]], KERAS[_NAMES[kind]], -1)
