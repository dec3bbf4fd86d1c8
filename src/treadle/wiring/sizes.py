"""The arithmetic of wirings: what a module takes and gives, found out before anything runs.

A size is the shape of one row: ``(64,)`` for 64 features, ``(3, 32, 32)`` for an image, ``()`` for one token, ``None``
where it is not known yet.
"""

import contextlib
from typing import Any, TypeAlias

import torch
from torch import nn

from treadle.errors import ShapeError

Size: TypeAlias = tuple[int, ...] | None


def as_size(value: int | tuple[int, ...] | None) -> Size:
    """A user's way of writing a size as a size."""
    if value is None:
        return None
    size = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(n, int) and n > 0 for n in size):
        raise ShapeError(f"a size is a positive whole number or a tuple of them, but {value!r} was passed")
    return size


def as_number(size: Size) -> Any:
    """The inverse of `as_size`: a plain number where a row is flat."""
    return size[0] if size is not None and len(size) == 1 else size


def words(size: Size) -> str:
    """A size as the messages write it."""
    return "?" if size is None else "one number" if size == () else "x".join(map(str, size))


def concatenated(sizes: list[Size], description: str) -> Size:
    """The size of several reads side by side, along the first axis after the batch."""
    if len(sizes) == 1:
        return sizes[0]
    if any(size is None for size in sizes):
        return None
    known = [size for size in sizes if size is not None]
    if any(not size for size in known):
        raise ShapeError(
            f"{description}: a single token has no features to put beside others; give it an Embedding node first"
        )
    if len({size[1:] for size in known}) > 1:
        raise ShapeError(f"{description}: reads can be put side by side only if all axes but the features agree")
    return (sum(size[0] for size in known), *known[0][1:])


def is_cell(module: nn.Module) -> bool:
    """Whether a module has memory; every other module is called with its input alone."""
    return callable(getattr(module, "initial_state", None))


def output_size(module: nn.Module, input_size: Size) -> Size:
    """The size of a module's output: what it says itself, or what comes out when it is run on no rows at all.

    Raises whatever the module raises if it cannot take an input of that size.
    """
    stated = as_size(getattr(module, "output_size", None))
    if stated is not None and is_cell(module):
        return stated
    if input_size is None:
        input_size = as_size(getattr(module, "input_size", None))
    return None if input_size is None else run_on_no_rows(module, input_size)


@torch.no_grad()
def run_on_no_rows(module: nn.Module, input_size: tuple[int, ...]) -> tuple[int, ...]:
    """What comes out of a module for a batch without rows: costs nothing, changes nothing, shows every size."""
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else None
    floating = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.get_default_dtype()
    spare = {name: buffer.clone() for name, buffer in module.named_buffers()}  # a BatchNorm counts its calls

    def run(dtype: torch.dtype) -> tuple[int, ...]:
        x = torch.zeros(0, *input_size, device=device, dtype=dtype)
        arguments = (x, module.initial_state(0)) if is_cell(module) else (x,)  # pyright: ignore[reportCallIssue]
        y = torch.func.functional_call(module, spare, arguments)
        return tuple((y[0] if is_cell(module) else y).shape[1:])

    try:
        return run(floating if input_size else torch.long)
    except Exception:
        with contextlib.suppress(Exception):
            return run(torch.long)  # an Embedding takes whole numbers alone
        raise
