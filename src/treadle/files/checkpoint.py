"""Checkpoints: a training run in one file, to be resumed bit for bit. No code, no pickle.

Tensors lie in a safetensors file, everything else in its metadata, as JSON. What a run consists of is not fixed here:
parts have names, and a part is whatever has a ``state_dict``, a generator, or plain values and tensors.
"""

import contextlib
import copy
import json
import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from treadle.atomic import destination, write_whole
from treadle.errors import ModelFileError, TreadleError
from treadle.files.description import describe, tensors_of
from treadle.files.lock import locked
from treadle.files.model_file import content_of, read
from treadle.state import shape

KIND = "treadle checkpoint"
_NETWORK = "model/"
"""What the names of a network's own tensors begin with."""

PATIENCE = 10.0
"""Seconds that a checkpoint waits for another process that is writing it."""

logger = logging.getLogger("treadle")


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, **parts: Any) -> None:
    """Write a training run to one file, to be resumed from; the previous checkpoint stays as ``path.previous``.

    The file is written under another name and then renamed. So a killed process or a full disk loses nothing: there is
    always a complete checkpoint, the new one or the last. Of several processes that write to one
    place, one writes at a time. The random generators of PyTorch (all of its devices), NumPy and Python are part of
    every checkpoint.

    Args:
        path: the file to write, such as ``run.checkpoint``.
        model: the network; its weights and how it is wired.
        **parts: the rest, each by a name of its own: an optimiser, a learning-rate schedule, an iterator over data,
            whatever has ``state_dict`` and ``load_state_dict``; generators of PyTorch, NumPy and Python; or values:
            numbers, words, None, tensors, arrays, and lists, tuples and dicts of these, such as a carried state.

    Raises:
        ModelFileError: a part holds something else; another run holds the file for more than ten seconds.
        OSError: the file cannot be written; the last one is still there.

    Example:
        >>> import torch, treadle as td
        >>> from treadle.training import load_checkpoint, save_checkpoint
        >>> rnn = td.Recurrent(td.GRUCell(2, 3))
        >>> optimiser = torch.optim.AdamW(rnn.parameters())
        >>> ys, state = rnn(torch.randn(1, 5, 2))
        >>> save_checkpoint("run.checkpoint", rnn, optimiser=optimiser, step=7, state=td.detach(state))
        >>> load_checkpoint("run.checkpoint", rnn, optimiser=optimiser)["step"]
        7
    """
    tensors = {_NETWORK + name: tensor for name, tensor in tensors_of(model).items()}
    values = {name: _flatten(_state_of(part), name, tensors) for name, part in parts.items()}
    metadata = {
        "format": KIND,
        "network": _describe(model),
        "parts": json.dumps(values),
        "generators": json.dumps(_flatten(_generators(), "generators", tensors)),
    }
    place, content = destination(path), content_of(tensors, metadata)

    def keep_the_last() -> None:
        if place.exists():
            # A damaged file must never take the place of the last good one.
            damaged = place.with_name(place.name + ".damaged")
            os.replace(place, previous_checkpoint(place) if _is_whole(place) else damaged)

    with locked(place, PATIENCE):
        write_whole(place, content, keep_the_last)


def load_checkpoint(path: str | os.PathLike[str], model: nn.Module, **parts: Any) -> dict[str, Any]:
    """Restore a training run, so that it resumes bit for bit as if it had never stopped.

    If the file is damaged or missing, the one before it is read, and a warning is logged that says so.

    Args:
        path: the file.
        model: the network; its weights are overwritten.
        **parts: the parts with a state of their own (optimisers, schedules, generators, …) under the names under which
            they were saved; they are put back too.

    Returns:
        The parts that were not passed, by name. Named tuples come back as tuples, which every network takes as its
        state. Random generators are back where they were.

    Raises:
        ModelFileError: neither file is a whole checkpoint, or it is one of another network, or lacks a part.
        OSError: there is no such file, or it cannot be read.
    """
    kept = read_checkpoint(path, model, parts)
    put_back(path, kept, model, parts)
    return kept.values


class Kept(NamedTuple):
    """What a checkpoint of a network holds."""

    weights: dict[str, Tensor]
    parts: dict[str, Any]
    """States of what is put back, by name."""
    values: dict[str, Any]
    """All other parts."""
    generators: dict[str, Any]


def read_checkpoint(path: str | os.PathLike[str], model: nn.Module, parts: Mapping[str, Any]) -> Kept:
    """What `load_checkpoint` is about to put back; nothing has changed yet."""
    tensors, metadata = _read_last_good(Path(path))
    weights = weights_in(tensors)
    try:
        _check_model(path, model, weights, metadata.get("network", ""))
        values = json.loads(metadata["parts"])
        found = {name: _unflatten(value, tensors) for name, value in values.items()}
        generators = _unflatten(json.loads(metadata["generators"]), tensors)
    except ModelFileError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its parts do not fit together ({error})") from None
    for name, part in parts.items():
        if name not in found:
            raise ModelFileError(f"{path} has no part {name!r}: it was saved with {', '.join(found) or 'none'}")
        if not (hasattr(part, "load_state_dict") or isinstance(part, GENERATORS)):
            raise TypeError(
                f"a part that is put back has load_state_dict or is a generator, but this is {part!r:.60}: leave it"
                " out, load_checkpoint returns values"
            )
    return Kept(weights, {name: found.pop(name) for name in parts}, found, generators)


def put_back(path: str | os.PathLike[str], kept: Kept, model: nn.Module, parts: Mapping[str, Any]) -> None:
    """Put all of it back, or, if something does not fit, nothing.

    Raises:
        ModelFileError: with what does not fit.
    """
    weights, generators = tensors_of(model), copy.deepcopy(_generators())
    before = {name: copy.deepcopy(_state_of(part)) for name, part in parts.items()}
    what = "network"
    try:
        model.load_state_dict(kept.weights)
        for what, part in parts.items():
            _put_back(part, kept.parts[what])
        what = "random generators"
        _put_generators_back(kept.generators)
    except Exception as error:  # parts raise whatever they stumble over
        model.load_state_dict(weights)
        for name, part in parts.items():
            _put_back(part, before[name])
        _put_generators_back(generators)
        if isinstance(error, TreadleError):
            raise
        raise ModelFileError(
            f"{path} is damaged: its {what} cannot be put back ({type(error).__name__}: {error})"
        ) from None


def weights_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of all the tensors in a checkpoint, the network's, by the names that they have in it."""
    return {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)}


def check_same(path: str | os.PathLike[str], there: Any, here: Any) -> None:
    """Refuse to resume from a checkpoint of another run: each says what it is."""
    difference = _difference(there, here)
    if difference:
        name, before, now = difference
        raise ModelFileError(
            f"{path} is the checkpoint of another run: {name or 'it'} was {before!s:.80} there, but is {now!s:.80}"
            " here: start with the same options, or name another file"
        )


def previous_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Where the checkpoint before the one at ``path`` is kept."""
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    return path.with_name(path.name + ".previous")


def _read_last_good(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return read(path, KIND)
    except (ModelFileError, FileNotFoundError) as error:
        before = previous_checkpoint(path)
        try:
            found = read(before, KIND)
        except (ModelFileError, OSError):
            raise error from None
        reason = error if isinstance(error, ModelFileError) else f"{path} is missing"
        logger.warning("%s; resuming from the checkpoint before it, %s", reason, before)
        return found


def _is_whole(path: Path) -> bool:
    for _ in range(2):  # what a signal's handler raises within safetensors looks like damage
        with contextlib.suppress(ModelFileError):
            read(path, KIND)
            return True
    return False


def _describe(model: nn.Module) -> str:
    try:
        return describe(model)
    except ModelFileError:
        return json.dumps(repr(model))  # of a network that no file can hold, its print-out has to do


def _check_model(path: str | os.PathLike[str], model: nn.Module, weights: Mapping[str, Tensor], network: str) -> None:
    """Refuse a checkpoint of another network, by the name of what differs."""
    there, here = (
        {name: f"{tensor.dtype} {shape(tensor)}" for name, tensor in found.items()}
        for found in (weights, tensors_of(model))
    )
    difference = _difference(there, here) or _difference(json.loads(network or "null"), json.loads(_describe(model)))
    if difference:
        name, there, here = difference
        raise ModelFileError(
            f"{path} is the checkpoint of another network: {name or 'the network'} is {there!s:.80} there, but"
            f" {here!s:.80} here: build the network that was trained, or name another file"
        )


def _difference(there: Any, here: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first place where two trees of JSON differ: its name and what is there in each."""
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = [(key, there.get(key, "nothing"), here.get(key, "nothing")) for key in {**here, **there}]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(there, here, strict=True))]
    else:
        return None if there == here else (name, there, here)
    found = (_difference(a, b, f"{name}.{key}" if name else key) for key, a, b in pairs)
    return next((one for one in found if one is not None), None)


GENERATORS = (torch.Generator, np.random.Generator, random.Random)
"""What has a state that is not called ``state_dict``."""


def _state_of(part: Any) -> Any:
    """What there is to save of a part."""
    match part:
        case torch.Generator():
            return part.get_state()
        case np.random.Generator():
            return part.bit_generator.state
        case random.Random():
            return part.getstate()
    return part.state_dict() if hasattr(part, "state_dict") else part


def _put_back(part: Any, state: Any) -> None:
    match part:
        case torch.Generator():
            part.set_state(state)
        case np.random.Generator():
            part.bit_generator.state = state
        case random.Random():
            part.setstate(state)
        case _:
            part.load_state_dict(state)


def _generators() -> dict[str, Any]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": devices,
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def _put_generators_back(generators: dict[str, Any]) -> None:
    torch.set_rng_state(generators["torch"])
    if torch.cuda.is_available() and len(generators["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(generators["cuda"])
    np.random.set_state(generators["numpy"])
    random.setstate(generators["python"])


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; its tensors go to ``tensors`` and leave their names."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        while name in tensors:
            name += "'"
        tensors[name] = torch.as_tensor(value).detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, list | tuple):
        parts = [_flatten(part, f"{name}/{i}", tensors) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    if isinstance(value, Mapping):
        # As pairs, because JSON would turn the numbers by which optimisers know parameters into words.
        keys = [key for key in value if not isinstance(key, str | int) or isinstance(key, bool)]
        if not keys:
            return {"dict": [[key, _flatten(part, f"{name}/{key}", tensors)] for key, part in value.items()]}
        value = keys[0]
    raise ModelFileError(
        f"{name} holds {value!r:.60} (a {type(value).__name__}), which a checkpoint cannot hold: only numbers, words,"
        " tensors, arrays, and lists, tuples and dicts of these"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "array":
            return tensors[content].numpy()
        case "tuple":
            return tuple(_unflatten(part, tensors) for part in content)
        case "dict":
            return {key: _unflatten(part, tensors) for key, part in content}
    raise ValueError(f"a part of kind {kind!r:.40}")
