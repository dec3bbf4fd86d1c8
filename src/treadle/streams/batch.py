"""What windows are made of: consecutive steps of many streams; how a batch of them is filled, row by row."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.errors import ShapeError


@dataclasses.dataclass(frozen=True)
class Batch:
    """A window of consecutive steps; each row holds one stream, or several that follow each other.

    ``rnn(batch.x, state, lengths=batch.lengths, resets=batch.resets)`` runs it.

    Attributes:
        x: [B, T, ...], the input. Whole numbers are int64, as embeddings take them.
        y: [B, T, ...], the target of each step.
        resets: [B, T], true where a stream begins: before that step the state is the initial one.
        lengths: [B], int64, how many steps of each row there are; behind them, x and y are zero. Below ``T`` only in
            rows that have run out of streams.
        ends: [B, T], true at the last step of a stream.
        positions: [B, T], int64, which step of its stream each is; -1 behind ``lengths``.
        stream_ids: for each row, the streams that it reads, in order: the first is that of step 0, a reset at a later
            step begins the next.
        after: the reading position after this batch, for `Windows.load_state_dict`.
    """

    x: Tensor
    y: Tensor
    resets: Tensor
    lengths: Tensor
    ends: Tensor
    positions: Tensor
    stream_ids: tuple[tuple[str, ...], ...]
    after: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def mask(self) -> Tensor:
        """[B, T], true at real steps, false in padding: ``loss(ys[batch.mask], batch.y[batch.mask])``."""
        return torch.arange(self.x.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same in memory from which a GPU can fetch it by itself; a ``DataLoader(pin_memory=True)`` calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, move: Any) -> "Batch":
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Batch(**{name: move(part) if isinstance(part, Tensor) else part for name, part in parts.items()})


class Kind:
    """What the steps of a stream look like: the shape of x and of y, and whether they are whole numbers."""

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
    """An empty batch of ``rows`` times ``steps``; ``dtype`` is that of what is not a whole number."""

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
