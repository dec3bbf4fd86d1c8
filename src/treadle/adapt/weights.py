"""The weights in a file, whoever wrote it. Nothing in it is run."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from treadle.atomic import regular
from treadle.errors import ModelFileError
from treadle.files.checkpoint import KIND, weights_in


def read_weights(path: str | os.PathLike[str]) -> Any:
    """What is in a file of safetensors or of `torch.save`: most often tensors by name.

    Of a checkpoint of `treadle.training.save_checkpoint`, the weights of its network.

    Raises:
        ModelFileError: the file is damaged, is something else, or holds more than data.
        OSError: the file cannot be read.
    """
    with open(regular(path), "rb") as file:  # the system's own words for a file that is not there
        head = file.read(9)
    try:
        if head[8:] == b"{":  # of the header, behind its length
            with safe_open(path, framework="pt") as file:
                found: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return weights_in(found) if (file.metadata() or {}).get("format") == KIND else found
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # readers raise whatever they stumble over
        reason = " ".join(str(error).split())[:80]
        raise ModelFileError(
            f"{path} is no file of weights alone, or is damaged ({reason}…): pass a state dict that torch.save or"
            " safetensors wrote"
        ) from None


def tensors_by_name(source: Any, who: str, wanted: str = "tensors by name") -> dict[str, Tensor]:
    """The tensors of a network, or of a state dict; what modules keep beside their tensors is left out.

    NumPy arrays are tensors too: copies.
    """
    found = source.state_dict() if isinstance(source, nn.Module) else source
    if not isinstance(found, Mapping):
        raise TypeError(f"{who} takes {wanted}, but was given a {type(source).__name__}")
    tensors = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
        elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            tensors[name] = torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
        elif isinstance(value, Mapping) and any(isinstance(one, Tensor | np.ndarray) for one in value.values()):
            raise TypeError(
                f"{who} takes {wanted}, but {name!r} is a dict, so this is a whole checkpoint: pass"
                f" checkpoint[{name!r}]"
            )
        elif not str(name).endswith("_extra_state"):
            raise TypeError(f"{who} takes {wanted}, but {name!r} is a {type(value).__name__}, not a tensor")
    return tensors
