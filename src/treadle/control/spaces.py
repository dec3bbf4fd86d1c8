"""Spaces of readings and actions: symbols or numbers, and their features."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from treadle.cells.base import positive
from treadle.errors import DataError, ModelFileError, ShapeError
from treadle.state import shape
from treadle.torch_internals import checked_later, is_exported


@dataclasses.dataclass(frozen=True)
class _Sized:
    n: int

    def __post_init__(self) -> None:
        positive("n", self.n)

    @property
    def size(self) -> int:
        """Features."""
        return self.n


class Discrete(_Sized):
    """Symbols, whole numbers from 0 to ``n - 1``. A network reads them one-hot, as ``n`` features.

    As an action: the network gives ``n`` scores, and the action is that of the highest one (of equal ones, the first).

    Args:
        n: how many symbols there are.

    Raises:
        ShapeError: ``n`` is not a positive whole number.

    Example:
        >>> import torch, treadle as td
        >>> td.Discrete(3).encode(torch.tensor([[2, 0]]))
        tensor([[[0., 0., 1.],
                 [1., 0., 0.]]])
    """

    def encode(self, values: Any, lengths: Any = None, what: str = "reading") -> Tensor:
        """Features [..., n] of symbols [...]; features are taken as they are.

        Args:
            values: whole numbers, [B, T] or any other shape; or features, floats [..., n].
            lengths: [B], where ``values`` is [B, T]: what is past a row's end does not matter.
            what: how messages call a value.

        Raises:
            DataError: a number that is no symbol; the message says where it is.
            ShapeError: floats that are not [..., n].
        """
        values = torch.as_tensor(values)
        if values.is_floating_point():
            return _features(values, self.n, what)
        values = _without_padding(values.long(), lengths)
        place = _first((values < 0) | (values >= self.n))
        if place is not None:
            raise DataError(
                f"{what} {int(values[place])} at {list(place)} is not one of the {self.n} there are, 0 to {self.n - 1}"
            )
        return nn.functional.one_hot(values, self.n).to(torch.get_default_dtype())

    def targets(self, values: Any, what: str = "action") -> Tensor:
        """What a loss compares scores with: the symbols, as whole numbers."""
        values = torch.as_tensor(values).long()
        self.encode(values, what=what)
        return values

    def reader(self, rows: int, dtype: torch.dtype) -> Callable[[Any], np.ndarray]:
        """A function that turns a symbol (an array of them, where there are several rows) into features, quickly."""
        features = np.eye(self.n, dtype=_numpy(dtype))
        if rows > 1:
            return lambda values: np.ascontiguousarray(features[self._symbols(values, rows)])
        one = dict(enumerate(features))  # not a list, in which -1 would be the last

        def read(value: Any) -> np.ndarray:
            try:
                return one[value]
            except (KeyError, TypeError):
                raise DataError(
                    f"reading {value!r:.40} is not one of the {self.n} there are, 0 to {self.n - 1}"
                ) from None

        return read

    def writer(self, rows: int) -> Callable[[np.ndarray], Any]:
        """A function that turns scores into the action: a number, or an array of them where there are several rows."""

        def one(scores: np.ndarray) -> int:
            action = int(scores.argmax())
            if scores[action] != scores[action]:
                raise diverged()
            return action

        def several(scores: np.ndarray) -> np.ndarray:
            if np.isnan(scores).any():
                raise diverged()
            return scores.argmax(1)

        def diverged() -> ModelFileError:
            return ModelFileError("the network's scores are not numbers: its training diverged; train it again")

        return one if rows == 1 else several

    def taken(self) -> nn.Module:
        """From scores to the features of the action."""
        return Likeliest(self.n)

    def _symbols(self, values: Any, rows: int) -> np.ndarray:
        values = np.asarray(values)
        if values.shape != (rows,) or not np.issubdtype(values.dtype, np.integer):
            raise ShapeError(
                f"readings are {rows} whole numbers, one a row, but {list(values.shape)} of {values.dtype} were passed"
            )
        if values.min() < 0 or values.max() >= self.n:
            wrong = values[(values < 0) | (values >= self.n)][0]
            raise DataError(f"reading {wrong} is not one of the {self.n} there are, 0 to {self.n - 1}")
        return values


class Continuous(_Sized):
    """``n`` numbers, which a network reads and gives as they are.

    Args:
        n: how many numbers.

    Raises:
        ShapeError: ``n`` is not a positive whole number.

    Example:
        >>> import torch, treadle as td
        >>> td.Continuous(2).encode(torch.zeros(4, 7, 2)).shape
        torch.Size([4, 7, 2])
    """

    def encode(self, values: Any, lengths: Any = None, what: str = "reading") -> Tensor:
        """Numbers [..., n] as they are.

        Raises:
            ShapeError: they are not [..., n].
            DataError: one of them is not finite; the message says where.
        """
        values = torch.as_tensor(values)
        values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
        values = _without_padding(_features(values, self.n, what), lengths)
        place = _first(~values.isfinite())
        if place is not None:
            raise DataError(f"{what} at {list(place)} is {float(values[place])}: it must be finite")
        return values

    def targets(self, values: Any, what: str = "action") -> Tensor:
        """What a loss compares the network's numbers with."""
        return self.encode(values, what=what)

    def reader(self, rows: int, dtype: torch.dtype) -> Callable[[Any], np.ndarray]:
        """A function that turns a reading into dense numbers of that precision."""
        shapes = {(rows, self.n), (self.n,)} if rows == 1 else {(rows, self.n)}

        def read(value: Any) -> np.ndarray:
            array = np.ascontiguousarray(value, _numpy(dtype))
            if array.shape not in shapes:
                raise ShapeError(f"a reading is {self.n} numbers a row, but {list(array.shape)} were passed")
            if not np.isfinite(array).all():
                raise DataError(f"a reading must be finite, but is {array}: the session would not recover from it")
            return array

        return read

    def writer(self, rows: int) -> Callable[[np.ndarray], Any]:
        """A function that turns what the network gives into an action: a copy of it."""
        return np.ndarray.copy

    def taken(self) -> nn.Module:
        """From what the network gives to the features of the action: the same."""
        return nn.Identity()


Space: TypeAlias = Discrete | Continuous
"""What readings and actions can be."""


class Likeliest(nn.Module):
    """A 1 in the place of the highest score, of equal ones the first, and 0 elsewhere; without a gradient."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        # In files too, though it is known: so it has the precision of the weights, in which a step computes as a whole.
        self.register_buffer("numbers", torch.arange(n, dtype=torch.get_default_dtype()))

    def forward(self, scores: Tensor) -> Tensor:
        """Scores [B, n] give [B, n]."""
        scores = scores.detach()
        numbers = self.get_buffer("numbers")
        highest = scores == scores.amax(1, keepdim=True)
        first = torch.where(highest, numbers, self.n).amin(1, keepdim=True)
        return (numbers == first).to(scores.dtype)


def _first(wrong: Tensor) -> tuple[int, ...] | None:
    """The first place that is true, if there is one."""
    if is_exported(wrong):
        checked_later(~wrong.any(), "a reading or an action is not one of those that there are")
        return None
    places = wrong.nonzero()
    return tuple(places[0].tolist()) if len(places) else None


def _features(values: Tensor, n: int, what: str) -> Tensor:
    if not values.ndim or values.shape[-1] != n:
        raise ShapeError(f"a {what} has {n} features, but these are {shape(values)}: their last axis must be {n}")
    return values


def _without_padding(values: Tensor, lengths: Any) -> Tensor:
    """Zeros where a row of [B, T, ...] is over."""
    if lengths is None:
        return values
    over = torch.arange(values.shape[1]) >= torch.as_tensor(lengths)[:, None]
    return values.masked_fill(over.reshape(*over.shape, *[1] * (values.ndim - 2)).to(values.device), 0)


def _numpy(dtype: torch.dtype) -> Any:
    return np.float64 if dtype == torch.float64 else np.float32
