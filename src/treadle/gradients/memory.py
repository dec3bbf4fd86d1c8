"""Memory in bytes: what may be used, and what a step takes."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_UNITS = {
    "": 1,
    **{f"{prefix}b": 1000**i for i, prefix in enumerate(["", "k", "m", "g", "t"])},
    **{f"{prefix}ib": 1024**i for i, prefix in enumerate(["k", "m", "g", "t"], 1)},
}


def as_bytes(memory: int | str) -> int:
    """``"1GB"`` as a number; ``"1.5 GiB"``, ``"200 MB"`` and numbers likewise."""
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


FEWEST_STEPS = 3
"""Steps that a sequence must have to be measured."""


def kept_by_a_step(run: Callable[[int], tuple[Any, Sequence[Tensor]]]) -> int:
    """How many bytes a step more keeps for its derivative.

    ``run`` runs that many steps with gradients, and returns what came of them, and what they read.
    """
    # A single step is another matter: much of what it keeps is a view of what it reads.
    fewer, more = _kept(run, FEWEST_STEPS - 1), _kept(run, FEWEST_STEPS)
    return max(more - fewer, 1)


def _kept(run: Callable[[int], tuple[Any, Sequence[Tensor]]], steps: int) -> int:
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _alive, read = run(steps)
    for tensor in read:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(found.values())
