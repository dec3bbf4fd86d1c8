"""The product over rows, aᵀ g, which the gradient of a weight is: N rows (every step of every sequence), K × M sums.

A tile of sums stays in registers while rows go by: each row brings a few vectors of ``g`` and, spread over all lanes,
a few numbers of ``a``. Rows are taken in blocks, of which both are copied to where a tile reads one place after the
other: of ``g`` a panel as wide as a tile, which stays in the nearest cache while all tiles below each other read it; of
``a`` columns as wide as a vector, each in one piece. As they came, the numbers that a tile reads of ``a`` lie a whole
row apart, often a power of two, and there is room in a cache for few of these at a time.

Sums are sums of sums: of a block's rows, of a chunk's blocks, of all chunks. Each number is then added to one not much
larger than itself, and the rounding errors of 400,000 rows in float32 are those of a few hundred.
"""

import functools
from typing import NamedTuple

import torch

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.arena import Number, Word
from treadle.engines.cpu.machine.extent import Extent
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import Target, host
from treadle.engines.cpu.routines.row_panel_code import PanelCode, rows_of_a_tile, vectors_of_a_tile
from treadle.engines.cpu.routines.row_product_code import CHUNK, RowProductCode, depth, rows_of_a_block

WORTH_A_THREAD = 1_000_000
"""Multiplications that take a thread a few times as long as it takes to give it work."""


def outer(
    recipe: Recipe,
    a: tuple[Number, Number],
    g: tuple[Number, Number],
    out: Number,
    sizes: tuple[Extent | int, int, int],
    dtype: torch.dtype,
    target: Target | None = None,
    pairs: bool = False,
) -> None:
    """Write down aᵀ g: the sums over rows of the products of each column of ``a`` with each column of ``g``.

    Args:
        recipe: what does it; begun after all other tasks of the phase.
        a: [N, K]: its address, and how many numbers its rows are apart; the numbers of a row are side by side.
        g: [N, M], likewise.
        out: where the result [K, M] goes, dense.
        sizes: N, K and M, none of them 0. Where M is less than a vector, the product the other way round is faster.
        dtype, target: float32 or float64; the CPU, this one unless given.
        pairs: whether what looks like float32 are pairs of bfloat16, of two rows each (`weight_panels.halve_rows`).
    """
    target = target or host()
    count, k, m = sizes
    count = Extent.of(count)
    n = count.most
    size = dtype.itemsize
    lanes = target.lanes(size)
    block = -(-n // -(-n // rows_of_a_block(target)))
    function = _function(dtype, target)
    strips = _strips(k, m, lanes, rows_of_a_tile(target), threads.count(n * k * m // WORTH_A_THREAD))
    deep = min(depth(size, target), -(-max(strip.last_row - strip.first_row for strip in strips) // lanes) * lanes)
    width = block * (deep + vectors_of_a_tile(target) * lanes) * size
    copies = recipe.scratch.room(len(strips) * width)
    several = n > CHUNK * block
    chunk = recipe.scratch.room(k * m * size) if several else out
    panels = _panels(recipe, strips, dtype, target, pairs)
    for i, strip in enumerate(strips):
        begin = (strip.first_row * m + strip.first_column) * size
        operands = a[0] + strip.first_row * size, a[1], g[0] + strip.first_column * size, g[1]
        sides = strip.last_row - strip.first_row, strip.last_column - strip.first_column
        results = out + begin, chunk + begin, m
        numbers = count.number, *sides, block, copies + i * width, panels
        recipe.task(function, (*operands, *results, *numbers), late=True)
    recipe.scratch.leave(copies, len(strips) * width)
    if several:
        assert isinstance(chunk, Word)
        recipe.scratch.leave(chunk, k * m * size)


class _Strip(NamedTuple):
    first_row: int
    last_row: int
    first_column: int
    last_column: int


def _strips(k: int, m: int, lanes: int, rows: int, count: int) -> list[_Strip]:
    """The result in at most ``count`` strips.

    Every thread reads and copies all of the narrower matrix: so strips are columns of ``g`` in whole vectors, or, where
    ``a`` is wider or there are fewer than two vectors for each, columns of ``a`` in whole tiles.
    """
    vectors = -(-m // lanes)
    if vectors >= 2 * count and (k <= m or k < 2 * rows * count):
        return [_Strip(0, k, *columns) for columns in threads.split(m, count, lanes)]
    return [_Strip(*some, 0, m) for some in threads.split(k, count, rows)]


def _panels(recipe: Recipe, strips: list[_Strip], dtype: torch.dtype, target: Target, pairs: bool) -> Word:
    """The table of the functions for panels of one vector, two, and so on: of those that the strips have."""
    lanes, most = target.lanes(dtype.itemsize), vectors_of_a_tile(target)
    vectors = {-(-(strip.last_column - strip.first_column) // lanes) for strip in strips}
    needed = {most for count in vectors if count >= most} | {count % most for count in vectors}
    return recipe.table([_panel(dtype, target, n, pairs) if n in needed else 0 for n in range(1, most + 1)])


@functools.cache
def _panel(dtype: torch.dtype, target: Target, vectors: int, pairs: bool) -> int:
    def write() -> str:
        return str(PanelCode(dtype, target, vectors, pairs).module)

    what = f"panel of products over rows {dtype} {vectors} {pairs}"
    return compilation.routine(what, ("panel",), write, target).address("panel")


@functools.cache
def _function(dtype: torch.dtype, target: Target) -> int:
    what = f"products over rows {dtype} {depth(dtype.itemsize, target)}"
    return compilation.routine(what, ("outer",), lambda: str(RowProductCode(dtype, target).module), target).address(
        "outer"
    )
