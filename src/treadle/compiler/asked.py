"""What a step asks of a tensor besides its numbers: how many rows, where and how it lies, what autograd knows.

A program holds for any number of rows and any layout, and for training as well as for evaluation. A step that decides
by these has none.
"""

import math
import numbers
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
from treadle.torch_internals import no_modes

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
_SIZES = frozenset(
    {
        Tensor.shape.__get__,  # pyright: ignore
        Tensor.nbytes.__get__,  # pyright: ignore
        Tensor.size,
        Tensor.numel,
        Tensor.nelement,
        torch.numel,
    }
)
PLACES = frozenset(
    {
        *(getattr(Tensor, name).__get__ for name in ("device", "is_cpu", "is_cuda", "is_meta", "is_mps", "is_xpu")),
        Tensor.get_device,
        Tensor.type,
        torch.get_device,
    }
)
"""What asks, of a tensor alone, where it is."""
ANSWERED = _SIZES | _REFUSED.keys()
"""What is heard of here besides."""


def place(func: Any, tensor: Tensor, device: torch.device) -> Any:
    """What a tensor of that form says on the device on which the step will run: one without numbers knows none."""
    with no_modes():
        return func(torch.empty(0, dtype=tensor.dtype, device=device))


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
    """The number of rows: one may compute with it, and not decide by it, but that there is one row at least.

    Of numbers that are made of it, whole ones are followed. All others, and text, are refused where they are made. Only
    where a float or a complex number stands on the left, Python does not ask: what is decided by that is found when the
    program is verified, on two rows.
    """

    _refused: Refused
    __array_ufunc__ = None  # NumPy's numbers leave the operation to this class

    def __new__(cls, number: int, refused: Refused) -> "Rows":
        made = super().__new__(cls, number)
        made._refused = refused
        return made

    def _decided(self, other: Any, compare: Callable[[int, Any], bool]) -> bool:
        known = isinstance(other, Rows) or not isinstance(other, numbers.Number) or self._is_certain(other, compare)
        if not known:
            self._refuse_deciding(sys._getframe(2))
        return compare(_number(self), other)

    def _refuse_deciding(self, frame: FrameType) -> None:
        if is_of_user(frame.f_code):
            what = f"it decides by the number of rows of the batch, {_OTHERWISE}: a step treats all batches alike"
            _refuse(frame, what, self._refused)

    def _refuse_losing(self, frame: FrameType) -> None:
        if is_of_user(frame.f_code):
            what = (
                f"it makes something else than a whole number of the number of rows of the batch, {_OTHERWISE}: a step"
                " computes with it by +, -, *, // and %"
            )
            _refuse(frame, what, self._refused)

    def _is_certain(self, other: Any, compare: Callable[[int, Any], bool]) -> bool:
        """Whether the answer is the same for any number of rows."""
        if not isinstance(other, numbers.Real):
            return False
        near = (math.floor(other) - 1, math.floor(other), math.floor(other) + 1) if math.isfinite(other) else ()
        return len({compare(number, other) for number in (1, *near, _MANY) if number >= 1}) == 1

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
        return int.__hash__(_number(self))


class Computed(Rows):
    """A number that was computed of the number of rows: nothing is certain about it."""

    def _is_certain(self, other: Any, compare: Callable[[int, Any], bool]) -> bool:
        return False


_TWO_SIDED = "add sub mul floordiv mod divmod pow truediv lshift rshift and or xor".split()
_FOLLOWED = [
    *(f"__{side}{name}__" for name in _TWO_SIDED for side in ("", "r")),
    *(f"__{name}__" for name in "neg pos abs invert round trunc floor ceil".split()),
    "conjugate",
]
"""What gives whole numbers of whole numbers: these are followed; a fraction, that a few of them may give, is not."""
_LOST = [
    *(f"__{name}__" for name in "int float repr str format".split()),
    *"bit_length bit_count to_bytes as_integer_ratio is_integer".split(),
]
"""What makes something else of it, which could not be told from any other number or text."""


def _followed(name: str) -> Callable[..., Any]:
    compute = getattr(int, name)

    def method(self: Rows, *others: Any) -> Any:
        found = compute(_number(self), *others)
        if type(found) is tuple:
            return tuple(Computed(part, self._refused) for part in found)
        if type(found) is int:
            return Computed(found, self._refused)
        if found is not NotImplemented or not any(isinstance(other, Tensor) for other in others):
            self._refuse_losing(sys._getframe(1))
        return found

    return method


def _lost(name: str) -> Callable[..., Any]:
    compute = getattr(int, name)

    def method(self: Rows, *others: Any, **options: Any) -> Any:
        self._refuse_losing(sys._getframe(1))
        return compute(_number(self), *others, **options)

    return method


def _number(rows: int) -> int:
    """As a plain number, for ourselves."""
    return int.__int__(rows)


for _name in _FOLLOWED:
    setattr(Rows, _name, _followed(_name))
for _name in _LOST:
    if hasattr(int, _name):  # Python 3.11 knows no is_integer of whole numbers
        setattr(Rows, _name, _lost(_name))
for _name in ("real", "numerator"):
    setattr(Rows, _name, property(lambda self: self))


def _refuse(frame: FrameType, why: str, refused: Refused) -> None:
    error = TraceError(f"{line_of(frame)}: {why}")
    refused(error)  # the step may catch it
    raise error
