"""Networks as models of Keras."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from treadle.atomic import destination, replacing
from treadle.errors import InteropError
from treadle.interop.keras_in.compared import keras_on_torch, outputs_of
from treadle.interop.keras_out.layers import layer_of
from treadle.interop.keras_out.parts import Part, input_of, parts_of
from treadle.interop.report import Report, check_agreement, relative_difference

_SUFFIXES = (".keras", ".h5")


def to_keras(
    network: Any, path: str | os.PathLike[str], tolerance: float = 1e-5, return_sequences: bool = True
) -> Report:
    """Write a network as a model of Keras.

    Keras has `LSTMCell`, `GRUCell` and `RNNCell`, stacked, in one direction or both, and layers without memory around
    them in a `torch.nn.Sequential`: `Embedding`, `Linear`, `LayerNorm`, `Dropout` and activations. The model reads
    [B, T, I] (whole numbers [B, T] if it begins with an embedding) and gives the outputs of all steps. Keras writes the
    file, which is loaded again and run beside the network before it takes its place. Keras 3 has to be installed.

    Args:
        network: a `treadle.Recurrent`, a `treadle.Bidirectional`, a drop-in (`treadle.LSTM`, …), a cell, or a
            `torch.nn.Sequential` with such.
        path: ``.keras``, or ``.h5``, which Keras calls its legacy format.
        tolerance: how far both sides may differ, relative to the largest number.
        return_sequences: whether the model gives the outputs of all steps, or (as Keras does unless told) of the last. A
            network that was read from Keras, a chain of such layers, gives what it gave.

    Returns:
        How far both sides agree.

    Raises:
        InteropError: Keras has no such network, and why; it is not installed; both sides differ.
        ValueError: another suffix.

    Example:
        >>> import torch, treadle as td
        >>> tagger = torch.nn.Sequential(torch.nn.Embedding(100, 8), td.LSTM(8, 16, batch_first=True), torch.nn.Linear(16, 5))
        >>> td.interop.to_keras(tagger, "tagger.keras")  # doctest: +SKIP
    """  # noqa: E501
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{path} must end in {' or '.join(_SUFFIXES)}")
    destination(path)
    parts = list(parts_of(network))
    if not any(part.is_recurrent for part in parts):
        raise InteropError("no part of the network runs over time")
    last = max(n for n, part in enumerate(parts) if part.is_recurrent)
    parts = [
        dataclasses.replace(part, every=n < last or return_sequences)
        if part.is_recurrent and part.every is None
        else part
        for n, part in enumerate(parts)
    ]
    with keras_on_torch() as keras, tempfile.TemporaryDirectory() as folder:
        place = Path(folder, f"model{suffix}")
        keras.saving.save_model(_model(keras, parts), place)
        difference = _difference(keras, keras.saving.load_model(place, compile=False), parts)
        check_agreement(difference, tolerance, "Keras' model")
        with replacing(path) as beside:
            beside.write_bytes(place.read_bytes())
        return Report(str(path), f"random inputs, Keras {keras.__version__}", difference, _notes(suffix))


def _notes(suffix: str) -> tuple[str, ...]:
    return ("Keras calls .h5 its legacy format: .keras is that of today",) if suffix == ".h5" else ()


def _model(keras: Any, parts: list[Part]) -> Any:
    features, dtype = input_of(parts)
    name = str(dtype).removeprefix("torch.")
    read = keras.Input((None,), dtype="int32") if features is None else keras.Input((None, features), dtype=name)
    y, weights = read, []
    for n, part in enumerate(parts):
        layer, arrays = layer_of(keras, part, f"layer{n}", name)
        y = layer(y)
        weights.append((layer, arrays))
    for layer, arrays in weights:
        layer.set_weights(arrays)
    return keras.Model(read, y)


def _difference(keras: Any, model: Any, parts: list[Part]) -> float:
    """Of the outputs, in evaluation mode: three rows of seven steps."""
    features, dtype = input_of(parts)
    random = np.random.default_rng(0)
    rows = next((part.module.num_embeddings for part in parts if isinstance(part.module, nn.Embedding)), 0)
    given = random.integers(0, rows, (3, 7)) if features is None else random.normal(size=(3, 7, features))
    ys = torch.as_tensor(given, dtype=None if features is None else dtype).to(_modules(parts)[0][1])
    with torch.no_grad(), _evaluated([module for module, _ in _modules(parts)]):
        for part in parts:
            ys = part.run(ys)
    return relative_difference([torch.as_tensor(one.copy()) for one in outputs_of(keras, model, [given])], [ys.cpu()])


def _modules(parts: list[Part]) -> list[tuple[nn.Module, torch.device]]:
    """The modules of all parts, those with weights first, and where these lie."""
    modules = [one for part in parts for one in (part.module, part.ahead, part.back) if one is not None]
    modules.sort(key=lambda module: not list(module.parameters()))
    return [
        (module, next((weight.device for weight in module.parameters()), torch.device("cpu"))) for module in modules
    ]


@contextlib.contextmanager
def _evaluated(modules: list[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, training in modes:
            module.train(training)
