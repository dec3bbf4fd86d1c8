"""A whole network in one file: safetensors, with the description of the network in the metadata. No code, no pickle."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from treadle.atomic import regular, write_whole
from treadle.errors import ModelFileError
from treadle.files.description import build, describe, tensors_of

KIND = "treadle model"
FORMAT = 1
"""Grows whenever files change in a way that an older treadle would misread."""


def save(path: str | os.PathLike[str], model: nn.Module, notes: Mapping[str, Any] | None = None) -> None:
    """Write a network to one ``.safetensors`` file: its weights, and how it is wired.

    The file is written under another name and then renamed, so a file is always complete.

    Args:
        path: the file to write.
        model: a cell, `Stack`, `Graph`, `Recurrent` or a drop-in. Cells of your own need to keep the arguments of their
            ``__init__`` in attributes of the same names.
        notes: further information, such as units of its inputs, as JSON values; `read_notes` returns it.

    Raises:
        ModelFileError: the network holds something that cannot be described.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, os, torch, treadle as td
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(8, 5)], wiring="skip"))
        >>> td.save(path, rnn)
        >>> again = td.load(path)
        >>> xs = torch.randn(2, 7, 3)
        >>> torch.equal(rnn(xs)[0], again(xs)[0])
        True
    """
    write(path, *contents(model, notes))


def contents(model: nn.Module, notes: Mapping[str, Any] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a model file holds of a network: its tensors, and words about it.

    Raises:
        ModelFileError: as of `save`.
    """
    description, tensors = describe(model), tensors_of(model)
    metadata = {
        "format": KIND,
        "network": description,
        "training": str(model.training),
        "tied": json.dumps(_tied(model)),
        "frozen": json.dumps([name for name, parameter in model.named_parameters() if not parameter.requires_grad]),
    }
    if notes is not None:
        metadata["notes"] = json.dumps(notes)
    return tensors, metadata


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes of a model file; an empty dict without any.

    Raises:
        ModelFileError: the file is not a model file, is damaged, or was made by a newer treadle.
        OSError: the file cannot be read.

    Example:
        >>> import treadle as td
        >>> from treadle.files.model_file import read_notes
        >>> td.save("noted.safetensors", td.GRUCell(2, 3), notes={"unit": "degrees"})
        >>> read_notes("noted.safetensors")
        {'unit': 'degrees'}
    """
    return notes_of(path, read(path, KIND)[1])


def notes_of(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The notes among the words of a model file."""
    try:
        notes = json.loads(metadata.get("notes", "{}"))
    except (ValueError, RecursionError):
        notes = None
    if not isinstance(notes, dict):
        raise ModelFileError(f"{path} is damaged: its notes cannot be read")
    return notes


def load(path: str | os.PathLike[str], cells: Iterable[type] = ()) -> Any:
    """Read a network that `save` wrote. Nothing that the file names is imported or run.

    Args:
        path: the file.
        cells: classes of your own that the network uses: ``td.load(path, cells=[MyCell])``.

    Returns:
        The network, on the CPU, in the mode (training or evaluation) in which it was saved.

    Raises:
        ModelFileError: the file is not a model file, is truncated or changed, was made by a newer treadle, or needs a
            class that was not passed.
        OSError: the file cannot be read.
    """
    return network_of(path, *read(path, KIND), cells)


def network_of(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], cells: Iterable[type] = ()
) -> Any:
    """The network that `contents` describes, read from a file that need not be right.

    Raises:
        ModelFileError: its parts do not fit together, or it needs a class that was not passed.
    """
    description = metadata.get("network", "")
    cells = tuple(cells)
    with torch.random.fork_rng(devices=[]):
        # A file that claims sizes which its weights do not have must not make us allocate them: so first without
        # memory, and as a class of the caller's own may not work on "meta", then with no more than the weights need.
        try:
            with torch.device("meta"):
                sketch = build(description, cells)
        except ModelFileError:
            if not cells:
                raise
        else:
            _check_shapes(path, sketch, tensors)
        with _Allowance(path, ALLOWED + 16 * sum(tensor.nbytes for tensor in tensors.values())):
            model = build(description, cells)
        _check_shapes(path, model, tensors)
    model.load_state_dict(tensors, assign=True)
    _tie_and_freeze(path, model, metadata)
    return model.train(metadata.get("training") == "True")


ALLOWED = 1 << 28
"""Bytes that a network may take while it is built, besides a multiple of its weights."""
FACTORIES = (
    *(torch.arange, torch.empty, torch.empty_strided, torch.eye, torch.full, torch.linspace, torch.logspace),
    *(torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.zeros),
)
"""What makes tensors of nothing but sizes."""


class _Allowance(TorchFunctionMode):
    """A context that refuses a network which takes more memory than its file can be about."""

    def __init__(self, path: str | os.PathLike[str], left: int):
        super().__init__()
        self.path, self.left = path, left

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES and "out" not in kwargs:
            options = {name: value for name, value in kwargs.items() if name != "generator"}
            self.left -= func(*args, **options | {"device": "meta"}).nbytes
            if self.left < 0:
                raise ModelFileError(
                    f"{self.path} does not fit together: its network would take far more memory than its weights do"
                )
        return func(*args, **kwargs)


def require_finite(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Refuse a network whose training diverged, where its answers are about to be used.

    Raises:
        ModelFileError: with the name of a weight that is not finite.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelFileError(f"{path} cannot answer: its weights {name} are not finite, so train it again")


def fingerprint(model: nn.Module) -> str:
    """A hash of a network's wiring and of all its weights: equal for equal networks, on any device.

    Example:
        >>> import copy, treadle as td
        >>> cell = td.GRUCell(2, 3)
        >>> td.fingerprint(cell) == td.fingerprint(copy.deepcopy(cell))
        True
    """
    try:
        description = describe(model)
    except ModelFileError:
        description = repr(model)  # of a network that no file can hold, its print-out has to do
    return checksum(description, tensors_of(model))


def checksum(description: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a description and named tensors, with names, types and shapes."""
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with a checksum over all of it."""
    write_whole(path, content_of(tensors, metadata))


def content_of(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with a checksum over all of it."""
    metadata = signed(tensors, metadata)
    # Not save_file, which writes to a file of a name of its own first, and leaves it if the process is killed.
    return safetensors.torch.save(dict(tensors), metadata)


def signed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Words about tensors, with the version of the format and a checksum over all of it."""
    words = {**metadata, "version": str(FORMAT)}
    return words | {"checksum": checksum(json.dumps(words, sort_keys=True), tensors)}


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of one of treadle's files.

    Raises:
        ModelFileError: it is none, or not of this kind, or truncated, changed, or newer than this treadle.
        OSError: the file cannot be read.
    """
    with open(regular(path), "rb"):
        pass  # raises what the operating system has to say, which safetensors rewords
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        raise _not_whole(path, error) from None
    check(path, kind, tensors, metadata)
    return tensors, metadata


def parse(content: bytes, kind: str, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `read` gives, of the bytes of such a file; messages call them by ``name``.

    Raises:
        ModelFileError: as of `read`.
    """
    try:
        tensors = safetensors.torch.load(content)  # looks at the header first: it is whole JSON afterwards
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = dict(header.get("__metadata__") or {})
    except (safetensors.SafetensorError, ValueError, RuntimeError, MemoryError, KeyError) as error:
        raise _not_whole(name, error) from None
    check(name, kind, tensors, metadata)
    return tensors, metadata


def _not_whole(path: str | os.PathLike[str], error: Exception) -> ModelFileError:
    return ModelFileError(
        f"{path} is not a whole safetensors file: it is truncated, damaged or something else ({error})"
    )


def check(path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Refuse contents that are not of a kind, or newer than this treadle, or not as they were written.

    Raises:
        ModelFileError: with the reason.
    """
    if metadata.get("format") != kind:
        found = metadata.get("format", "another program's safetensors file")
        raise ModelFileError(f"{path} is not a {kind} file but {found:.80}")
    version = metadata.get("version", "")
    if not version.isdecimal() or len(version) > 9:
        raise ModelFileError(f"{path} is damaged: it does not say which version of the format it is")
    if int(version) > FORMAT:
        raise ModelFileError(
            f"{path} has format {version}, but this treadle reads up to {FORMAT}: upgrade treadle to read it"
        )
    said = metadata.pop("checksum", None)
    if said != checksum(json.dumps(metadata, sort_keys=True), tensors):
        raise ModelFileError(f"{path} is damaged or was changed since it was saved: its checksum does not fit")


def _check_shapes(path: str | os.PathLike[str], model: Any, tensors: Mapping[str, Tensor]) -> None:
    if not isinstance(model, nn.Module):
        raise ModelFileError(f"{path} does not hold a network")

    def kinds(found: Mapping[str, Tensor]) -> dict[str, str]:
        return {
            name: f"{'floats' if tensor.is_floating_point() else 'whole numbers'} {list(tensor.shape)}"
            for name, tensor in found.items()
        }

    wanted, given = kinds(model.state_dict()), kinds(tensors)
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ModelFileError(
                f"{path} does not fit together: its network needs {name} as {wanted.get(name, 'nothing')},"
                " but its weights"
                f" have {given.get(name, 'nothing')}"
            )


def _tied(model: nn.Module) -> list[list[str]]:
    """The names of parameters that are one and the same, group by group."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _tie_and_freeze(path: str | os.PathLike[str], model: nn.Module, metadata: Mapping[str, str]) -> None:
    """Make parameters one again that were one when they were saved, and let those rest that rested."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    try:
        tied, frozen = json.loads(metadata["tied"]), json.loads(metadata["frozen"])
        for first, *others in tied:
            for name in others:
                if parameters[name].shape != parameters[first].shape:
                    raise ValueError(name)
                owner, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(owner), attribute, parameters[first])
        for name in frozen:
            parameters[name].requires_grad_(False)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is damaged: what it says of shared or frozen weights does not fit ({error})"
        ) from None
