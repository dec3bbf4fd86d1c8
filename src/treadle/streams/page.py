"""A batch that is being filled, row by row, stream by stream."""

from typing import Any

import numpy as np
import torch

from treadle.errors import ShapeError
from treadle.streams.batch import Batch


class Kind:
    """What the steps of a stream look like: the shape of x and of y, and whether they are whole numbers.

    Args:
        name: the stream's.
        xs: some of its steps [n, ...].
        ys: what is asked for at them.
    """

    def __init__(self, name: str, xs: np.ndarray, ys: np.ndarray):
        self.name = name
        self.x, self.y = ((part.shape[1:], part.dtype.kind == "f") for part in (xs, ys))

    def require(self, name: str, xs: np.ndarray, ys: np.ndarray) -> None:
        """Refuse another stream whose steps do not fit into the same batch."""
        for what, part, (shape, is_float) in (("x", xs, self.x), ("y", ys, self.y)):
            if part.shape[1:] != shape:
                raise ShapeError(
                    f"the {what} of stream {name!r} has the shape {list(part.shape[1:])} at each step, but that of"
                    f" {self.name!r} has {list(shape)}: streams that share a batch must be alike"
                )
            if (part.dtype.kind == "f") != is_float:
                kinds = ("whole numbers", "floats")
                raise ShapeError(
                    f"the {what} of stream {name!r} is made of {kinds[not is_float]} ({part.dtype}), but that of"
                    f" {self.name!r} of {kinds[is_float]}: streams that share a batch must be alike"
                )


class Page:
    """An empty batch of ``rows`` times ``steps``.

    Args:
        rows: ``B``.
        steps: ``T``.
        kind: what goes into it.
        dtype: of what is not a whole number.
    """

    def __init__(self, rows: int, steps: int, kind: Kind, dtype: torch.dtype):
        self.dtype = dtype
        floats = np.float64 if dtype == torch.float64 else np.float32  # NumPy has no bfloat16
        self.x, self.y = (
            np.empty((rows, steps, *shape), floats if is_float else np.int64) for shape, is_float in (kind.x, kind.y)
        )
        self.resets, self.ends = np.zeros((2, rows, steps), bool)
        self.positions = np.empty((rows, steps), np.int64)
        self.counting = np.arange(steps)
        self.lengths = np.zeros(rows, np.int64)
        self.ids: list[list[str]] = [[] for _ in range(rows)]

    def write(self, row: int, name: str, position: int, xs: np.ndarray, ys: np.ndarray, ends: bool) -> None:
        """Put the next steps of a stream behind what is in a row."""
        start = int(self.lengths[row])
        stop = start + len(xs)
        self.x[row, start:stop] = xs
        self.y[row, start:stop] = ys
        np.add(self.counting[: len(xs)], position, out=self.positions[row, start:stop])
        self.resets[row, start] = position == 0
        self.ends[row, stop - 1] = ends
        self.lengths[row] = stop
        self.ids[row].append(name)

    def batch(self, after: dict[str, Any]) -> Batch:
        """The batch, with zeros where nothing was written."""
        for row in np.flatnonzero(self.lengths < self.x.shape[1]):
            stop = self.lengths[row]
            self.x[row, stop:] = 0
            self.y[row, stop:] = 0
            self.positions[row, stop:] = -1
        x, y = (
            part.to(self.dtype) if part.is_floating_point() else part
            for part in (torch.from_numpy(self.x), torch.from_numpy(self.y))
        )
        resets, lengths, ends, positions = map(torch.from_numpy, (self.resets, self.lengths, self.ends, self.positions))
        return Batch(x, y, resets, lengths, ends, positions, tuple(map(tuple, self.ids)), after)
