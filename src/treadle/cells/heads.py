"""Units that are divided into heads, each with weights of its own: what the cells of this kind share."""

import torch
from torch import Tensor

from treadle.cells.base import positive
from treadle.errors import ShapeError


def checked_heads(heads: int, hidden_size: int) -> int:
    """``heads`` if the units can be divided into so many.

    Raises:
        ShapeError: it is not a positive whole number, or does not divide ``hidden_size``.
    """
    if hidden_size % positive("heads", heads):
        raise ShapeError(
            f"{heads} heads do not divide hidden_size ({hidden_size}): {hidden_size} / {heads} leaves a rest; pass a"
            " divisor of hidden_size"
        )
    return heads


def block_diagonal(x: Tensor, weight: Tensor, gates: int) -> Tensor:
    """The product with a block-diagonal matrix, gate by gate.

    Args:
        x: [B, H], a block of H/heads features per head.
        weight: [heads, gates · H/heads, H/heads], rows of each head gate by gate.
        gates: how many results each unit has.

    Returns:
        [B, gates · H], all heads of the first gate, then all heads of the next.
    """
    by_head = x.unflatten(1, (weight.shape[0], -1)).transpose(0, 1)  # [heads, B, H/heads]
    results = torch.bmm(by_head, weight.transpose(1, 2))  # [heads, B, gates H/heads]
    return results.transpose(0, 1).unflatten(2, (gates, -1)).transpose(1, 2).flatten(1)
