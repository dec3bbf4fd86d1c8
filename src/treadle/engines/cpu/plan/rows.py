"""Rows as tensors: which ones a recipe is followed with, by key, and as what machine code reads them."""

import enum
import functools
from collections.abc import Container
from typing import NamedTuple

import torch
from torch import Tensor

from treadle.engines.layout import Layout, Split
from treadle.engines.passes.rows import with_signs


class Role(enum.StrEnum):
    """What a tensor is to a recipe. The number beside it in a key says which input, output or state it belongs to."""

    COUNTS = "how many rows each step has"
    OFFSETS = "where the rows of each step begin"
    RUN_OFFSETS = "the same within the run of rows of one thread"
    RESETS = "which rows are reset"
    ORIGINS = "where the state before each step is"

    ROWS = "rows of an input"
    INDICES = "rows of an input, whole numbers"
    MATRIX = "an operand without rows, with any strides"
    SHARED = "an operand without rows, dense"

    START = "a state before the first step"
    FRESH = "a state that resets start from"
    END = "a state after the last step"
    OUTPUT = "an output"

    OUTPUT_GRADIENT = "the gradient of an output"
    END_GRADIENT = "the gradient of a state after the last step"
    INPUT_GRADIENT = "the gradient of an input"
    START_GRADIENT = "the gradient of a state before the first step"
    FRESH_GRADIENT = "the gradient of a state that resets start from"
    ZEROS = "zeros, in place of gradients that nobody gives"
    TOTAL = "a sum over all rows"
    READ_BY_TORCH = "rows that PyTorch makes a gradient of"


class TensorKey(NamedTuple):
    """Which tensor of a recipe."""

    role: Role
    number: int = 0


@functools.cache
def keys_of(role: Role, count: int) -> tuple[TensorKey, ...]:
    """The first keys of a role, in order."""
    return tuple(TensorKey(role, i) for i in range(count))


COUNTS, OFFSETS, RESETS, ORIGINS = map(TensorKey, (Role.COUNTS, Role.OFFSETS, Role.RESETS, Role.ORIGINS))


def dense_rows(tensor: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """[N, ...] with the rows first, each of them dense, at any distance from each other."""
    tensor = with_signs(tensor)
    if axis == 0 and tensor.dtype == dtype and tensor.is_contiguous():
        return tensor
    tensor = tensor.movedim(axis, 0) if axis > 0 else tensor
    tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    stride = 1
    for size, have in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if size != 1 and have != stride:
            return tensor.contiguous()
        stride *= size
    return tensor


def tensors_of_layout(layout: Layout, wanted: Container[TensorKey], runs: int) -> dict[TensorKey, Tensor]:
    """The tensors that say how rows lie, by key; in so many ``runs`` apart from each other, if any."""
    tensors = {COUNTS: layout.counts, OFFSETS: layout.offsets}
    order: Layout | Split = layout
    if runs:
        order = Split(layout, layout.shares(runs))
        tensors |= {TensorKey(Role.RUN_OFFSETS, i): offsets for i, offsets in enumerate(order.offsets)}
    if order.packed_resets is not None:
        tensors[RESETS] = order.packed_resets
    if ORIGINS in wanted:
        tensors[ORIGINS] = order.origins
    return tensors
