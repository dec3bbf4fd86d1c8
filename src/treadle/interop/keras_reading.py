"""Models of Keras as networks."""

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.errors import InteropError
from treadle.interop.keras_in.compared import Other, other_side, random_inputs
from treadle.interop.keras_in.network import KerasNetwork, build
from treadle.interop.keras_in.readers import Custom, Reader
from treadle.interop.keras_in.saved import SavedModel, read_saved
from treadle.interop.report import Report, check_finite, relative_difference


def from_keras(
    source: Any,
    config: Any = None,
    *,
    custom: Mapping[str, Custom] | None = None,
    engine: str = "auto",
    inputs: Sequence[Any] | None = None,
    tolerance: float = 1e-5,
) -> KerasNetwork:
    """Read a model of Keras 1.2, 2 or 3 as a network whose recurrent layers run as treadle's.

    Read are LSTM, GRU (with the reset gate before or after the recurrent product) and SimpleRNN with all their options,
    those of CuDNN, Bidirectional, and the layers around them: Embedding, Masking, Dense, TimeDistributed, Conv1D,
    pooling, normalisation, activations, shapes, and what joins several values; in sequential and functional models, and
    models within these.
    Masked steps are treated as Keras does. A file that holds anything else is refused, with the layer's name. Nothing
    in a file is code, and Keras itself is not needed; pyfive is.

    The network of a file of Keras 3 is run beside Keras where that is installed. Otherwise, and for older files, which
    Keras 3 refuses or reads with another meaning, it is run beside Keras' documented equations, written in NumPy, both
    in float64. The report says which. Keras runs on PyTorch, unless it is loaded or ``KERAS_BACKEND`` is set.

    Args:
        source: a ``.keras`` file, an ``.h5`` file of a whole model, a file of weights alone, or a model of Keras.
        config: with a file of weights alone, the model's architecture: what ``model.to_json()`` gives, as a text, a
            dict or the path of a file.
        custom: by the name of the class (with its package, ``"mine>Layer"``, or without), functions for layers that
            Keras does not have: from the layer's config and its weights (NumPy arrays) to a module.
        engine: what runs the recurrent layers, as of `treadle.Recurrent`.
        inputs: what both sides are given, in the order of the model's inputs; random numbers unless given.
        tolerance: how far both sides may differ, relative to the largest number.

    Returns:
        A module, called with the model's inputs in their order (its ``inputs`` names them), that gives the outputs in
        theirs; its ``report`` says how far both sides agree. `treadle.save` writes it like any other network.

    Raises:
        ModelFileError: the file is no file of Keras, or refers to elsewhere.
        InteropError: a layer cannot be read; pyfive is not installed; both sides differ.

    Example:
        >>> import treadle as td
        >>> network = td.interop.from_keras("model.keras")  # doctest: +SKIP
        >>> print(network.report)                           # doctest: +SKIP
        model.keras: agrees to 1.2e-07 (random inputs, Keras 3.15.1)
        >>> session = network.recurrent().session()         # doctest: +SKIP
    """
    if not isinstance(source, str | os.PathLike):
        return _of_model(source, custom=custom, engine=engine, inputs=inputs, tolerance=tolerance)
    saved = read_saved(source, config)
    reader = Reader(saved.version, engine, custom or {})
    network = build(saved.architecture, reader, saved.arrays)
    other = other_side(saved, network, reader)
    given = random_inputs(saved) if inputs is None else [np.asarray(one) for one in inputs]
    network.report = _compared(network, saved, other, given, tolerance, tuple(reader.notes))
    return network


def _of_model(model: Any, **options: Any) -> KerasNetwork:
    if not hasattr(model, "get_config") or not hasattr(model, "save"):
        raise TypeError(f"from_keras reads a file or a model of Keras, but was given a {type(model).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return from_keras(path, **options)


def _compared(
    network: KerasNetwork, saved: SavedModel, other: Other, given: Sequence[Any], tolerance: float, notes: Sequence[str]
) -> Report:
    wanted = [torch.as_tensor(np.array(one)) for one in other.run(given)]
    check_finite(wanted)
    tried = copy.deepcopy(network).double() if other.in_double else network
    with torch.no_grad():
        found = tried(*given)
    found = found if isinstance(found, tuple) else (found,)
    shapes = [tuple(one.shape) for one in found], [tuple(one.shape) for one in wanted]
    if shapes[0] != shapes[1]:
        raise InteropError(f"the network gives {shapes[0]}, but {other.name} gives {shapes[1]}")
    difference = relative_difference(found, wanted)
    if not difference <= tolerance:
        raise InteropError(
            f"the network differs from {other.name} by {difference:.1e}, more than tolerance={tolerance:g}: nothing was"
            " given back; rounding grows in some networks on random inputs: pass inputs= that it is meant for",
            difference,
        )
    return Report(saved.name, f"random inputs, {other.name}", difference, tuple(notes) + other.notes)
