"""Files by their suffix: which are read, which are written, and what each is told besides."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from treadle.files import json_file, model_file
from treadle.interop.c_file import to_c
from treadle.interop.keras_reading import from_keras
from treadle.interop.keras_writing import to_keras
from treadle.interop.onnx_file import to_onnx
from treadle.interop.onnx_reading import from_onnx
from treadle.interop.pt2_file import to_pt2
from treadle.interop.report import Report


@dataclasses.dataclass(frozen=True)
class Found:
    """What a file holds: a network, and notes such as the units of its inputs."""

    network: Any
    notes: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        read: ``read(path, **options)`` gives what there is; None where none is read.
        write: ``write(found, path, **options)`` gives a `Report`; None where none is written.
        reads: the options that ``read`` takes.
        writes: the options that ``write`` takes.
    """

    read: Callable[..., Found] | None = None
    write: Callable[..., Report] | None = None
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


def _of_other(reader: Callable[..., Any]) -> Callable[..., Found]:
    return lambda path, **options: Found(reader(path, **options))


def _to_other(writer: Callable[..., Report]) -> Callable[..., Report]:
    return lambda found, path, **options: writer(found.network, path, **options)


def _own(read: Callable[..., Any], save: Callable[..., None]) -> Format:
    def found(path: Path) -> Found:
        tensors, metadata = read(path)
        notes = model_file.notes_of(path, metadata) if "notes" in metadata else None
        return Found(model_file.network_of(path, tensors, metadata), notes)

    def write(found: Found, path: Path) -> Report:
        save(path, found.network, found.notes)
        return Report(str(path), "every number, bit for bit", 0.0)

    return Format(found, write)


_ANY = {"input_size", "tolerance"}
FORMATS: dict[str, Format] = {
    ".safetensors": _own(lambda path: model_file.read(path, model_file.KIND), model_file.save),
    ".json": _own(json_file.read_json, json_file.save_json),
    ".onnx": Format(_of_other(from_onnx), _to_other(to_onnx), frozenset({"tolerance"}), frozenset({"form", *_ANY})),
    **dict.fromkeys(
        (".keras", ".h5"),
        Format(_of_other(from_keras), _to_other(to_keras), frozenset({"tolerance"}), frozenset({"tolerance"})),
    ),
    ".pt2": Format(None, _to_other(to_pt2), frozenset(), frozenset({"form", "compiled", *_ANY})),
    ".c": Format(None, _to_other(to_c), frozenset(), frozenset({"weights", "name", "compiler", *_ANY})),
}
"""By suffix."""


def readable() -> list[str]:
    """The suffixes of the files that are read."""
    return [suffix for suffix, one in FORMATS.items() if one.read is not None]


def writable(option: str = "") -> list[str]:
    """The suffixes of the files that are written, or of those that are written as an option says."""
    known = [suffix for suffix, one in FORMATS.items() if one.write is not None]
    return [suffix for suffix in known if not option or option in FORMATS[suffix].writes]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    tolerance: float | None = None,
    **options: Any,
) -> list[str]:
    """Read a network from one file and write it to another; what they are, their suffixes say.

    Args:
        source: a file of `readable` kind.
        target: a file of `writable` kind.
        tolerance: how far both sides of each step may differ.
        **options: what the kind of ``target`` takes besides.

    Returns:
        What was read, kept and written, a line each.

    Raises:
        InteropError: both sides differ, or something cannot be said in the other format.
        ModelFileError: the file cannot be read.
        TypeError: the network cannot be written as such a file.
    """
    reads, writes = FORMATS[Path(source).suffix.lower()], FORMATS[Path(target).suffix.lower()]
    assert reads.read is not None
    assert writes.write is not None
    told = {} if tolerance is None else {"tolerance": tolerance}
    found = reads.read(source, **(told if "tolerance" in reads.reads else {}))
    report = getattr(found.network, "report", None)
    written = writes.write(found, target, **options, **(told if "tolerance" in writes.writes else {}))
    left_out = _left_out(found.network) if writes.writes else ""
    lines = [str(report) if report else "", f"kept: {_kept(found.network)}", left_out, str(written)]
    return [line for line in lines if line]


def _kept(network: nn.Module) -> str:
    """The kinds of a network's parts, and how many weights they have."""
    inner = [module for module in network.modules() if not list(module.children())]
    kinds = Counter(type(module).__name__ for module in inner if list(module.parameters()))
    parts = [name if count == 1 else f"{count} {name}" for name, count in kinds.items()]
    weights = [*network.parameters()]
    types = sorted({str(one.dtype).removeprefix("torch.") for one in weights})
    count = sum(one.numel() for one in weights)
    return f"{', '.join(parts) or type(network).__name__}; {count:,} weights in {' and '.join(types) or 'none'}"


def _left_out(network: nn.Module) -> str:
    """What a file of another kind leaves out: it holds networks in evaluation mode."""
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
    rates = {
        name: one.p if isinstance(one, kinds) else getattr(one, "dropout", 0) for name, one in network.named_modules()
    }
    names = [name or type(network).__name__ for name, rate in rates.items() if isinstance(rate, float) and rate]
    return f"changed: dropout of {', '.join(names)} is left out, as in evaluation" if names else ""
