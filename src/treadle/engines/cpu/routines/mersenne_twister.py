"""The Mersenne Twister, many numbers at a time.

Word k + 624 of the sequence is made of words k, k + 1 and k + 397, none of which is near: so the words are one long
array, which is filled a vector at a time, and what is drawn is a window of it.

Source: Matsumoto and Nishimura, *Mersenne Twister*, 1998.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import Recipe

__all__ = ["WORDS", "draw"]

WORDS = 624
"""Words of a state."""
ALONE = 1 << 16
"""Numbers; fewer are compared by one thread."""


def draw(
    state: Tensor, position: int, limits: Sequence[tuple[int, int]], steps: int
) -> tuple[list[Tensor], Tensor, int]:
    """Zeros and ones, one where the lower 24 bits of the next word are below a limit.

    Args:
        state: [624] words, int32.
        position: which word of the state comes next, up to 624.
        limits: of each result, the limit, and how many numbers there are.
        steps: how often all the results are gone through.

    Returns:
        The numbers, of each result [steps, n], float32; the state and the position after them.
    """
    count = steps * sum(size for _, size in limits)
    blocks = max(0, -(-(position + count - WORDS) // WORDS))
    words = empty(WORDS * (1 + blocks), dtype=torch.int32)
    words[:WORDS] = state
    _twist()(words.data_ptr(), WORDS * blocks)
    recipe = _comparison(tuple(limits), tuple(threads.split(steps, threads.count(count // ALONE))))
    results = [empty(steps, size, dtype=torch.float32) for _, size in limits]
    tensors = {limit: _repeated(*limit) for limit in limits}
    recipe.follow({**tensors, **dict(enumerate(results)), "words": words[position:]})
    return results, words[WORDS * blocks :], position + count - WORDS * blocks


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
def _repeated(limit: int, size: int) -> Tensor:
    return torch.full((size,), limit, dtype=torch.int32)


@functools.cache
def _twist() -> Callable[[int, int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(_address("twist"))


@functools.cache
def _address(name: str) -> int:
    return compilation.compile(_TWIST + _COMPARE).address(name)


_LANES = 16


def _of(kind: str, lanes: int) -> str:
    """A type, or so many of it."""
    return kind if lanes == 1 else f"<{lanes} x {kind}>"


def _all(number: int, lanes: int = _LANES) -> str:
    """A constant in all lanes."""
    return str(number) if lanes == 1 else f"<{', '.join([f'i32 {number}'] * lanes)}>"


def _compared(index: str, lanes: int, letters: str, suffix: str) -> str:
    """Draw so many numbers from an index on: mix the bits of their words, and compare the lower ones with the limits.

    The letters and the suffix keep names apart where this stands twice in a function.
    """
    w, x, s, m = letters
    words, bits, floats = _of("i32", lanes), _of("i1", lanes), _of("float", lanes)
    return f"""  %word_at{suffix} = getelementptr i32, ptr %from, i64 %{index}
  %limit_at{suffix} = getelementptr i32, ptr %limits, i64 %{index}
  %drawn_at{suffix} = getelementptr float, ptr %to, i64 %{index}
  %{w} = load {words}, ptr %word_at{suffix}, align 4
  %limit{suffix} = load {words}, ptr %limit_at{suffix}, align 4
  %{w}1 = lshr {words} %{w}, {_all(11, lanes)}
  %{x}1 = xor {words} %{w}, %{w}1
  %{s}2 = shl {words} %{x}1, {_all(7, lanes)}
  %{m}2 = and {words} %{s}2, {_all(0x9D2C5680 - (1 << 32), lanes)}
  %{x}2 = xor {words} %{x}1, %{m}2
  %{s}3 = shl {words} %{x}2, {_all(15, lanes)}
  %{m}3 = and {words} %{s}3, {_all(0xEFC60000 - (1 << 32), lanes)}
  %{x}3 = xor {words} %{x}2, %{m}3
  %{s}4 = lshr {words} %{x}3, {_all(18, lanes)}
  %{x}4 = xor {words} %{x}3, %{s}4
  %bits{suffix} = and {words} %{x}4, {_all(0xFFFFFF, lanes)}
  %below{suffix} = icmp slt {words} %bits{suffix}, %limit{suffix}
  %number{suffix} = uitofp {bits} %below{suffix} to {floats}
  store {floats} %number{suffix}, ptr %drawn_at{suffix}, align 4"""


_TWIST = f"""
define void @twist(ptr %words, i64 %count) {{
begin:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %vector, label %end
vector:
  %k = phi i64 [ 0, %begin ], [ %k_next, %vector ]
  %k1 = add i64 %k, 1
  %k397 = add i64 %k, 397
  %k624 = add i64 %k, 624
  %at = getelementptr i32, ptr %words, i64 %k
  %at1 = getelementptr i32, ptr %words, i64 %k1
  %at397 = getelementptr i32, ptr %words, i64 %k397
  %at624 = getelementptr i32, ptr %words, i64 %k624
  %a = load <16 x i32>, ptr %at, align 4
  %b = load <16 x i32>, ptr %at1, align 4
  %c = load <16 x i32>, ptr %at397, align 4
  %upper = and <16 x i32> %a, {_all(-0x80000000)}
  %lower = and <16 x i32> %b, {_all(0x7FFFFFFF)}
  %y = or <16 x i32> %upper, %lower
  %half = lshr <16 x i32> %y, {_all(1)}
  %bit = and <16 x i32> %b, {_all(1)}
  %minus = sub <16 x i32> zeroinitializer, %bit
  %matrix = and <16 x i32> %minus, {_all(0x9908B0DF - (1 << 32))}
  %mixed = xor <16 x i32> %c, %half
  %new = xor <16 x i32> %mixed, %matrix
  store <16 x i32> %new, ptr %at624, align 4
  %k_next = add i64 %k, 16
  %more = icmp slt i64 %k_next, %count
  br i1 %more, label %vector, label %end
end:
  ret void
}}
"""

_COMPARE = f"""
define void @compare(ptr %words, i64 %stride, ptr %limits, i64 %row, ptr %drawn, i64 %first, i64 %last) {{
begin:
  %whole = and i64 %row, -16
  %some = icmp slt i64 %first, %last
  br i1 %some, label %step, label %end
step:
  %t = phi i64 [ %first, %begin ], [ %t_next, %stepped ]
  %t_next = add i64 %t, 1
  %word_place = mul i64 %t, %stride
  %place = mul i64 %t, %row
  %from = getelementptr i32, ptr %words, i64 %word_place
  %to = getelementptr float, ptr %drawn, i64 %place
  %any = icmp sgt i64 %whole, 0
  br i1 %any, label %vector, label %rest
vector:
  %j = phi i64 [ 0, %step ], [ %j_next, %vector ]
{_compared("j", _LANES, "wxsm", "")}
  %j_next = add i64 %j, 16
  %again = icmp slt i64 %j_next, %whole
  br i1 %again, label %vector, label %rest
rest:
  %left = icmp slt i64 %whole, %row
  br i1 %left, label %one, label %stepped
one:
  %i = phi i64 [ %whole, %rest ], [ %i_next, %one ]
{_compared("i", 1, "vztn", "1")}
  %i_next = add i64 %i, 1
  %more = icmp slt i64 %i_next, %row
  br i1 %more, label %one, label %stepped
stepped:
  %further = icmp slt i64 %t_next, %last
  br i1 %further, label %step, label %end
end:
  ret void
}}
"""
