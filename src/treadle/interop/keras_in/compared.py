"""The other side of a comparison: Keras itself, or its equations."""

import contextlib
import copy
import dataclasses
import importlib.util
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from treadle.errors import InteropError
from treadle.interop.installed import installed
from treadle.interop.keras_in.architecture import Layer, values_of
from treadle.interop.keras_in.clean_copy import write_copy
from treadle.interop.keras_in.equations import Equations
from treadle.interop.keras_in.network import KerasNetwork
from treadle.interop.keras_in.options import Options, major
from treadle.interop.keras_in.readers import Reader
from treadle.interop.keras_in.saved import SavedModel

_B, _T, _MOST = 3, 7, 10_000_000
"""The sizes that a model leaves open, where it is tried, and how many numbers at most."""


@dataclasses.dataclass(frozen=True)
class Other:
    """Who else computes what a model gives.

    Attributes:
        name: for reports.
        run: from the model's inputs to its outputs.
        notes: for reports.
        in_double: whether it computes in float64. Then the network is compared so, too: rounding may grow in a network
            from step to step, and what is to be found here are mistakes.
    """

    name: str
    run: Callable[[Sequence[Any]], Sequence[Any]]
    notes: tuple[str, ...] = ()
    in_double: bool = False


def other_side(saved: SavedModel, network: KerasNetwork, reader: Reader) -> Other:
    """Keras 3 for its own files, where it is installed; else the equations.

    Args:
        saved: what it holds.
        network: what was made of it.
        reader: what made it; layers that the caller passed are taken from the network.
    """
    layers = saved.architecture.layers
    own = {name: _alone(network.layer(name)) for name, layer in layers.items() if reader.custom_of(layer)}
    notes = (f"compared with themselves: {', '.join(own)}",) if own else ()
    if saved.is_whole and not own and _is_todays(saved) and importlib.util.find_spec("keras"):
        try:
            with keras_on_torch() as keras, tempfile.TemporaryDirectory() as folder:
                model = keras.saving.load_model(write_copy(saved, folder), compile=False, safe_mode=True)
                return Other(f"Keras {keras.__version__}", lambda inputs: outputs_of(keras, model, inputs))
        except Exception as error:  # whatever Keras dislikes about a file, or about this machine
            notes += (f"Keras does not load it: {(str(error).splitlines() or [''])[0][:120]}",)
    equations = Equations(saved.architecture, saved.arrays, saved.version, own)
    return Other("Keras' equations in float64", equations.run, notes, in_double=True)


def _alone(layer: Any) -> Callable[..., np.ndarray]:
    module = copy.deepcopy(layer.module).double()

    def run(*xs: Any) -> np.ndarray:
        with torch.no_grad():
            return module(*(torch.as_tensor(x) for x in xs)).numpy()

    return run


def _is_todays(saved: SavedModel) -> bool:
    """Whether Keras 3 wrote the file, and all that it names is Keras' own; by older files it means other things."""
    return major(saved.version) >= 3 and not any(_is_foreign(one) for one in _objects(saved.model))


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _objects(part)


def _is_foreign(value: Mapping[str, Any]) -> bool:
    module, registered = value.get("module") or "keras", value.get("registered_name") or ""
    return str(module).split(".")[0] not in ("keras", "builtins") or ">" in str(registered)


@contextlib.contextmanager
def keras_on_torch() -> Iterator[Any]:
    """Keras 3; with PyTorch as its backend, unless somebody has chosen or loaded it before.

    Raises:
        InteropError: it is not installed.
    """
    chosen = "keras" in sys.modules or "KERAS_BACKEND" in os.environ
    if not chosen:
        os.environ["KERAS_BACKEND"] = "torch"
    try:
        keras = installed("keras", "models of Keras")
        if major(keras.__version__) < 3:
            raise InteropError(f"Keras {keras.__version__} is installed, but Keras 3 is needed: pip install 'keras>=3'")
        yield keras
    finally:
        if not chosen:
            del os.environ["KERAS_BACKEND"]


def outputs_of(keras: Any, model: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """What a model of Keras makes of inputs."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that end a mask, say
        found = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
    return [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(found)]


def random_inputs(saved: SavedModel) -> list[np.ndarray]:
    """Inputs such as the model reads: whole numbers where these are embedded, padded steps where there may be some."""
    random = np.random.default_rng(0)
    return [_random(random, name, saved) for name in saved.architecture.inputs]


def _random(random: np.random.Generator, name: str, saved: SavedModel) -> np.ndarray:
    readers = [
        saved.architecture.layers[call.layer] for call in saved.architecture.calls if (name, 0) in values_of(call)
    ]
    shape = _shape(saved.architecture.layers[name], readers, saved)
    for layer in readers:
        if layer.kind == "Embedding":
            rows = saved.arrays[layer.name][0].shape[0]
            numbers = random.integers(min(1, rows - 1), rows, shape)
            return np.where(_padding(shape), 0, numbers).astype(np.int32)
    floats = random.normal(size=shape).astype(np.float32)
    for layer in readers:
        if layer.kind == "Masking":
            value = Options(layer, saved.version).real("mask_value", 0.0)
            floats[_padding(shape[:2])] = value
    return floats


def _padding(shape: Sequence[int]) -> np.ndarray:
    """Steps that are left out: behind, before and within the rows."""
    found = np.zeros(shape, bool)
    if len(shape) > 1:
        found[1:2, -(shape[1] // 3) or shape[1] :] = True
        found[2:3, 0] = found[2:3, shape[1] // 2] = True
    return found


def _shape(layer: Layer, readers: Sequence[Layer], saved: SavedModel) -> tuple[int, ...]:
    said = layer.config.get("batch_input_shape") or layer.config.get("batch_shape")
    given: list[Any] = said or _guessed(readers, saved)
    sizes = [size if isinstance(size, int) else _T for size in given[1:]]
    batch = given[0] if isinstance(given[0], int) else _B
    if math.prod(sizes) * batch > _MOST:
        raise InteropError(f"the model reads {list(given)} at once, which is too much to try it: pass inputs=")
    return (batch, *sizes)


def _guessed(readers: Sequence[Layer], saved: SavedModel) -> list[Any]:
    """The shape of an input of which the file says nothing, by the weights of who reads it."""
    for layer in readers:
        arrays = saved.arrays.get(layer.name, [])
        if layer.kind == "Embedding":
            return [None, None]
        if arrays and arrays[0].ndim == 2:
            return [None, arrays[0].shape[0]] if layer.kind == "Dense" else [None, None, arrays[0].shape[0]]
    raise InteropError("the file does not say what the model reads, so that it could not be tried: pass inputs=")
