"""The form of a state: its containers, and of each tensor the shape, the type, and whether it wants a gradient."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from treadle.protocol import State

_Read: TypeAlias = Callable[[Any, list[Tensor]], bool]
_Write: TypeAlias = Callable[[Iterator[Tensor]], Any]


class StateForm:
    """The form of a state on the CPU, as quickly compared as Python can.

    Args:
        state: one of that form.

    Attributes:
        rebuilt: a state of that form from an iterator of tensors, in the order of `named_tensors`.
    """

    def __init__(self, state: State):
        self._read, self.rebuilt = _read_and_write(state)

    def tensors(self, state: State) -> list[Tensor] | None:
        """The tensors of a state, if it is of that form."""
        found: list[Tensor] = []
        return found if self._read(state, found) else None


def _read_and_write(state: State) -> tuple[_Read, _Write]:
    if isinstance(state, Tensor):
        return _of_tensor(state.shape, state.dtype, state.requires_grad), next
    kind = type(state)
    if isinstance(state, dict):
        both = [_read_and_write(part) for part in state.values()]
        return _of_dict(list(state), [read for read, _ in both], [write for _, write in both])
    both = [_read_and_write(part) for part in state]
    return _of_tuple(kind, [read for read, _ in both], [write for _, write in both])


def _of_tensor(shape: torch.Size, dtype: torch.dtype, requires_grad: bool) -> _Read:
    def read(part: Any, found: list[Tensor]) -> bool:
        found.append(part)
        return (
            type(part) is Tensor
            and part.shape == shape
            and part.dtype is dtype
            and part.is_cpu
            and part.requires_grad is requires_grad
        )

    return read


def _of_dict(names: list[Any], reads: Sequence[_Read], writes: Sequence[_Write]) -> tuple[_Read, _Write]:
    def read(state: Any, found: list[Tensor]) -> bool:
        if type(state) is not dict or list(state) != names:
            return False
        for part, one in zip(state.values(), reads, strict=True):  # noqa: SIM110, in less time than all()
            if not one(part, found):
                return False
        return True

    def write(tensors: Iterator[Tensor]) -> Any:
        return {name: one(tensors) for name, one in zip(names, writes, strict=True)}

    return read, write


def _of_tuple(kind: type, reads: Sequence[_Read], writes: Sequence[_Write]) -> tuple[_Read, _Write]:
    is_named, count = hasattr(kind, "_fields"), len(reads)

    def read(state: Any, found: list[Tensor]) -> bool:
        if type(state) is not kind or len(state) != count:
            return False
        for part, one in zip(state, reads, strict=True):  # noqa: SIM110, likewise
            if not one(part, found):
                return False
        return True

    def write(tensors: Iterator[Tensor]) -> Any:
        parts = [one(tensors) for one in writes]
        return kind(*parts) if is_named else kind(parts)

    return read, write
