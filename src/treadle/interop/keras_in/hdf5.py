"""Reads HDF5 files without trusting them: no links, no data or filters from elsewhere, bounded sizes."""

import io
from typing import Any

import numpy as np

from treadle.errors import ModelFileError
from treadle.interop.installed import installed

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 6: "scaleoffset", 32000: "lzf"}
"""What h5py itself can undo; any other filter would be a library that HDF5 looks for on this machine."""
_SPARE, _RATIO, _LONGEST_ATTRIBUTE = 64 * 2**20, 100, 64 * 2**20


class Hdf5File:
    """An HDF5 file in memory, of which only plain groups, arrays and attributes are given.

    All arrays together may have a hundred times the size of the file and 64 MiB more.

    Args:
        data: the file.
        name: what it is called in messages.

    Raises:
        ModelFileError: it is no HDF5 file.
        InteropError: h5py is not installed.
    """

    def __init__(self, data: bytes, name: str):
        self._h5py = installed("h5py", "files of Keras")
        self.name, self._left = name, _SPARE + _RATIO * len(data)
        try:
            self.root = self._h5py.File(io.BytesIO(data), "r")
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelFileError(f"{name} is no HDF5 file: {str(error).splitlines()[0]}") from None

    def group(self, parent: Any, name: str) -> Any:
        """A group by its path from another; None if there is none of that name."""
        found = self._found(parent, name)
        if found is not None and not isinstance(found, self._h5py.Group):
            raise ModelFileError(f"{self.name}: {name!r} is no group")
        return found

    def array(self, parent: Any, name: str) -> np.ndarray:
        """The numbers of a dataset by its path from a group.

        Raises:
            ModelFileError: there is none, or it cannot be read safely.
        """
        found = self._found(parent, name)
        if not isinstance(found, self._h5py.Dataset):
            raise ModelFileError(f"{self.name}: there is no array {name!r}")
        try:
            self._check(name, found)
            return np.asarray(found[()])
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"{self.name}: {name!r} is damaged: {str(error).splitlines()[0]}") from None

    def _check(self, name: str, dataset: Any) -> None:
        if dataset.dtype.kind not in "fiub" or dataset.shape is None:
            raise ModelFileError(f"{self.name}: {name!r} holds {dataset.dtype}, but weights are numbers")
        layout = dataset.id.get_create_plist()
        if layout.get_layout() == self._h5py.h5d.VIRTUAL or layout.get_external_count():
            raise ModelFileError(f"{self.name}: {name!r} keeps its numbers in another file")
        for n in range(layout.get_nfilters()):
            if layout.get_filter(n)[0] not in _FILTERS:
                raise ModelFileError(f"{self.name}: {name!r} is packed by a filter that is not HDF5's own")
        self._left -= int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
        if self._left < 0:
            raise ModelFileError(f"{self.name}: {name!r} would be far larger than the file: {list(dataset.shape)}")

    def _found(self, parent: Any, path: str) -> Any:
        for name in path.split("/"):
            if not name:
                continue
            if not isinstance(parent, self._h5py.Group):
                return None
            link = parent.get(name, getlink=True)
            if link is None:
                return None
            if not isinstance(link, self._h5py.HardLink):
                raise ModelFileError(f"{self.name}: {name!r} is a link to elsewhere, which is not followed")
            parent = parent[name]
        return parent

    def text(self, parent: Any, name: str) -> str | None:
        """An attribute that is a text; None if there is none."""
        words = self._attribute(parent, name)
        return words[0] if words is not None and len(words) == 1 else None

    def names(self, parent: Any, name: str) -> list[str] | None:
        """An attribute that is a list of texts, in one piece or (as Keras writes long ones) in several; None if there is none."""  # noqa: E501
        whole = self._attribute(parent, name)
        if whole is not None:
            return whole
        found: list[str] = []
        for n in range(len(parent.attrs)):
            piece = self._attribute(parent, f"{name}{n}")
            if piece is None:
                return found if n else None
            found += piece
        return found or None

    def _attribute(self, parent: Any, name: str) -> list[str] | None:
        if name not in parent.attrs:
            return None
        attribute = parent.attrs.get_id(name)
        if int(np.prod(attribute.shape or (), dtype=object)) * attribute.dtype.itemsize > _LONGEST_ATTRIBUTE:
            raise ModelFileError(f"{self.name}: the attribute {name!r} is too long")
        values = np.atleast_1d(np.asarray(parent.attrs[name])).reshape(-1).tolist()
        if not all(isinstance(value, str | bytes) for value in values):
            if values:
                raise ModelFileError(f"{self.name}: the attribute {name!r} is no text")
            return []
        return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
