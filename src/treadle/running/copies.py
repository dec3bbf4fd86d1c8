"""Copies of networks, whatever stands in for their parameters."""

import copy
from typing import Any

from torch import Tensor, nn


def detached_copy(network: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy, with ``memo`` as `copy.deepcopy` takes it."""
    memo = {} if memo is None else memo
    # What stands in for a parameter (weight norm, pruning) is a tensor with a history, which deepcopy refuses.
    for module in network.modules():
        for part in vars(module).values():
            if isinstance(part, Tensor) and id(part) not in memo:
                memo[id(part)] = part.detach().clone()
    return copy.deepcopy(network, memo)


def evaluated_copy(network: nn.Module) -> Any:
    """A copy in evaluation mode, without gradients."""
    copied = detached_copy(network).eval().requires_grad_(False)
    copied.zero_grad()  # gradients were copied as well
    return copied
