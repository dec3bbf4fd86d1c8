"""A whole network as JSON text, for programs in any language: its wiring, and every number of its weights.

``{"format": "treadle model", "network": {…}, …, "tensors": {"cell.weight_ih": {"dtype": "float32", "shape": [20, 3],
"data": […]}, …}}``. Data are the numbers row by row; those that JSON cannot say are the words ``"nan"``, ``"inf"``
and ``"-inf"``. It is read back bit for bit.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from treadle.atomic import regular, write_whole
from treadle.errors import ModelFileError
from treadle.files.model_file import KIND, check, contents, network_of, signed

_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)}  # fmt: skip
_INNER = ("network", "tied", "frozen", "notes")
"""What is JSON within JSON in the metadata of a safetensors file, and plain here."""


def save_json(path: str | os.PathLike[str], model: nn.Module, notes: Mapping[str, Any] | None = None) -> None:
    """Write a network to one JSON file: its wiring and its weights.

    Before it is written, it is read again: every number has to be the same.

    Args:
        path: the file.
        model: what `treadle.save` takes.
        notes: further information, as JSON values.

    Raises:
        ModelFileError: the network holds something that cannot be described.
        OSError: the file cannot be written.

    Example:
        >>> import treadle as td
        >>> from treadle.files.json_file import load_json, save_json
        >>> cell = td.GRUCell(2, 3)
        >>> save_json("cell.json", cell)
        >>> td.fingerprint(load_json("cell.json")) == td.fingerprint(cell)
        True
    """
    tensors, metadata = contents(model, notes)
    words: dict[str, Any] = signed(tensors, metadata)
    words |= {name: json.loads(words[name]) for name in _INNER if name in words}
    text = json.dumps(words | {"tensors": {name: _as_json(name, tensor) for name, tensor in tensors.items()}})
    _read(path, text)  # whose checksum is over every number
    write_whole(path, text.encode())


def load_json(path: str | os.PathLike[str], cells: Iterable[type] = ()) -> Any:
    """Read a network that `save_json` wrote. Nothing that the file names is imported or run.

    Args:
        path: the file.
        cells: classes of your own that the network uses.

    Raises:
        ModelFileError: the file is not one of these, is truncated or changed, was made by a newer treadle, or needs a
            class that was not passed.
        OSError: the file cannot be read.
    """
    return network_of(path, *read_json(path), cells)


def read_json(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of such a file, and its words: what `treadle.files.model_file.read` gives of the other kind.

    Raises:
        ModelFileError: as of `load_json`.
        OSError: the file cannot be read.
    """
    try:
        text = Path(regular(path)).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelFileError(f"{path} is no JSON file: it is not UTF-8 text") from None
    return _read(path, text)


def _as_json(name: str, tensor: Tensor) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _TYPES:
        raise ModelFileError(f"{name} is a tensor of {dtype}, which a JSON file cannot hold: save a .safetensors file")
    numbers = tensor.reshape(-1).tolist()
    if tensor.is_floating_point() and dtype != "float64":
        numbers = [float(f"{number:.9g}") for number in numbers]  # enough to tell one float32 from the next
    data = [number if math.isfinite(number) else str(number) for number in numbers]
    return {"dtype": dtype, "shape": list(tensor.shape), "data": data}


def _read(path: str | os.PathLike[str], text: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        words = json.loads(text)
        tensors = {name: _tensor(one) for name, one in words.pop("tensors").items()}
        metadata = {name: json.dumps(one) if name in _INNER else str(one) for name, one in words.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, RuntimeError) as error:
        raise ModelFileError(
            f"{path} is not a JSON file of treadle's: it is truncated, damaged or something else"
            f" ({type(error).__name__}: {error!s:.80})"
        ) from None
    check(path, KIND, tensors, metadata)
    return tensors, metadata


def _tensor(one: Mapping[str, Any]) -> Tensor:
    dtype, shape = _TYPES[one["dtype"]], [int(size) for size in one["shape"]]
    # Of words only those that JSON cannot say as numbers: float() alone would take others.
    data = [_NUMBERS[number] if isinstance(number, str) else number for number in one["data"]]
    return torch.tensor(data, dtype=torch.float64 if dtype.is_floating_point else torch.int64).to(dtype).reshape(shape)


_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
