"""A place in a stream: how many steps follow, and the next of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from treadle.errors import DataError, ShapeError
from treadle.streams.stream import Piece, Stream


class Cursor:
    """Reads a stream's steps from a position on, or steps over them.

    A step is an element with what is asked for ``horizon`` elements later, so a stream has ``horizon`` steps fewer than
    elements. Where a stream knows its length, nothing is read before it is needed: stepping over the steps that another
    process reads costs nothing.
    """

    def __init__(self, stream: Stream, horizon: int, position: int = 0):
        self.stream, self.horizon, self.position = stream, horizon, position
        self._steps = None if stream.length is None else max(stream.length - horizon, 0)
        self._pieces: Iterator[Piece] | None = None
        self._x: Any = None  # elements from self._at on
        self._target: Any = None
        self._at = position

    def follow(self, most: int) -> int:
        """How many of the next ``most`` steps there are."""
        if self._steps is not None:
            return max(min(most, self._steps - self.position), 0)
        return min(most, max(self._fill(most) - self.horizon - self.position, 0))

    def skip(self, count: int) -> None:
        """Step over ``count`` steps."""
        self.position += count

    def read(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The next ``count`` steps, which must be there: x and y [count, ...]."""
        wanted = self.position + count + self.horizon
        end = self._fill(count)
        if end < wanted:
            raise DataError(
                f"stream {self.stream.id!r} ended after {end} elements, but said that it has {self.stream.length}: do"
                " not change data while it is read"
            )
        here = self.position - self._at
        self.position += count
        ahead = self._x if self._target is None else self._target
        return self._x[here : here + count], ahead[here + self.horizon : here + self.horizon + count]

    @property
    def elements(self) -> int:
        """How many elements of the stream are known of."""
        return self._at + (0 if self._x is None else len(self._x))

    def _fill(self, count: int) -> int:
        """Hold what the next ``count`` steps need, as far as it is there; gives the number of elements known of."""
        wanted = self.position + count + self.horizon
        end = self.elements
        if end >= wanted:
            return end
        if self._pieces is None:
            self._pieces = self.stream.pieces(self.position)
            self._at = end = self.position
        kept = [Piece(self._x, self._target)] if self._x is not None else []
        while end < wanted:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._check(piece)
            kept.append(piece)
            end += len(piece.x)
        if kept:
            over = max(min(self.position - self._at, len(kept[0].x)), 0)
            self._at += over
            kept[0] = Piece(kept[0].x[over:], None if kept[0].target is None else kept[0].target[over:])
            self._x = np.concatenate([x for x, _ in kept]) if len(kept) > 1 else kept[0].x
            if self.stream.has_targets:
                targets: list[Any] = [target for _, target in kept]
                self._target = np.concatenate(targets) if len(kept) > 1 else targets[0]
        return end

    def _check(self, piece: Piece) -> None:
        name = f"stream {self.stream.id!r}"
        if (piece.target is not None) != self.stream.has_targets:
            says, gives = ("with", "none") if self.stream.has_targets else ("without", "some")
            raise DataError(f"{name} was said to be {says} targets, but a piece has {gives}: mend its has_targets")
        if piece.target is not None and len(piece.target) != len(piece.x):
            raise ShapeError(f"{name} gave {len(piece.x)} elements with {len(piece.target)} targets: give one for each")
        for part, held in ((piece.x, self._x), (piece.target, self._target)):
            if held is not None and part is not None and part.shape[1:] != held.shape[1:]:
                raise ShapeError(
                    f"{name} gave elements of shape {list(part.shape[1:])} after ones of {list(held.shape[1:])}: all"
                    " must be alike"
                )
