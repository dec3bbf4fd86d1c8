"""Reads HDF5 files without trusting them: by Python alone, from the file alone, in bounded sizes."""

import contextlib
import io
import itertools
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from treadle.errors import ModelFileError
from treadle.interop.installed import installed

_COMPACT, _CONTIGUOUS, _CHUNKED = 0, 1, 2
_NOWHERE, _ATTRIBUTE, _LONGEST_TEXT = 2**64 - 1, 12, 64 * 2**20
_SPARE, _RATIO = 64 * 2**20, 100


class Hdf5File:
    """An HDF5 file in memory, of which only groups, arrays and texts are given.

    pyfive reads it, which is Python: HDF5's own library can be crashed by a damaged file, looks for filters on the
    machine and opens other files that a file names. All arrays together may have a hundred times the size of the file
    and 64 MiB more.

    Args:
        data: the file.
        name: what it is called in messages.

    Raises:
        ModelFileError: it is no HDF5 file.
        InteropError: pyfive is not installed.
    """

    def __init__(self, data: bytes, name: str):
        pyfive = installed("pyfive", "files of Keras")
        self._group, self._dataset = pyfive.Group, pyfive.Dataset
        self.name, self._left = name, _SPARE + _RATIO * len(data)
        self._read: dict[str, np.ndarray] = {}
        try:
            self.root: Any = pyfive.File(io.BytesIO(data))
        except Exception as error:  # nonsense raises anything
            raise ModelFileError(f"{name} is no HDF5 file: {_line(error)}") from None

    def group(self, parent: Any, name: str) -> Any:
        """A group by its path from another; None if there is none of that name."""
        with self._reading(name):
            found = self._found(parent, name)
        return found if isinstance(found, self._group) else None

    def array(self, parent: Any, name: str) -> np.ndarray:
        """The numbers of a dataset by its path from a group.

        Raises:
            ModelFileError: there is none, or it cannot be read safely.
        """
        with self._reading(name):
            found: Any = self._found(parent, name)
            if not isinstance(found, self._dataset):
                raise ModelFileError(f"{self.name}: there is no array {name!r}")
            if found.name not in self._read:
                self._check(name, found)
                self._read[found.name] = np.asarray(found[()])
            return self._read[found.name]

    def members(self, parent: Any) -> list[str]:
        """The names in a group."""
        with self._reading(parent.name):
            return list(parent)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except ModelFileError:
            raise
        except Exception as error:  # nonsense raises anything
            raise ModelFileError(f"{self.name}: {name!r} is damaged, or leads elsewhere: {_line(error)}") from None

    def _found(self, parent: Any, path: str) -> Any:
        for name in path.split("/"):
            if name and (not isinstance(parent, self._group) or name not in list(parent)):
                return None
            # Without the index of its chunks, which may claim any number of them.
            parent = parent.get_lazy_view(name) if name else parent
        return parent

    def _check(self, name: str, dataset: Any) -> None:
        if dataset.dtype.kind not in "fiub":
            raise ModelFileError(f"{self.name}: {name!r} holds {dataset.dtype}, but weights are numbers")
        stored = dataset.id
        elsewhere = stored.layout_class == _CONTIGUOUS and stored.data_offset == _NOWHERE
        if stored.layout_class not in (_COMPACT, _CONTIGUOUS, _CHUNKED) or elsewhere:
            raise ModelFileError(f"{self.name}: {name!r} keeps its numbers in another file")
        if stored.filter_pipeline:  # Keras packs nothing, and what is packed may unpack to any size
            raise ModelFileError(
                f"{self.name}: {name!r} is compressed, which is not read: unpack it with h5repack -f NONE"
            )
        self._left -= math.prod(map(int, dataset.shape)) * dataset.dtype.itemsize
        if self._left < 0:
            raise ModelFileError(f"{self.name}: {name!r} would be far larger than the file: {list(dataset.shape)}")

    def text(self, parent: Any, name: str) -> str | None:
        """An attribute that is a text; None if there is none of one."""
        words = self._texts(parent, name)
        return words[0] if words is not None and len(words) == 1 else None

    def names(self, parent: Any, name: str) -> list[str] | None:
        """An attribute that is a list of texts, in one piece or (long ones) in several; None if there is none."""
        whole = self._texts(parent, name)
        if whole is not None:
            return whole
        pieces = itertools.takewhile(
            lambda piece: piece is not None, (self._texts(parent, f"{name}{n}") for n in itertools.count())
        )
        return [one for piece in pieces for one in piece or ()] or None

    def texts(self, parent: Any) -> dict[str, Any]:
        """All attributes that are texts or lists of these."""
        with self._reading(parent.name):
            found = dict(self._attributes(parent))
        words = {name: self._texts(parent, name) for name, value in found.items() if _is_text(value)}
        return {name: words[name] if np.ndim(found[name]) else (words[name] or [""])[0] for name in words}

    def _texts(self, parent: Any, name: str) -> list[str] | None:
        with self._reading(name):
            value = self._attributes(parent).get(name)
            if value is None:
                return None
            if not _is_text(value):
                raise ModelFileError(f"{self.name}: the attribute {name!r} is no text")
            values = np.atleast_1d(np.asarray(value)).reshape(-1).tolist()
            if sum(map(len, values)) > _LONGEST_TEXT:
                raise ModelFileError(f"{self.name}: the attribute {name!r} is too long")
        return [one.decode(errors="replace") if isinstance(one, bytes) else one for one in values]

    def _attributes(self, parent: Any) -> Any:
        """The attributes of a group; pyfive makes room for as many values as one claims to have."""
        objects = parent._dataobjects
        for message in objects.find_msg_type(_ATTRIBUTE):
            if _claimed(objects.msg_data, message["offset_to_message"]) > message["size"]:
                raise ModelFileError(f"{self.name}: an attribute of {parent.name!r} claims more values than it has")
        return parent.attrs


def _claimed(data: bytes, start: int) -> int:
    """How many values an attribute claims to have, which each take a byte or more."""
    version, _, name, kind, _ = struct.unpack_from("<BBHHH", data, start)
    steps = 8 if version == 1 else 1
    place = start + (8 if version == 1 else 9) + sum(-(-size // steps) * steps for size in (name, kind))
    version, axes = struct.unpack_from("<BB", data, place)
    return math.prod(struct.unpack_from(f"<{axes}Q", data, place + (8 if version == 1 else 4)))


def _is_text(value: Any) -> bool:
    """Whether an attribute is a text or a list of these; an empty list may be of numbers."""
    return all(isinstance(one, str | bytes) for one in np.atleast_1d(np.asarray(value)).reshape(-1).tolist())


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:80] or type(error).__name__
