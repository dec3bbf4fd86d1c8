"""Streams that lie in files and may be larger than the memory.

Both read a piece where it is needed, at a 64-bit offset, and hold nothing else. A memory map would read the same pages
from the same cache, but those would count as this process's memory, and the operating system drops them only when it
is short of it: a process that has walked through a 5 GB map shows 5 GB.
"""

import os
from collections.abc import Iterator

import numpy as np

from treadle.atomic import regular
from treadle.errors import DataError, ShapeError
from treadle.streams.stream import PIECE_BYTES, Piece, require_finite


class TextFile:
    """The bytes of a file, of any size, as tokens 0 to 255.

    Args:
        path: any file; its bytes are taken as they are.
        id: the stream's name; the path unless given.

    Raises:
        OSError: the file cannot be read.
        DataError: it became shorter while it was read.

    Example:
        >>> import pathlib, treadle as td
        >>> _ = pathlib.Path("short.txt").write_text("press, and again")
        >>> text = td.streams.TextFile("short.txt")
        >>> text.length
        16
        >>> bytes(next(text.pieces(7)).x)
        b'and again'
    """

    has_targets = False

    def __init__(self, path: str | os.PathLike[str], *, id: str | None = None):
        self.path = os.fspath(path)
        self.id = self.path if id is None else str(id)
        with open(regular(path), "rb") as file:  # what may not be read says so before training starts
            self.length = os.fstat(file.fileno()).st_size

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its bytes from ``start`` on, uint8 [n]."""
        for at in range(start, self.length, PIECE_BYTES):
            yield Piece(read_at(self.path, at, min(PIECE_BYTES, self.length - at)))


class ArrayFile:
    """A NumPy file (``.npy``), of any size.

    Args:
        path: what ``numpy.save`` wrote: numbers, [N] or [N, F] or with more axes; the first is time.
        targets: another such file, with the target of each element; without it, the target is the next element.
        id: the stream's name; the path unless given.

    Raises:
        OSError: a file cannot be read.
        DataError: it is not a NumPy file of numbers, is cut short, is stored column by column, or holds NaN or infinity
            (this when read, with row and column).
        ShapeError: ``targets`` has another length.

    Example:
        >>> import numpy as np, treadle as td
        >>> np.save("walk.npy", np.random.default_rng(0).standard_normal((5000, 3)).cumsum(0))
        >>> walk = td.streams.ArrayFile("walk.npy")
        >>> walk.length, next(walk.pieces(4990)).x.shape
        (5000, (10, 3))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        targets: str | os.PathLike[str] | None = None,
        *,
        id: str | None = None,
    ):
        self._x = _Rows(os.fspath(path))
        self._targets = None if targets is None else _Rows(os.fspath(targets))
        if self._targets is not None and self._targets.count != self._x.count:
            raise ShapeError(
                f"{path} has {self._x.count} elements, but {targets} has {self._targets.count}: one for each is needed"
            )
        self.id = self._x.path if id is None else str(id)
        self.length, self.has_targets = self._x.count, targets is not None

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its rows from ``start`` on, in the file's own precision."""
        step = max(1, PIECE_BYTES // max(self._x.row_bytes, 1))
        for at in range(start, self.length, step):
            count = min(step, self.length - at)
            yield Piece(self._x.read(at, count), self._targets and self._targets.read(at, count))


class _Rows:
    """The rows of one ``.npy`` file."""

    def __init__(self, path: str):
        self.path = path
        with open(regular(path), "rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
                shape, by_column, self.dtype = header(file)
            except ValueError as error:
                raise DataError(f"{path} is not a NumPy file ({error}): write it with numpy.save") from error
            self.offset, size = file.tell(), os.fstat(file.fileno()).st_size
        if self.dtype.kind not in "biuf":
            raise DataError(f"{path} holds {self.dtype}, but a stream is made of numbers: convert it before saving")
        if not shape:
            raise DataError(f"{path} holds a single number, but a stream is an array [N, ...]")
        if by_column and len(shape) > 1:
            raise DataError(
                f"{path} is stored column by column, so that no row lies together: save numpy.ascontiguousarray(array)"
            )
        axes: list[int] = list(shape)
        self.count, self.row = axes[0], tuple(axes[1:])
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.row, dtype=np.int64))
        if size < self.offset + self.count * self.row_bytes:
            raise DataError(
                f"{path} is cut short: its header promises {self.count} rows of {self.row_bytes} bytes, but there are"
                f" {size - self.offset} bytes: write it again"
            )

    def read(self, at: int, count: int) -> np.ndarray:
        data = read_at(self.path, self.offset + at * self.row_bytes, count * self.row_bytes)
        rows = data.view(self.dtype).reshape(count, *self.row)
        require_finite(rows, at, self.path)
        return rows


def read_at(path: str, offset: int, count: int) -> np.ndarray:
    """``count`` bytes of a file from ``offset`` on, uint8 [count].

    The file is opened for each piece: that costs microseconds, and any number of rows can read any number of files.
    """
    data = np.empty(count, np.uint8)
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        view, done = data.data, 0
        while done < count:
            got = file.readinto(view[done:])
            if not got:
                raise DataError(
                    f"{path} ends at byte {offset + done}, but had {offset + count} or more when it was opened: do not"
                    " change files while they are read"
                )
            done += got
    return data
