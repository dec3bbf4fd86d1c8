"""A file of Keras written again from what was read of it: Keras and HDF5's own library see no byte of the first."""

import json
import zipfile
from pathlib import Path
from typing import Any

from treadle.errors import ModelFileError
from treadle.interop.keras_in.hdf5 import Hdf5File
from treadle.interop.keras_in.saved import SavedModel

_DEEPEST, _MOST = 20, 100_000
_LEFT_OUT = ("optimizer", "optimizer_weights")


def write_copy(saved: SavedModel, folder: str | Path) -> Path:
    """A file of the same layout, for Keras to load.

    Args:
        saved: what was read.
        folder: where to write.

    Raises:
        ModelFileError: the file is nested too deeply.
    """
    import h5py

    if saved.is_archive:
        weights = Path(folder, "model.weights.h5")
        with h5py.File(weights, "w") as target:
            _copy(saved.file, saved.file.root, target)
        path = Path(folder, "model.keras")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(saved.model))
            archive.writestr("metadata.json", json.dumps({"keras_version": saved.version}))
            archive.write(weights, weights.name)
        return path
    path = Path(folder, "model.h5")
    with h5py.File(path, "w") as target:
        _copy(saved.file, saved.file.root, target)
    return path


def _copy(file: Hdf5File, source: Any, target: Any) -> None:
    waiting, count = [(source, target, 0)], 0
    while waiting:
        source, target, depth = waiting.pop()
        for name, text in file.texts(source).items():
            target.attrs[name] = text
        for name in file.members(source):
            count += 1
            if depth > _DEEPEST or count > _MOST:
                raise ModelFileError(f"{file.name} is nested too deeply, or holds too much")
            if name in _LEFT_OUT:
                continue
            group = file.group(source, name)
            if group is None:
                target.create_dataset(name, data=file.array(source, name))
            else:
                waiting.append((group, target.create_group(name), depth + 1))
