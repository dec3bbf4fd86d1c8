"""What a stream is: elements in an order, readable from any place on; and parts of streams."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from treadle.errors import DataError, ShapeError

PIECE_BYTES = 1 << 16
"""How much of a file is read at once. Every row of a batch holds about one piece, whatever the files' size."""


class Piece(NamedTuple):
    """Some consecutive elements of a stream.

    Attributes:
        x: [n, ...], the elements.
        target: [n, ...], the target of each, in a stream that has targets.
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
        """The name by which its state is kept; every stream has its own."""
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


class Span:
    """A part of a stream as a stream of its own, whose elements count from 0 again.

    Args:
        stream: the whole.
        start: its first element.
        stop: the element before which it ends; ``None`` for the whole's end.
        id: its name; ``whole[start:stop]`` unless given.

    Raises:
        ShapeError: the whole has no such part.

    Example:
        >>> import treadle as td
        >>> whole = td.streams.Array(range(100), id="count")
        >>> last = td.streams.Span(whole, 90)
        >>> last.id, last.length, next(last.pieces(8)).x.tolist()
        ('count[90:100]', 10, [98, 99])
    """

    def __init__(self, stream: Stream, start: int = 0, stop: int | None = None, *, id: str | None = None):
        stop = stream.length if stop is None else stop
        most = math.inf if stream.length is None else stream.length
        if not 0 <= start <= (start if stop is None else stop) <= most:
            raise ShapeError(
                f"elements {start} to {stop} were asked for of stream {stream.id!r}, which has"
                f" {'an unknown number' if stream.length is None else stream.length} of them: pass"
                " 0 <= start <= stop <= length"
            )
        self.stream, self.start, self.stop, self.has_targets = stream, start, stop, stream.has_targets
        self.id = f"{stream.id}[{start}:{'' if stop is None else stop}]" if id is None else str(id)

    @property
    def length(self) -> int | None:
        """Elements; ``None`` where the whole does not know its own."""
        return None if self.stop is None or self.stream.length is None else self.stop - self.start

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its elements from ``start`` on."""
        at = self.start + start
        if self.stop is not None and at >= self.stop:
            return
        for x, target in self.stream.pieces(at):
            left = len(x) if self.stop is None else self.stop - at
            yield Piece(x[:left], None if target is None else target[:left])
            at += len(x)
            if self.stop is not None and at >= self.stop:
                return  # without asking for a piece more: whoever waits for one may wait long


def split(stream: Stream, parts: int | Sequence[float]) -> list[Span]:
    """Cut a stream into parts that follow each other in time.

    Into equal ones, because a row of a batch reads one stream at a time: a single text keeps 32 rows busy if it is cut
    into 32 parts. Or by shares, because the test set lies after the training set in time: random steps would have
    their neighbours in the training set.

    Args:
        stream: the whole. If it does not know its length, it is read through once to find out.
        parts: how many equal parts (they differ by one element at most); or the share of each, adding up to 1 or less.

    Returns:
        The parts, in order.

    Raises:
        ShapeError: a part would be empty; shares are not positive, or add up to more than 1.

    Example:
        >>> import treadle as td
        >>> series = td.streams.Array(range(100), id="series")
        >>> learn, judge = td.streams.split(series, [0.8, 0.2])
        >>> judge.id
        'series[80:100]'
        >>> tuple(part.length for part in td.streams.split(learn, 3))
        (26, 27, 27)
    """
    total = count(stream)
    if isinstance(parts, int):
        if parts < 1:
            raise ShapeError(f"a stream is cut into one part or more, but parts={parts} was passed")
        borders = [total * part // parts for part in range(parts + 1)]
    else:
        shares = [float(share) for share in parts]
        if not shares or not all(share > 0 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ShapeError(f"shares are positive and add up to 1 or less, but {shares} were passed")
        borders = [0, *(min(round(total * math.fsum(shares[: n + 1])), total) for n in range(len(shares)))]
    for number, (start, stop) in enumerate(itertools.pairwise(borders)):
        if start == stop:
            raise ShapeError(
                f"part {number} of {len(borders) - 1} of stream {stream.id!r} would be empty, as it has {total}"
                " elements in all: ask for fewer parts, or larger shares"
            )
    return [Span(stream, start, stop) for start, stop in itertools.pairwise(borders)]


def count(stream: Stream) -> int:
    """How many elements a stream has; it is read through if it does not know."""
    return sum(len(piece.x) for piece in stream.pieces()) if stream.length is None else stream.length
