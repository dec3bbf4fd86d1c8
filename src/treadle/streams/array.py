"""A stream that lies in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from treadle.errors import ShapeError
from treadle.streams.stream import Piece, require_finite


class Array:
    """An array or tensor as a stream; it is not copied.

    Args:
        x: [N, ...], the elements; a NumPy array, a tensor or what NumPy makes an array of.
        targets: [N, ...], what belongs to each; without them, windows ask for the next element.
        id: the stream's name.

    Raises:
        ShapeError: ``x`` has no axis to go along, or ``targets`` has another length.
        TypeError: it does not hold numbers.
        DataError: it holds NaN or infinity; when read.

    Example:
        >>> import torch, treadle as td
        >>> stream = td.streams.Array(torch.randn(1000, 3), id="sensor 7")
        >>> stream.length
        1000
    """

    def __init__(self, x: Any, targets: Any = None, *, id: str):
        self.id = str(id)
        self._x, self._targets = _numbers(x, "x"), None if targets is None else _numbers(targets, "targets")
        if self._targets is not None and len(self._targets) != len(self._x):
            raise ShapeError(
                f"stream {self.id!r} has {len(self._x)} elements, but {len(self._targets)} targets: pass one for each"
            )

    @property
    def length(self) -> int:
        """Elements."""
        return len(self._x)

    @property
    def has_targets(self) -> bool:
        """Whether targets were passed."""
        return self._targets is not None

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its elements from ``start`` on: views, some thousand at a time, each checked when it is reached."""
        for at in range(start, len(self._x), 8192):
            x = self._x[at : at + 8192]
            target = None if self._targets is None else self._targets[at : at + 8192]
            require_finite(x, at, f"stream {self.id!r}: x")
            if target is not None:
                require_finite(target, at, f"stream {self.id!r}: targets")
            yield Piece(x, target)


def _numbers(values: Any, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.element_size() < 4 and values.is_floating_point() else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} holds {array.dtype}, but a stream is made of numbers: convert it first")
    if array.ndim == 0:
        raise ShapeError(f"{name} is a single number, but a stream is an array [N, ...]: pass x[None]")
    return array
