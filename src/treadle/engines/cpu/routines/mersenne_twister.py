"""The Mersenne Twister, many numbers at a time.

Word k + 624 of the sequence is made of words k, k + 1 and k + 397, none of which is near: so the words are one long
array, which is filled a vector at a time, and what is drawn is a window of it.

Source: Matsumoto and Nishimura, *Mersenne Twister*, 1998.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.routines.routine_code import begin, filled
from treadle.engines.cpu.write.cursor import I32, I64, POINTER, const, counted

WORDS = 624
"""Words of a state."""
ALONE = 1 << 16
"""Numbers; fewer are compared by one thread."""

LANES = 16
FLOAT, VECTOR = ir.FloatType(), ir.VectorType(I32, LANES)


def following(state: Tensor, position: int, count: int) -> tuple[Tensor, Tensor, int]:
    """The next words, at least ``count`` of them; and the state and the position after so many.

    The state is 624 words, int32; the position says which of them comes next, up to 624.
    """
    blocks = max(0, -(-(position + count - WORDS) // WORDS))
    words = empty(WORDS * (1 + blocks), dtype=torch.int32)
    words[:WORDS] = state
    _twist()(address(words), WORDS * blocks)
    return words[position:], words[WORDS * blocks :], position + count - WORDS * blocks


def compare(words: Tensor, limits: Sequence[tuple[int, int]], steps: int) -> list[Tensor]:
    """Zeros and ones, one where the lower 24 bits of the next word are below a limit.

    The limits are those of each result, and how many numbers there are; ``steps`` times all the results are gone
    through. So a result is [steps, n], float32.
    """
    count = steps * sum(size for _, size in limits)
    recipe = _comparison(tuple(limits), tuple(threads.split(steps, threads.count(count // ALONE))))
    results = [empty(steps, size, dtype=torch.float32) for _, size in limits]
    tensors = {limit: _repeated(*limit) for limit in limits}
    recipe.follow({**tensors, **dict(enumerate(results)), "words": words})
    return results


@functools.lru_cache(maxsize=64)
def _comparison(limits: tuple[tuple[int, int], ...], runs: tuple[tuple[int, int], ...]) -> Recipe:
    """How words become zeros and ones."""
    recipe, row, before = Recipe(), sum(size for _, size in limits), 0
    words = recipe.tensor("words").address
    for i, (limit, size) in enumerate(limits):
        places = recipe.tensor((limit, size)).address, size, recipe.tensor(i).address
        for first, last in runs:
            recipe.task(_address("compare"), (words + 4 * before, row, *places, first, last))
        before += size
    return recipe


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _repeated(limit: int, size: int) -> Tensor:
    return torch.full((size,), limit, dtype=torch.int32, device="cpu")


@functools.cache
def _twist() -> Callable[[int, int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(_address("twist"))


@functools.cache
def _address(name: str) -> int:
    return compilation.routine("Mersenne Twister", ("twist", "compare"), _text, host()).address(name)


def _text() -> str:
    module = ir.Module()
    _write_twist(module)
    _write_compare(module)
    return str(module)


def _write_twist(module: ir.Module) -> None:
    """``twist(words, count)``: make so many words, of those before them."""
    b, function = begin(module, "twist", POINTER, I64)
    words, count = function.args

    def of_all(number: int) -> ir.Constant:
        return filled(VECTOR, number)

    with counted(b, const(0), count, const(LANES)) as k:
        *read, made = (b.gep(words, [b.add(k, const(distance))], source_etype=I32) for distance in (0, 1, 397, WORDS))
        word, following, far = (b.load(place, typ=VECTOR, align=4) for place in read)
        mixed = b.or_(b.and_(word, of_all(1 << 31)), b.and_(following, of_all((1 << 31) - 1)))
        matrix = b.and_(b.neg(b.and_(following, of_all(1))), of_all(0x9908B0DF))
        b.store(b.xor(b.xor(far, b.lshr(mixed, of_all(1))), matrix), made, align=4)
    b.ret_void()


def _write_compare(module: ir.Module) -> None:
    """``compare(words, stride, limits, row, drawn, first, last)``: draw rows, whose words are ``stride`` apart."""
    b, function = begin(module, "compare", POINTER, I64, POINTER, I64, POINTER, I64, I64)
    words, stride, limits, row, drawn, first, last = function.args
    whole = b.and_(row, const(-LANES))
    with counted(b, first, last, const(1)) as t:
        source = b.gep(words, [b.mul(t, stride)], source_etype=I32)
        to = b.gep(drawn, [b.mul(t, row)], source_etype=FLOAT)
        with counted(b, const(0), whole, const(LANES)) as j:
            _draw(b, source, limits, to, j, VECTOR, ir.VectorType(FLOAT, LANES))
        with counted(b, whole, row, const(1)) as i:
            _draw(b, source, limits, to, i, I32, FLOAT)
    b.ret_void()


def _draw(b: Any, words: Any, limits: Any, drawn: Any, i: Any, kind: ir.Type, result: ir.Type) -> None:
    """Mix the bits of words from ``i`` on, as many as the type has lanes, and compare the lower ones with limits."""

    def of_all(number: int) -> ir.Constant:
        return filled(kind, number)

    x, limit = (b.load(b.gep(base, [i], source_etype=I32), typ=kind, align=4) for base in (words, limits))
    x = b.xor(x, b.lshr(x, of_all(11)))
    x = b.xor(x, b.and_(b.shl(x, of_all(7)), of_all(0x9D2C5680)))
    x = b.xor(x, b.and_(b.shl(x, of_all(15)), of_all(0xEFC60000)))
    x = b.xor(x, b.lshr(x, of_all(18)))
    below = b.icmp_signed("<", b.and_(x, of_all(0xFFFFFF)), limit)
    b.store(b.uitofp(below, result), b.gep(drawn, [i], source_etype=FLOAT), align=4)
