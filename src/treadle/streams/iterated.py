"""A stream from anything that can be iterated over."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from treadle.errors import DataError
from treadle.streams.stream import Piece, require_finite

__all__ = ["Iterated"]

STEPS_AT_ONCE = 64
"""Single steps are gathered into pieces of this many."""


class Iterated:
    """What an iterable gives, as a stream: a generator's output, a database cursor, a simulation.

    **An iterator cannot be asked for its millionth element.** Going on from there, as after `Windows.load_state_dict`
    or in another process, means making a new one and skipping all before; it must give the same elements again.

    Args:
        source: a function without arguments that returns a new iterator (``lambda: simulate(seed=3)``), or an iterable
            that can be iterated over again, such as a list. A generator itself, which can be read but once, serves for
            one pass from its start.
        id: the stream's name.
        pieces: whether each item is a piece [n, ...] of several steps; if not, it is one step.
        targets: whether each item is a pair: what is read, and what belongs to it.

    Raises:
        DataError: an iterator that was read before is to be read again; an item is not made of numbers, or holds NaN
            or infinity. All of it when read.

    Example:
        >>> import itertools, treadle as td
        >>> squares = td.streams.Iterated(lambda: (n * n for n in itertools.count()), id="squares")
        >>> next(squares.pieces(10)).x[:4].tolist()
        [100, 121, 144, 169]
    """

    length = None

    def __init__(
        self,
        source: Iterable[Any] | Callable[[], Iterator[Any]],
        *,
        id: str,
        pieces: bool = False,
        targets: bool = False,
    ):
        self.id, self.has_targets = str(id), targets
        self._source, self._in_pieces = source, pieces
        self._spent = False

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its elements from ``start`` on, after skipping those before."""
        items, at = self._items(), 0
        if not self._in_pieces:
            if start:
                next(itertools.islice(items, start - 1, start), None)
            at = start
        while True:
            if self._in_pieces:
                item = next(items, None)
                if item is None:
                    return
                piece = self._piece(item, at)
            else:
                steps = list(itertools.islice(items, STEPS_AT_ONCE))
                if not steps:
                    return
                # zip(*pairs) turns pairs of steps into a pair of pieces.
                piece = self._piece(tuple(zip(*steps, strict=True)) if self.has_targets else steps, at)
            skip, at = max(start - at, 0), at + len(piece.x)
            if skip < len(piece.x):
                yield Piece(piece.x[skip:], None if piece.target is None else piece.target[skip:])

    def _items(self) -> Iterator[Any]:
        if callable(self._source):
            return iter(self._source())
        items = iter(self._source)
        if items is self._source:
            if self._spent:
                raise DataError(
                    f"stream {self.id!r} is an iterator that was read before, and it can be read only once: pass a"
                    " function that makes a new one"
                )
            self._spent = True
        return items

    def _piece(self, item: Any, at: int) -> Piece:
        if not self.has_targets:
            return Piece(self._numbers(item, at))
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(
                f"stream {self.id!r} was said to give pairs (x, target), but gave a {type(item).__name__} at"
                f" element {at}: leave out targets=True, or give pairs"
            )
        return Piece(self._numbers(item[0], at), self._numbers(item[1], at))

    def _numbers(self, values: Any, at: int) -> np.ndarray:
        try:
            if isinstance(values, (list, tuple)):
                values = [v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in values]
            elif isinstance(values, Tensor):
                values = values.detach().cpu().numpy()
            array = np.asarray(values)
        except ValueError as error:  # unequal shapes
            raise DataError(f"stream {self.id!r}: the elements from {at} on differ in shape ({error})") from error
        if array.dtype.kind not in "biuf" or not array.ndim:
            what = f"holds {array.dtype}" if array.ndim else "is a single number, where a piece [n, ...] was promised"
            raise DataError(f"stream {self.id!r}: what comes at element {at} {what}: give numbers")
        require_finite(array, at, f"stream {self.id!r}")
        return array
