"""The machine code of kernels, and that of the tiles which they call: made when it is first needed, tiles for all."""

import functools
from collections.abc import Callable, Sequence

from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write import int8_dots, int8_tile, tile
from treadle.engines.passes.precision import Precision


def kernel_code(lowered: Lowered, way: str, function: str, write: Callable[[Lowered], str]) -> compilation.Library:
    """The machine code of a kernel.

    Args:
        lowered: the kernel.
        way: how its work is shared out, in a word, which tells its texts apart.
        function: what the text defines.
        write: writes the text.
    """
    description = f"{way}\n{lowered.description}"
    called = functools.partial(_tiles, lowered)
    return compilation.recall(description, (function,), lambda: write(lowered), lowered.target, called)


def _tiles(lowered: Lowered) -> dict[str, compilation.Library]:
    """By name, what has the tiles of the kernel's panels."""
    precision, target = lowered.kernel.precision, lowered.target
    found: dict[str, compilation.Library] = {}
    packings = lowered.packings.values()
    for int8, dots, vectors in sorted({(one.int8, one.dots, width) for one in packings for width in one.widths}):
        if dots:
            names, library = int8_dots.names(vectors, target), _dot_tiles_of(vectors, target)
        elif int8:
            names, library = int8_tile.names(vectors, target), _int8_tiles_of(vectors, target)
        else:
            names, library = tile.names(precision, vectors, target), _tiles_of(precision, vectors, target)
        found |= dict.fromkeys(names, library)
    return found


@functools.cache
def _tiles_of(precision: Precision, vectors: int, target: Target) -> compilation.Library:
    return _library(tile.names(precision, vectors, target), lambda: tile.text(precision, vectors, target), target)


@functools.cache
def _int8_tiles_of(vectors: int, target: Target) -> compilation.Library:
    return _library(int8_tile.names(vectors, target), lambda: int8_tile.text(vectors, target), target)


@functools.cache
def _dot_tiles_of(vectors: int, target: Target) -> compilation.Library:
    return _library(int8_dots.names(vectors, target), lambda: int8_dots.text(vectors, target), target)


def _library(names: Sequence[str], write: Callable[[], str], target: Target) -> compilation.Library:
    return compilation.recall(" ".join(names), names, write, target)
