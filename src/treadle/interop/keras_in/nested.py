"""Models within a model: their layers and calls put in the place of the calls of the whole."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.errors import InteropError
from treadle.interop.keras_in.architecture import Architecture, Call, Value

_MOST_CALLS = 100_000


def flat(architecture: Architecture) -> Architecture:
    """The same model without models in it; a layer within one is called ``"model/layer"``.

    Raises:
        InteropError: a model within is called with more than its inputs, or there are too many calls.
    """
    models = {name: flat(model) for name, model in architecture.models.items()}
    layers = {name: layer for name, layer in architecture.layers.items() if name not in models}
    for name, model in models.items():
        layers |= {
            f"{name}/{own}": dataclasses.replace(layer, name=f"{name}/{own}") for own, layer in model.layers.items()
        }
    calls: list[Call] = []
    known: dict[Value, Value] = {}
    for call in architecture.calls:
        moved = _moved(call, known)
        model = models.get(call.layer)
        calls += [moved] if model is None else _calls_of(model, moved, known)
        if len(calls) > _MOST_CALLS:
            raise InteropError("models within models are called too often")
    outputs = tuple(known.get(value, value) for value in architecture.outputs)
    return dataclasses.replace(architecture, layers=layers, calls=tuple(calls), outputs=outputs, models={})


def _calls_of(model: Architecture, outer: Call, known: dict[Value, Value]) -> list[Call]:
    """The calls of a model in the place of a call of it; ``known`` learns what its outputs are."""
    options = [name for name, value in outer.options.items() if not _is_none(value) and name != "training"]
    if options or len(outer.inputs) != len(model.inputs):
        what = ", ".join(options) or f"{len(outer.inputs)} inputs in place of {len(model.inputs)}"
        raise InteropError(f"layer {outer.layer!r}: a model within a model that is called with {what} cannot be read")
    inside: dict[Value, Value] = {(name, 0): value for name, value in zip(model.inputs, outer.inputs, strict=True)}
    found = []
    for call in model.calls:
        output = f"{outer.output}/{call.output}"
        moved = _moved(call, inside, prefix=f"{outer.output}/")
        found.append(dataclasses.replace(moved, layer=f"{outer.layer}/{call.layer}", output=output))
    for n, (name, number) in enumerate(model.outputs):
        known[outer.output, n] = inside.get((name, number), (f"{outer.output}/{name}", number))
    return found


def _is_none(value: Any) -> bool:
    return all(map(_is_none, value)) if isinstance(value, list) else value is None


def _moved(call: Call, known: Mapping[Value, Value], prefix: str = "") -> Call:
    """A call that reads values by other names: those that are known, others with a prefix."""

    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return known.get(value, (f"{prefix}{value[0]}", value[1]))
        return [move(part) for part in value] if isinstance(value, list) else value

    options = {name: move(value) for name, value in call.options.items()}
    return dataclasses.replace(call, inputs=tuple(move(value) for value in call.inputs), options=options)


Named = Sequence[tuple[str, np.ndarray]]
"""Weights with the names that an ``.h5`` file gives them."""


def spread(name: str, model: Architecture, weights: Named) -> dict[str, list[np.ndarray]]:
    """The weights of a model within a model by layer: in a file they lie in one row, with the layer in their names.

    Raises:
        InteropError: a name is that of no layer.
    """
    found: dict[str, list[np.ndarray]] = {}
    for path, array in weights:
        place = _place(model, path.split("/"))
        if place is None:
            raise InteropError(f"layer {name!r}: the weights {path!r} are those of none of its layers")
        found.setdefault(f"{name}/{place}", []).append(array)
    return found


def _place(model: Architecture, parts: Sequence[str]) -> str | None:
    """The layer that the name of a weight speaks of; some leave out the model that it is in."""
    named = [part for part in parts if part in model.models]
    own = [part for part in parts if part in model.layers and part not in model.models]
    if own and not named:
        return own[0]
    for inner in named or model.models:
        place = _place(model.models[inner], parts)
        if place is not None:
            return f"{inner}/{place}"
    return None
