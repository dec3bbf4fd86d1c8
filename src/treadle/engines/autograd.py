"""Gradients of what was run, as every node of autograd of our own asks for them."""

from collections.abc import Sequence
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
