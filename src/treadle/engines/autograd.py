"""Gradients of what was run, as every node of autograd of our own asks for them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def gradients_of(
    leaves: Sequence[Tensor],
    needs: Sequence[bool],
    results: Sequence[Tensor],
    from_above: Sequence[Tensor | None],
    **options: Any,
) -> list[Tensor | None]:
    """The gradients of the leaves that need one, from those of the results; None elsewhere, and where none flows.

    The options are those of `torch.autograd.grad`.
    """
    pairs = [(r, g) for r, g in zip(results, from_above, strict=True) if g is not None and r.requires_grad]
    wanted = [leaf for leaf, need in zip(leaves, needs, strict=True) if need]
    if not pairs or not wanted:
        return [None] * len(leaves)
    outputs, above = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, above, allow_unused=True, **options))
    return [next(found) if need else None for need in needs]


def gradients_again(
    run: Callable[[list[Tensor]], Sequence[Tensor]],
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
    from_above: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of a node's tensors by PyTorch, from what ``run`` computes again; they have a derivative."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Stand-ins: the gradient of one must not take in what reaches it through another that is made of it.
        tensors = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        return gradients_of(tensors, needs, run(tensors), from_above, create_graph=again)
