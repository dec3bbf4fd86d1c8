"""What a step asks of a tensor besides its numbers: how many rows it has, how it lies in memory, what autograd knows.

A program holds for any number of rows and any layout, and for training as well as for evaluation. A step that decides
by these has none.
"""

import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from treadle.compiler.reads import is_of_user
from treadle.compiler.source_lines import line_of
from treadle.errors import TraceError

Refused: TypeAlias = Callable[[TraceError], None]

_OTHERWISE = "which may be otherwise at the next call"
_REFUSED = {
    Tensor.requires_grad.__get__: "whether a tensor requires a gradient",  # pyright: ignore
    Tensor.is_leaf.__get__: "how a tensor was made",  # pyright: ignore
    Tensor.grad_fn.__get__: "how a tensor was made",  # pyright: ignore
    Tensor.grad.__get__: "for the gradient of a tensor",  # pyright: ignore
    Tensor._version.__get__: "how often a tensor was written into",  # pyright: ignore
    Tensor.is_contiguous: "how a tensor lies in memory",
    Tensor.stride: "how a tensor lies in memory",
    Tensor.storage_offset: "how a tensor lies in memory",
}
_MANY = 1 << 62
_SIZES = frozenset({Tensor.shape.__get__, Tensor.size, Tensor.numel, Tensor.nelement})  # pyright: ignore
ANSWERED = _SIZES | _REFUSED.keys()
"""What is heard of here."""


def answer(func: Any, answered: Callable[[], Any], rows: int, refused: Refused, frame: FrameType) -> Any:
    """What PyTorch says to a step that asks; a number of rows as `Rows`. ``refused`` is told why there is no program.

    Raises:
        TraceError: the step asks for what a program does not hold.
    """
    if not is_of_user(frame.f_code):
        return answered()
    if func in _REFUSED:
        _refuse(frame, f"it asks {_REFUSED[func]}, {_OTHERWISE}", refused)
    found = answered()
    if func in _SIZES:
        if isinstance(found, torch.Size):
            return torch.Size([Rows(size, refused) if size == rows else size for size in found])
        kind = Rows if found == rows else Computed if found and found % rows == 0 else None
        return found if kind is None else kind(found, refused)
    return found


class Rows(int):
    """The number of rows: one may compute with it, and not decide by it, but that there is one row at least."""

    _refused: Refused

    def __new__(cls, number: int, refused: Refused) -> "Rows":
        made = super().__new__(cls, number)
        made._refused = refused
        return made

    def _decided(self, other: Any, compare: Callable[[int, Any], bool]) -> bool:
        known = isinstance(other, Rows) or not isinstance(other, (int, float)) or self._is_certain(other, compare)
        if not known:
            self._refuse_deciding(sys._getframe(2))
        return compare(int(self), other)

    def _refuse_deciding(self, frame: FrameType) -> None:
        if is_of_user(frame.f_code):
            what = f"it decides by the number of rows of the batch, {_OTHERWISE}: a step treats all batches alike"
            _refuse(frame, what, self._refused)

    def _is_certain(self, other: float, compare: Callable[[int, Any], bool]) -> bool:
        """Whether the answer is the same for any number of rows."""
        near = [number for number in (1, int(other) - 1, int(other), int(other) + 1, _MANY) if number >= 1]
        return len({compare(number, other) for number in near}) == 1

    def __bool__(self) -> bool:
        return self._decided(0, operator.ne)

    def __eq__(self, other: object) -> bool:
        return self._decided(other, operator.eq)

    def __ne__(self, other: object) -> bool:
        return self._decided(other, operator.ne)

    def __lt__(self, other: Any) -> bool:
        return self._decided(other, operator.lt)

    def __le__(self, other: Any) -> bool:
        return self._decided(other, operator.le)

    def __gt__(self, other: Any) -> bool:
        return self._decided(other, operator.gt)

    def __ge__(self, other: Any) -> bool:
        return self._decided(other, operator.ge)

    def __hash__(self) -> int:
        self._refuse_deciding(sys._getframe(1))  # a dictionary finds what is kept for that number
        return int.__hash__(self)

    def __add__(self, other: Any) -> Any:
        return _computed(int.__add__, self, other)

    def __sub__(self, other: Any) -> Any:
        return _computed(int.__sub__, self, other)

    def __mul__(self, other: Any) -> Any:
        return _computed(int.__mul__, self, other)

    def __floordiv__(self, other: Any) -> Any:
        return _computed(int.__floordiv__, self, other)

    def __mod__(self, other: Any) -> Any:
        return _computed(int.__mod__, self, other)

    __radd__, __rmul__ = __add__, __mul__


class Computed(Rows):
    """A number that was computed of the number of rows: nothing is certain about it."""

    def _is_certain(self, other: float, compare: Callable[[int, Any], bool]) -> bool:
        return False


def _computed(operation: Callable[[int, Any], Any], rows: Rows, other: Any) -> Any:
    found = operation(int(rows), other)
    return Computed(found, rows._refused) if type(found) is int else found


def _refuse(frame: FrameType, why: str, refused: Refused) -> None:
    error = TraceError(f"{line_of(frame)}: {why}")
    refused(error)  # the step may catch it
    raise error
