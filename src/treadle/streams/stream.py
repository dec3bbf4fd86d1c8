"""What a stream is: elements in an order, readable from any place on."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from treadle.errors import DataError

PIECE_BYTES = 1 << 16
"""How much of a file is read at once. Every row of a batch holds about one piece, whatever the files' size."""


class Piece(NamedTuple):
    """Some consecutive elements of a stream.

    Attributes:
        x: [n, ...], the elements.
        target: [n, ...], what belongs to each of them, in a stream that has targets of its own.
    """

    x: np.ndarray
    target: np.ndarray | None = None


@runtime_checkable
class Stream(Protocol):
    """Elements in an order that means something, such as time. Any object with these four members is one.

    Reading must give the same elements every time, and all pieces the same shape and kind of row.

    Example:
        A stream of your own: the digits of 1/7, without an end.

        >>> import numpy as np, treadle as td
        >>> class Seventh:
        ...     id, length, has_targets = "1/7", None, False
        ...     def pieces(self, start=0):
        ...         digits = np.array([1, 4, 2, 8, 5, 7])
        ...         yield td.streams.Piece(digits[start % 6:])
        ...         while True:
        ...             yield td.streams.Piece(digits)
        >>> isinstance(Seventh(), td.streams.Stream)
        True
        >>> windows = td.streams.Windows([Seventh()], rows=1, steps=8, prefetch=0)
        >>> next(iter(windows)).x
        tensor([[1, 4, 2, 8, 5, 7, 1, 4]])
    """

    @property
    def id(self) -> str:
        """The name by which its state is kept; unlike those of the streams beside it."""
        ...

    @property
    def length(self) -> int | None:
        """How many elements it has; ``None`` if only reading to the end can tell."""
        ...

    @property
    def has_targets(self) -> bool:
        """Whether its pieces have targets of their own."""
        ...

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its elements from number ``start`` on (which may exceed 32 bits), in pieces of any lengths."""
        ...


def require_finite(array: np.ndarray, first: int, name: str) -> None:
    """Refuse NaN and infinity among elements ``first``, ``first + 1``, ... of what messages call ``name``."""
    if array.dtype.kind not in "fc" or np.isfinite(array).all():
        return
    place = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
    value = array[tuple(place)]
    place[0] += first
    raise DataError(
        f"{name}[{', '.join(map(str, place))}] is {value} (row {place[0]}{f', column {place[1]}' if place[1:] else ''},"
        " counting from 0): networks need numbers, so fill it in, or leave the row out"
    )
