"""What all layers of Keras share here: values that carry a mask, and weights that are taken one by one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from treadle.interop.keras_in.options import Options


class Masked(NamedTuple):
    """A value of a graph of Keras.

    Attributes:
        x: [B, …].
        mask: [B, T], false where a step is padding; None where every step counts.
    """

    x: Tensor
    mask: Tensor | None = None


class KerasLayer(nn.Module):
    """A layer of Keras: called with values and their masks, it gives a value with its mask, or a tuple of several."""

    def step(self) -> nn.Module | None:
        """What the layer does with one step, as a cell or a module without memory; None if it reads several at once."""
        return None


class Weights:
    """The weights of a layer, in the order in which Keras keeps them.

    Args:
        options: of the layer, for its name and its precision.
        arrays: the weights.
    """

    def __init__(self, options: Options, arrays: Sequence[np.ndarray]):
        self._options, self._left = options, list(arrays)
        self.dtype = torch.float64 if options.is_double else torch.float32

    def __len__(self) -> int:
        return len(self._left)

    def take(self, name: str, *shape: int | None) -> np.ndarray:
        """The next one.

        Args:
            name: what it is called in a message.
            shape: its sizes; None where any will do.

        Raises:
            InteropError: there is none left, or it has other sizes.
        """
        if not self._left:
            raise self._options.error(f"its {name} is not in the file")
        found = self._left.pop(0)
        if found.ndim != len(shape) or any(
            want not in (None, has) for want, has in zip(shape, found.shape, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise self._options.error(f"its {name} is {list(found.shape)} in the file, but has to be [{wanted}]")
        if 0 in found.shape:
            raise self._options.error(f"its {name} is {list(found.shape)}, which is empty")
        return found

    def raw(self) -> list[np.ndarray]:
        """All that are left, as they are."""
        found, self._left = self._left, []
        return found

    def give(self, arrays: Sequence[np.ndarray]) -> "Weights":
        """Others in place of those that are left."""
        self._left = list(arrays)
        return self

    def finish(self) -> None:
        """Refuse weights that nobody took."""
        if self._left:
            shapes = ", ".join(str(list(one.shape)) for one in self._left)
            raise self._options.error(f"the file holds weights that it does not have: {shapes}")


def fill(module: nn.Module, dtype: torch.dtype, **arrays: Any) -> None:
    """Give a module's tensors the numbers of arrays of their shapes, in a precision."""
    module.to(dtype)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, array in arrays.items():
            tensors[name].copy_(torch.from_numpy(np.ascontiguousarray(array)).to(dtype).reshape(tensors[name].shape))
