"""PyTorch's ``hx``, one tensor [L, B, H] for each field of the state, and treadle's states, one for each layer."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from treadle.errors import ShapeError, StateError
from treadle.running.recurrent import Recurrent
from treadle.state import shape

Hx: TypeAlias = Tensor | tuple[Tensor, ...]
"""A tensor where the state has one field, such as a GRU's; else one for each, such as ``(h, c)``."""


def joined(parts: Sequence[Tensor]) -> Hx:
    """The tensors of all fields as PyTorch passes them."""
    return tuple(parts) if len(parts) > 1 else parts[0]


def parts_of(hx: Any, fields: Sequence[str], axes: int) -> list[Tensor]:
    """The inverse of `joined`, once the tensors are known to be one for each field, of so many axes."""
    parts = list(hx) if isinstance(hx, Sequence) else [hx]
    if len(parts) != len(fields):
        raise StateError(f"hx is ({', '.join(f'{field}_0' for field in fields)}), but {len(parts)} were passed")
    if any(part.dim() != axes for part in parts):
        dims = [part.dim() for part in parts]
        batched = "batched 3-D" if axes == 3 else "unbatched 2-D"
        raise RuntimeError(f"For {batched} input, hx and cx should also be {axes}-D but got {dims}-D tensors")
    return parts


def state_type(cell: Any) -> Any:
    """The named tuple that a cell has as its state; a StateError if it has none."""
    kind = type(cell.initial_state(0))
    if not hasattr(kind, "_fields"):
        raise StateError(
            f"the state of {type(cell).__name__} must be a NamedTuple here: hx has one tensor for each of its fields"
        )
    return kind


def per_layer(parts: Sequence[Tensor], cells: Sequence[Any]) -> list[Any]:
    """The state of each cell, out of the tensors of all."""
    if any(len(part) != len(cells) for part in parts):
        raise ShapeError(f"hx is [{len(cells)}, B, H], one slice a layer, but is {[shape(part) for part in parts]}")
    return [state_type(cell)(*(part[i] for part in parts)) for i, cell in enumerate(cells)]


def stacked(layers: Iterable[Any]) -> list[Tensor]:
    """The inverse of `per_layer`."""
    return [torch.stack(group) for group in zip(*layers, strict=True)]


@functools.lru_cache(maxsize=64)
def groups_of(layers: int, fields: int) -> tuple[tuple[int, ...], ...]:
    """Which tensors of a state, layer by layer and field by field, are those of each field."""
    return tuple(tuple(range(field, layers * fields, fields)) for field in range(fields))


def as_state(parts: Sequence[Tensor], stack: Recurrent) -> dict[str, Any]:
    """The tensors of all layers as the state of a `treadle.Stack` over time."""
    state: dict[str, Any] = {f"layer{i}": one for i, one in enumerate(per_layer(parts, stack.cell.cells))}
    # What a layer gave one step ago is its hidden state, so hx says that as well.
    delayed = [name for name in stack.initial_state(0) if name.endswith(".delayed")]
    return state | {name: (state[name.removesuffix(".delayed")].h,) for name in delayed}


def as_hx(state: Any, num_layers: int) -> Hx:
    """The inverse of `as_state`."""
    return joined(stacked(state[f"layer{i}"] for i in range(num_layers)))
