"""The machine code of kernels, and that of the tiles which they call: made when it is first needed, tiles for all."""

import functools
from collections.abc import Callable

from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write import int8_tile, tile
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
    widths = sorted({(packing.int8, width) for packing in lowered.packings.values() for width in packing.widths})
    for int8, vectors in widths:
        names = int8_tile.names(vectors, target) if int8 else tile.names(precision, vectors, target)
        library = _int8_tiles_of(vectors, target) if int8 else _tiles_of(precision, vectors, target)
        found |= dict.fromkeys(names, library)
    return found


@functools.cache
def _tiles_of(precision: Precision, vectors: int, target: Target) -> compilation.Library:
    names = tile.names(precision, vectors, target)
    return compilation.recall(" ".join(names), names, lambda: tile.text(precision, vectors, target), target)


@functools.cache
def _int8_tiles_of(vectors: int, target: Target) -> compilation.Library:
    names = int8_tile.names(vectors, target)
    return compilation.recall(" ".join(names), names, lambda: int8_tile.text(vectors, target), target)
