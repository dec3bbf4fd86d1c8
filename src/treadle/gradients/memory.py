"""Memory in bytes: what may be used, and what a step takes."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_bytes", "kept_by_a_step", "show_bytes"]

_UNITS = {
    "": 1,
    **{f"{prefix}b": 1000**i for i, prefix in enumerate(["", "k", "m", "g", "t"])},
    **{f"{prefix}ib": 1024**i for i, prefix in enumerate(["k", "m", "g", "t"], 1)},
}


def as_bytes(memory: int | str) -> int:
    """``"1GB"`` as a number; ``"1.5 GiB"``, ``"200 MB"`` and numbers likewise.

    Raises:
        ValueError: it is no amount of memory.
    """
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", memory.lower()) if isinstance(memory, str) else None
    size = int(float(found[1]) * _UNITS.get(found[2], 0)) if found is not None else 0
    if size < 1:
        raise ValueError(
            f"memory is a positive number of bytes, or a text such as '500MB' or '1.5GiB', but is {memory!r:.40}"
        )
    return size


def show_bytes(size: int) -> str:
    """``12.3MB``: to be read, and to be passed as ``memory=``, so never too little."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{-(-size * 10 // factor) / 10:g}{unit}"
    return f"{size}B"


def kept_by_a_step(run: Callable[[int], Any]) -> int:
    """How many bytes a step more keeps for its derivative.

    Args:
        run: runs that many steps with gradients, and returns what came of them.
    """
    one, two = _kept(run, 1), _kept(run, 2)
    return max(two - one, 1)


def _kept(run: Callable[[int], Any], steps: int) -> int:
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        alive = run(steps)
    del alive
    return sum(found.values())
