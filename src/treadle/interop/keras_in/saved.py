"""Reads files of Keras without trusting them: `.keras` archives, `.h5` files of whole models or of weights."""

import dataclasses
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from treadle.atomic import regular
from treadle.errors import InteropError, ModelFileError
from treadle.interop.keras_in.architecture import Architecture, Layer, read_architecture, read_layer
from treadle.interop.keras_in.gates import GATES
from treadle.interop.keras_in.hdf5 import Hdf5File
from treadle.interop.keras_in.nested import Named, flat, spread

_LONGEST_JSON, _SPARE, _RATIO = 64 * 2**20, 64 * 2**20, 100


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model as its file has it.

    Attributes:
        name: of the file.
        model: its JSON: a class and its config.
        architecture: the same, read.
        version: of the Keras that wrote it; ``"1"`` if it says none.
        arrays: the weights of each layer, by its name.
        is_whole: whether the file holds the architecture as well, so that Keras can load it.
        file: the weights as they lie in the file.
    """

    name: str
    model: Any
    architecture: Architecture
    version: str
    arrays: Mapping[str, list[np.ndarray]]
    is_whole: bool
    file: Hdf5File

    @property
    def is_archive(self) -> bool:
        """Whether it is laid out as a ``.keras`` file."""
        return self.file.group(self.file.root, "model_weights") is None


def read_saved(path: str | os.PathLike[str], config: Any = None) -> SavedModel:
    """What a file holds.

    Args:
        path: the file.
        config: the architecture, where the file holds weights alone: what ``model.to_json()`` gives, as a text, a dict
            or the path of a file.

    Raises:
        ModelFileError: it is no file of Keras, or it refers to elsewhere, or it would be too large.
        InteropError: it holds what cannot be read, which is named.
    """
    data, name = Path(regular(path)).read_bytes(), os.path.basename(path)
    given = None if config is None else _given(config)
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _of_archive(data, name, given)
    return _of_hdf5(Hdf5File(data, name), given)


def _given(config: Any) -> Any:
    if isinstance(config, Mapping):
        return config
    if isinstance(config, str) and config.lstrip().startswith("{"):
        return _json(config, "config")
    return _json(Path(regular(config)).read_text(encoding="utf-8"), os.path.basename(config))


def _json(text: str | bytes, name: str) -> Any:
    if len(text) > _LONGEST_JSON:
        raise ModelFileError(f"{name} describes a model in more than {_LONGEST_JSON // 2**20} MiB")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} holds no description of a model: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"{name} holds no description of a model")
    return found


def _of_archive(data: bytes, name: str, given: Any) -> SavedModel:
    if given is not None:
        raise InteropError(f"{name} holds its architecture: leave config= out")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if "model.weights.json" in archive.namelist():
                raise InteropError(f"{name} keeps its weights in several files: save the model in one piece")
            model = _json(_member(archive, name, "config.json", _LONGEST_JSON), name)
            about = _json(_member(archive, name, "metadata.json", _LONGEST_JSON), name)
            weights = _member(archive, name, "model.weights.h5", _SPARE + _RATIO * len(data))
    except (InteropError, ModelFileError):
        raise
    except Exception as error:  # nonsense raises anything
        raise ModelFileError(f"{name} is no file of Keras: {(str(error).splitlines() or [''])[0][:80]}") from None
    architecture = read_architecture(model)
    file = Hdf5File(weights, name)
    arrays = _arrays_of_archive(file, file.root, architecture)
    return SavedModel(name, model, flat(architecture), str(about.get("keras_version", "3")), arrays, True, file)


def _member(archive: zipfile.ZipFile, name: str, member: str, most: int) -> bytes:
    if member not in archive.namelist():
        raise ModelFileError(f"{name} is no file of Keras: it holds no {member}")
    with archive.open(member) as opened:  # whatever size the archive claims
        found = opened.read(most + 1)
    if len(found) > most:
        raise ModelFileError(f"{name}: {member} would be far larger than the file")
    return found


def _arrays_of_archive(file: Hdf5File, parent: Any, architecture: Architecture) -> dict[str, list[np.ndarray]]:
    """Weights lie by the name of their class, numbered in the order of the layers."""
    top = file.group(parent, "layers") or file.group(parent, "_layer_checkpoint_dependencies")
    if top is None:
        return {}
    by_kind: dict[str, list[Layer]] = {}
    for layer in architecture.layers.values():
        if not layer.is_operation and layer.kind != "InputLayer":
            key = "functional" if layer.kind == "Model" else _snake_case(layer.kind)
            by_kind.setdefault(key, []).append(layer)
    found = {}
    for key, layers in by_kind.items():
        numbered = _numbered(file.members(top), key)
        if numbered and len(numbered) != len(layers):
            raise InteropError(f"{file.name} holds the weights of {len(numbered)} layers {key}, but has {len(layers)}")
        for name, layer in zip(numbered, layers, strict=False):
            group = file.group(top, name)
            if layer.name in architecture.models:
                inner = _arrays_of_archive(file, group, architecture.models[layer.name])
                found |= {f"{layer.name}/{own}": arrays for own, arrays in inner.items()}
            else:
                found[layer.name] = [] if group is None else _gathered(file, group, layer)
            called = None if group is None else file.group(group, "vars")
            called = None if called is None else file.texts(called).get("name")
            if called not in (None, layer.name):
                raise InteropError(
                    f"{file.name} holds the weights of {called!r} where those of {layer.name!r} should be"
                )
    return found


def _numbered(names: list[str], key: str) -> list[str]:
    """The groups of a class in their order: ``lstm``, ``lstm_1``, … (Keras 2.12 leaves out the 1)."""
    matches = [match for match in (re.fullmatch(rf"{key}(?:_(\d+))?", name) for name in names) if match]
    return [match.group() for match in sorted(matches, key=lambda match: int(match.group(1) or 0))]


def _snake_case(name: str) -> str:
    """What Keras makes of the name of a class, which may stand behind that of a package."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name.rpartition(">")[2]))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _gathered(file: Hdf5File, group: Any, layer: Layer) -> list[np.ndarray]:
    """The arrays of a layer of an archive, in the order in which an `.h5` file has them."""
    parts = [("", layer)]
    if layer.kind == "TimeDistributed":
        parts = [("layer", read_layer(layer.config["layer"]))]
    elif layer.kind == "Bidirectional":
        inner = read_layer(layer.config["layer"])
        parts = [("forward_layer", inner), ("backward_layer", inner)]
    found = []
    for path, part in parts:
        if part is not layer:
            within = file.group(group, path)
            found += _gathered(file, within, part) if within is not None else []
            continue
        own = file.group(group, "cell/vars" if part.kind in GATES else "vars")
        count = len(own) if own is not None else 0
        found += [file.array(own, str(n)) for n in range(count)]
    return found


def _of_hdf5(file: Hdf5File, given: Any) -> SavedModel:
    text = file.text(file.root, "model_config")
    if text is None and given is None:
        raise InteropError(
            f"{file.name} holds weights alone: pass config=, what model.to_json() gives for the model that they are of"
        )
    if text is not None and given is not None:
        raise InteropError(f"{file.name} holds its architecture: leave config= out")
    group = file.group(file.root, "model_weights") if text is not None else file.root
    if group is None or file.names(group, "layer_names") is None:
        if file.group(file.root, "layers") is not None:
            return _weights_of_today(file, given)
        raise ModelFileError(f"{file.name} is no file of Keras: it names no layers")
    model = given if text is None else _json(text, file.name)
    architecture = read_architecture(model)
    version = file.text(group, "keras_version") or file.text(file.root, "keras_version") or "1"
    by_name = {name: _listed(file, group, name) for name in file.names(group, "layer_names") or []}
    if (file.text(group, "backend") or "") == "theano" and any(
        "Conv" in one.kind for one in architecture.layers.values()
    ):
        raise InteropError(
            f"{file.name} was written by Theano, whose convolutions turn their kernels: they cannot be read"
        )
    arrays: dict[str, list[np.ndarray]] = {}
    for layer, weights in _matched(file.name, architecture, by_name).items():
        is_model = layer in architecture.models
        arrays |= (
            spread(layer, architecture.models[layer], weights) if is_model else {layer: [one for _, one in weights]}
        )
    return SavedModel(file.name, model, flat(architecture), version, arrays, text is not None, file)


def _weights_of_today(file: Hdf5File, given: Any) -> SavedModel:
    """A ``.weights.h5`` file of Keras 3, which is what its archives hold."""
    architecture = read_architecture(given)
    arrays = _arrays_of_archive(file, file.root, architecture)
    return SavedModel(file.name, given, flat(architecture), "3", arrays, False, file)


def _listed(file: Hdf5File, group: Any, name: str) -> Named:
    within = file.group(group, name)
    if within is None:
        raise ModelFileError(f"{file.name}: the weights of layer {name!r} are not there")
    return [(one, file.array(within, one)) for one in file.names(within, "weight_names") or []]


def _matched(name: str, architecture: Architecture, by_name: Mapping[str, Named]) -> dict[str, Named]:
    """The weights of each layer: by its name if all are called so, else by their order, as Keras does.

    With more in the file than the model has, by name alone: some read only a part of a model.
    """
    held = {layer: arrays for layer, arrays in by_name.items() if arrays}
    waiting = [layer.name for layer in architecture.layers.values() if _may_have_weights(layer)]
    if len(held) == len(waiting) and set(held) != set(waiting):
        return dict(zip(waiting, held.values(), strict=True))
    if not set(waiting) <= set(held) and not set(held) <= set(architecture.layers):
        raise InteropError(
            f"{name} holds the weights of {', '.join(held) or 'no layers'}, but the model has"
            f" {', '.join(waiting)}: give layers the names that they have in the file"
        )
    return held


_WEIGHTLESS = frozenset(
    "InputLayer Masking Activation Softmax ReLU LeakyReLU ELU Dropout SpatialDropout1D GaussianNoise GaussianDropout"
    " AlphaDropout ActivityRegularization Flatten Reshape Permute RepeatVector MaxPooling1D AveragePooling1D"
    " GlobalMaxPooling1D GlobalAveragePooling1D Add Subtract Multiply Average Maximum Minimum Concatenate Merge".split()
)


def _may_have_weights(layer: Layer) -> bool:
    inner = layer.config.get("layer") if layer.kind == "TimeDistributed" else None
    if inner:
        return _may_have_weights(read_layer(inner))
    return layer.kind not in _WEIGHTLESS and not layer.is_operation
