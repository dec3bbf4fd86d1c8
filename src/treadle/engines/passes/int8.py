"""Matrices in int8: each output feature has one factor, and the numbers of its row are whole multiples of that.

A factor has few enough significant bits that each multiple of it is a float32, exactly. So a network whose matrices are
rounded here is still one of float32 numbers: its own Python runs it, whatever has no machine code included. And what a
program makes of a matrix (its transposition, a part of it, parts side by side) shows by itself whether each column of
it has a factor: `in_int8` finds the same whole numbers again, or says that there are none. Nothing is rounded twice.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from treadle.caches import kept_property
from treadle.compiler import program as p
from treadle.compiler.program import Program, Value

MOST = 127
"""The largest of the whole numbers; the smallest is -127, so that a row and its negative are rounded alike."""
_FREE_BITS = {torch.float32: (torch.int32, 7), torch.float64: (torch.int64, 36)}
"""How many bits at the end of a factor are zero: 17 significant ones are left, and a whole number has 7."""


def rounded(matrix: Tensor, axis: int) -> Tensor:
    """A matrix of float32 or float64 as int8 says it: one factor for all numbers along an axis.

    Args:
        matrix: [..., K, ...], all of it finite.
        axis: that along which products add up, K. A matrix [H, I] that is multiplied as ``x @ w.T`` has one factor a
            row, with ``axis`` 1.

    Returns:
        A matrix of the same shape. A number is off by half a factor at most: by 1/254 of the largest one in its row.
    """
    largest = matrix.abs().amax(axis, keepdim=True)
    bits, free = _FREE_BITS[matrix.dtype]
    # Rounded towards zero: 127 times a factor does not overflow. Below the normal numbers there are too few bits.
    factors = ((largest / MOST).view(bits) & (-1 << free)).view(matrix.dtype).clamp_min(torch.finfo(matrix.dtype).tiny)
    return (matrix / factors).round().clamp(-MOST, MOST) * factors


@dataclasses.dataclass(frozen=True, eq=False)
class Int8Matrix:
    """A matrix [K, N] whose columns are whole numbers, each with a factor.

    Args:
        numbers: [K, N], int8, from -127 to 127.
        factors: [N], in the precision of the matrix, 0 of a column of zeros: ``numbers * factors`` is the matrix,
            exactly.
    """

    numbers: Tensor
    factors: Tensor

    @kept_property
    def bound(self) -> float:
        """How far the matrix may be from the one that was rounded, relative to it, in the Frobenius norm.

        Half a factor for every number: what rounding a row to the nearest multiples cannot exceed. Where errors are
        spread evenly they come to 1/√3 of it.
        """
        factors = self.factors.double()
        norm = (self.numbers.double().square().sum(0) * factors.square()).sum().sqrt()
        most = (len(self.numbers) * (factors / 2).square()).sum().sqrt()
        return 0.0 if norm == 0 else (most / norm).item()


def in_int8(matrix: Tensor) -> Int8Matrix | None:
    """The whole numbers and the factors of a matrix [K, N], if all of its columns have such: exactly, or not at all."""
    if matrix.ndim != 2 or matrix.dtype not in _FREE_BITS or not matrix.numel() or not matrix.isfinite().all():
        return None
    matrix = matrix.detach()
    largest = matrix.abs().amax(0)
    factors = largest / MOST
    numbers = (matrix / torch.where(factors > 0, factors, 1.0)).round()
    # A part of a row need not hold the largest number of the whole row: its own is another multiple of the factor.
    for column in (numbers * factors != matrix).any(0).nonzero().flatten().tolist():
        factor = _factor_of(matrix[:, column], largest[column])
        if factor is None:
            return None
        factors[column], numbers[:, column] = factor, (matrix[:, column] / factor).round()
    return Int8Matrix(numbers.to(torch.int8), factors)


def _factor_of(column: Tensor, largest: Tensor) -> Tensor | None:
    """The largest factor of which each number of a column is a multiple, exactly."""
    tried = largest / torch.arange(1, MOST + 1, dtype=column.dtype, device="cpu")
    exact = ((column / tried[:, None]).round() * tried[:, None] == column).all(1)
    return tried[exact.nonzero()[0, 0]] if exact.any() else None


def summed_axes(program: Program) -> dict[str, int]:
    """Of the parameters that are right operands of products, by their names: the axis along which products add up.

    Of a parameter that several products read it is the axis of the first one. One that is not multiplied as it is, but
    a function of it, is left out.
    """
    found: dict[str, int] = {}
    for value in program.values():
        if value.op == "dot" and not value.inputs[1].has_rows:
            for parameter, axis in _parameters(value.inputs[1], 0):
                if parameter.name.startswith("parameter/"):
                    found.setdefault(parameter.name.removeprefix("parameter/"), axis)
    return found


def _parameters(matrix: Value, axis: int) -> Iterator[tuple[Value, int]]:
    """The inputs that a matrix is a view of, and which of their axes one of its axes is."""
    if matrix.op == "input":
        yield matrix, axis
    elif matrix.op == "permute":
        yield from _parameters(matrix.inputs[0], matrix.axes[axis])
    elif matrix.op in ("slice", "cat", *p.GRADIENT_PATHS):
        for part in matrix.inputs:
            yield from _parameters(part, axis)
    elif matrix.op == "reshape":
        (whole,) = matrix.inputs
        behind = _numbers_behind(matrix.shape, axis)
        same = [
            i
            for i, n in enumerate(whole.shape)
            if n == matrix.shape[axis] and _numbers_behind(whole.shape, i) == behind
        ]
        for i in same[-1:]:
            yield from _parameters(whole, i)


def _numbers_behind(shape: p.Shape, axis: int) -> int:
    """How many numbers of a dense tensor lie between one and the next along an axis."""
    return p.numel(tuple(dim for dim in shape[axis + 1 :] if isinstance(dim, int)))


def round_parameters(parameters: Mapping[str, Tensor], axes: Mapping[str, int]) -> None:
    """Round parameters in place, each along its axis.

    Raises:
        ValueError: one of them is not finite.
    """
    for name, axis in axes.items():
        tensor = parameters[name]
        if not tensor.isfinite().all():
            raise ValueError(
                f"weights='int8' rounds {name}, but it holds NaN or infinity, of which nothing is a multiple: train the"
                " network again, or pass weights='float32'"
            )
        tensor.data.copy_(rounded(tensor.detach(), axis))


def rows_of_matrices(cell: nn.Module) -> dict[str, int]:
    """What `summed_axes` says where there is no program: matrices are multiplied by rows, as those of `nn.Linear` are.

    Tables of embeddings are no matrices of products.
    """
    tables = (nn.Embedding, nn.EmbeddingBag)
    found = {}
    for path, module in cell.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            if parameter.ndim == 2 and parameter.is_floating_point() and not isinstance(module, tables):
                found[name] = 1
    return found
