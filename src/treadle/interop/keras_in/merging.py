"""Layers of Keras that join several values, and the bare operations that Keras 3 writes into a graph (x + y, masks)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from treadle.files.description import kept_in_files
from treadle.interop.keras_in.layer import KerasLayer, Masked

_JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Average": torch.add, "Subtract": torch.sub, "Multiply": torch.mul, "Maximum": torch.maximum,
    "Minimum": torch.minimum,
}  # fmt: skip
JOINS = tuple(_JOINS)


@kept_in_files("treadle.KerasJoin")
class Join(KerasLayer):
    """Values of one shape, number by number.

    Args:
        kind: one of `JOINS`.
        any_mask: whether a step counts that counts in any of the values, as in Keras 3; or in all, as before.
    """

    def __init__(self, kind: str, any_mask: bool):
        super().__init__()
        self.kind, self.any_mask = kind, any_mask

    def forward(self, *values: Masked) -> Masked:
        """Of two or more."""
        masks = [value.mask for value in values]
        if self.kind in ("Multiply", "Maximum", "Minimum") and any(mask is not None for mask in masks):
            raise ValueError("what it gives for masked steps differs between versions of Keras, so it cannot be read")
        y = values[0].x
        for value in values[1:]:
            y = _JOINS[self.kind](y, value.x)
        return Masked(y / len(values) if self.kind == "Average" else y, self._mask(masks))

    def _mask(self, masks: list[Tensor | None]) -> Tensor | None:
        known = [mask for mask in masks if mask is not None]
        if not known or (self.any_mask and len(known) < len(masks)):
            return None
        stacked = torch.stack(torch.broadcast_tensors(*known))
        return stacked.any(0) if self.any_mask else stacked.all(0)


@kept_in_files("treadle.KerasConcatenate")
class Concatenate(KerasLayer):
    """Values one after the other along an axis.

    Args:
        axis: of [B, …].
        any_mask: as of `Join`.
    """

    def __init__(self, axis: int, any_mask: bool):
        super().__init__()
        self.axis, self.any_mask = axis, any_mask

    def forward(self, *values: Masked) -> Masked:
        """Of two or more."""
        y = torch.cat([value.x for value in values], self.axis)
        if all(value.mask is None for value in values):
            return Masked(y)
        masks = torch.cat([_spread(value) for value in values], self.axis)
        return Masked(y, masks.any(-1) if self.any_mask else masks.all(-1))


def _spread(value: Masked) -> Tensor:
    if value.mask is None:
        return torch.ones_like(value.x, dtype=torch.bool)
    return value.mask.reshape(*value.mask.shape, *[1] * (value.x.ndim - value.mask.ndim)).expand_as(value.x)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "Subtract": torch.sub, "Multiply": torch.mul, "Divide": torch.true_divide,
    "TrueDivide": torch.true_divide, "NotEqual": torch.ne, "Equal": torch.eq, "LogicalOr": torch.logical_or,
    "LogicalAnd": torch.logical_and, "LogicalNot": torch.logical_not,
    "ExpandDims": lambda x, axis: x.unsqueeze(axis), "Squeeze": lambda x, axis: x.squeeze(axis),
    "ZerosLike": lambda x, dtype=None: torch.zeros_like(x, dtype=torch.bool if dtype == "bool" else x.dtype),
    "OnesLike": lambda x, dtype=None: torch.ones_like(x, dtype=torch.bool if dtype == "bool" else x.dtype),
    "Any": lambda x, axis, keepdims=False: x.any(axis, keepdims),
    "Concatenate": lambda *xs, axis: torch.cat(xs, axis),
}  # fmt: skip
OPERATIONS = tuple(_OPERATIONS)


@kept_in_files("treadle.KerasOperation")
class Operation(KerasLayer):
    """A bare operation of Keras 3: of tensors and numbers; no mask passes.

    Args:
        kind: one of `OPERATIONS`.
        options: by name.
    """

    def __init__(self, kind: str, options: Mapping[str, Any]):
        super().__init__()
        self.kind, self.options = kind, dict(options)

    def forward(self, *values: Masked | float) -> Masked:
        """Of values and numbers."""
        found = [torch.as_tensor(value) if isinstance(value, int | float) else value.x for value in values]
        return Masked(_OPERATIONS[self.kind](*found, **self.options))
