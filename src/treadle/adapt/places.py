"""Where the features of a wider row come from, and how new weights start.

*Places* say of each feature of a new row which one of the old row it is, or -1 if it is new: ``[0, 1, 2, -1, -1]`` is a
row of three with two behind it. ``None`` stands for a row that is as it was.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

Places: TypeAlias = Tensor | None

Changed: TypeAlias = tuple[nn.Module, Places]
"""A part that was changed, and the places of what it gives."""


def appended(old: int, new: int) -> Places:
    """``new - old`` features behind the ``old`` ones."""
    return None if old == new else torch.cat([torch.arange(old), torch.full((new - old,), -1)])


def joined(parts: Sequence[tuple[Places, int]]) -> Places:
    """The places of rows side by side; each part with the size of its old row."""
    if all(places is None for places, _ in parts):
        return None
    found, offset = [], 0
    for places, size in parts:
        places = torch.arange(size) if places is None else places
        found.append(torch.where(places < 0, places, places + offset))
        offset += size
    return torch.cat(found)


def same(a: Places, b: Places) -> bool:
    """Whether two rows are laid out alike."""
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def grid(axes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Indices that pick a block out of a tensor, one list of indices for each axis."""
    return tuple(index.reshape(-1, *[1] * (len(axes) - 1 - k)) for k, index in enumerate(axes))


def placed(old: Tensor, new: Tensor, axes: dict[int, Tensor]) -> Tensor:
    """Write the numbers of ``old`` to their places in ``new``, whose other numbers stay.

    Returns:
        Booleans of the shape of ``new``: where it is new.
    """
    into, out_of = [], []
    for axis in range(new.ndim):
        places = axes.get(axis)
        places = torch.arange(new.shape[axis]) if places is None else places
        there = places >= 0
        into.append(there.nonzero()[:, 0].to(new.device))
        out_of.append(places[there].to(new.device))
    is_new = torch.ones(new.shape, dtype=torch.bool, device=new.device)
    if new.ndim == 0:
        new.copy_(old)
        return ~is_new
    new[grid(into)] = old[grid(out_of)]
    is_new[grid(into)] = False
    return is_new


Start: TypeAlias = Literal["zeros", "xavier", "mean", "fresh"]
"""How new weights start: at zero, uniform as Glorot and Bengio drew them for the fan of the tensor, as the mean of the
old ones along the axis, or as the network that is filled had them."""

STARTS = ("zeros", "xavier", "mean", "fresh")


def _xavier(value: Tensor, tensor: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    bound = math.sqrt(6 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
    return value.new_empty(shape).uniform_(-bound, bound)


STARTED: dict[str, Callable[[Tensor, Tensor, tuple[int, ...], int], Tensor]] = {
    "zeros": lambda value, tensor, shape, axis: value.new_zeros(shape),
    "xavier": _xavier,
    "mean": lambda value, tensor, shape, axis: value.mean(axis, keepdim=True).expand(shape).clone(),
    "fresh": lambda value, tensor, shape, axis: tensor.clone(),
}
