"""How many bytes of memory a step takes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
