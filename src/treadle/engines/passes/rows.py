"""Tensors as code of our own reads them: their rows first, dense, and with the numbers that they have in memory."""

import torch
from torch import Tensor

from treadle.compiler.program import Value


def contiguous(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Dense, in the type of the kernel; truth values as numbers."""
    tensor = with_signs(tensor)
    return tensor if tensor.dtype == dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()


def with_signs(tensor: Tensor) -> Tensor:
    """With the numbers that it has in memory: PyTorch may have put off a change of signs."""
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def rows_first(tensor: Tensor, value: Value) -> Tensor:
    """[N, ...] of a tensor that has the axis of rows where the value has it."""
    return tensor.movedim(value.batch_axis, 0) if value.batch_axis > 0 else tensor


def with_rows_in_place(tensor: Tensor, value: Value) -> Tensor:
    """[N, ...] with the axis of rows where the value has it."""
    return tensor.movedim(0, value.batch_axis) if value.batch_axis > 0 else tensor
