"""Matrices laid out for products: in panels whose columns are what a tile of accumulators needs, one row after another.

A panel has ``slots * vectors`` vectors; it is contiguous over K. So a product reads its right operand once, in order.
Weights change with every step of training, and nothing says when (writing to ``.data`` leaves no trace): they are
packed again by every call, at the speed of the memory.
"""

import ctypes
import functools
from typing import Any

import torch

from treadle.engines.cpu.lower.packing import Packing, most_together, together
from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.arena import Number, Word
from treadle.engines.cpu.machine.extent import Extent
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.routines.weight_panel_code import HalvingCode, PackingCode
from treadle.engines.passes.precision import Operands, Precision

ALONE = 1 << 17
"""Numbers; fewer are packed by one thread."""


def pack(
    recipe: Recipe, matrix: tuple[Number, Number, Number], packing: Packing, precision: Precision, target: Target
) -> Number:
    """Write down how to pack the right operand [K, N] of a product; gives the place where it will be.

    The matrix is its address and its strides, the precision that of the kernel that reads it: with `Operands.PAIRS`,
    `pair_up` rounds it in the next phase. Panels are [K, slots, vectors * lanes], with zeros where there is no unit;
    or parts of them, the vectors of each that lie `together`, are [K, vectors * lanes].
    """
    function = _packing(precision.dtype, target, precision.right is Operands.ROUNDED)
    depth, slots = packing.depth, _slots(packing.slots)
    size, panels, itemsize = packing.size, packing.panels, precision.dtype.itemsize
    part = most_together(target) or len(packing.slots) * packing.vectors
    packed = recipe.scratch.room(size * itemsize)
    for first, last in threads.split(panels, threads.count(size // ALONE + 1)):
        fixed = (packed, matrix[0], depth, *matrix[1:], *slots[1:], packing.vectors, part, packing.units)
        recipe.task(function, (*fixed, first, last))
    return packed


def pair_up(recipe: Recipe, packed: Number, packing: Packing, target: Target) -> Number:
    """Write down how to round a packed matrix to bfloat16, its rows in pairs; after the barrier behind `pack`.

    Panels are [K / 2, slots, vectors * lanes] of 32 bits: the even row in the lower half, the odd one in the upper,
    zeros after an odd last one.
    """
    halve, depth = _halving(target), packing.depth
    half = (depth + 1) // 2
    pairs = recipe.scratch.room(4 * packing.size // depth * half)
    done = 0
    for panels, vectors in ((packing.panels - 1, packing.vectors), (1, packing.last_vectors)):
        count = len(packing.slots) * vectors
        width = together(count, target)
        parts, width = panels * count // width, width * packing.lanes
        at = pairs + 4 * done * half, packed + 4 * done * depth
        recipe.task(halve, (*at, depth, width, width, parts, 0, half))
        done += parts * width
    return pairs


def halve_rows(recipe: Recipe, rows: tuple[Number, Number], count: Extent | int, width: int, target: Target) -> Word:
    """Write down how to round float32 rows [N, K] to bfloat16 and lay them together in pairs: [N / 2, K] of 32 bits.

    The rows are their address, and how far they are apart; ``count`` is N, ``width`` K.
    """
    halve, count = _halving(target), Extent.of(count)
    pairs = count.halves()
    out = recipe.scratch.room(4 * pairs.most * width)
    for first, last in pairs.parts(threads.count(count.most * width // ALONE + 1)):
        recipe.task(halve, (out, rows[0], count.number, width, rows[1], 1, first, last))
    return out


@functools.cache
def _slots(slots: tuple[int, ...]) -> tuple[Any, int, int]:
    """The slots as the machine reads them: the memory, its address, their number."""
    memory = (ctypes.c_int64 * len(slots))(*slots)
    return memory, ctypes.addressof(memory), len(slots)


@functools.cache
def _packing(dtype: torch.dtype, target: Target, rounded: bool) -> int:
    what = f"packing {dtype} {rounded}"
    write = PackingCode(dtype, target, rounded).text
    return compilation.routine(what, ("pack",), write, target).address("pack")


@functools.cache
def _halving(target: Target) -> int:
    return compilation.routine("halving", ("halve",), HalvingCode(target).text, target).address("halve")
