"""Streams from memory: an array, or anything that can be iterated over."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from treadle.errors import DataError, ShapeError
from treadle.streams.stream import Piece, require_finite


class Array:
    """An array or tensor as a stream; it is not copied.

    Args:
        x: [N, ...], the elements; a NumPy array, a tensor or what NumPy makes an array of.
        targets: [N, ...], the target of each element; without them, the target is the next element.
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
        self.has_targets = targets is not None
        if self._targets is not None and len(self._targets) != len(self._x):
            raise ShapeError(
                f"stream {self.id!r} has {len(self._x)} elements, but {len(self._targets)} targets: pass one for each"
            )

    @property
    def length(self) -> int:
        """Elements."""
        return len(self._x)

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


STEPS_AT_ONCE = 64
"""Single steps are gathered into pieces of this many."""


class Iterated:
    """What an iterable gives, as a stream: a generator's output, a database cursor, a simulation.

    **An iterator cannot jump to its millionth element.** To continue there, as after `Windows.load_state_dict` or in
    another process, a new iterator is made and everything before is skipped; it must give the same elements again.

    Args:
        source: a function without arguments that returns a new iterator (``lambda: simulate(seed=3)``), or an iterable
            that can be iterated over again, such as a list. A generator itself can be read only once, from its
            start.
        id: the stream's name.
        pieces: whether each item is a piece [n, ...] of several steps; if not, it is one step.
        targets: whether each item is a pair (input, target).

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
            next(itertools.islice(items, start, start), None)  # steps are skipped without a look at them
            at = start
        for item in items if self._in_pieces else iter(lambda: list(itertools.islice(items, STEPS_AT_ONCE)), []):
            piece = self._piece(item, at)
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
        for number, pair in enumerate([item] if self._in_pieces else item):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise DataError(
                    f"stream {self.id!r} was said to give pairs (x, target), but gave a {type(pair).__name__} at"
                    f" element {at + number}: leave out targets=True, or give pairs"
                )
        x, target = item if self._in_pieces else zip(*item, strict=True)
        return Piece(self._numbers(x, at), self._numbers(target, at))

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
