"""The Mersenne Twister, many numbers at a time.

Word k + 624 of the sequence is made of words k, k + 1 and k + 397, none of which is near: so the words are one long
array, which is filled a vector at a time, and what is drawn is a window of it.

Source: Matsumoto and Nishimura, *Mersenne Twister*, 1998.
"""

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import Recipe

__all__ = ["WORDS", "draw"]

WORDS = 624
"""Words of a state."""
_ALONE = 1 << 16  # numbers; fewer are compared by one thread


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
    recipe = _comparison(tuple(limits), steps, threads.count(min(steps, count // _ALONE)))
    results = [empty(steps, size, dtype=torch.float32) for _, size in limits]
    tensors = {limit: _repeated(*limit) for limit in limits}
    recipe.follow({**tensors, **dict(enumerate(results)), "words": words[position:]})
    return results, words[WORDS * blocks :], position + count - WORDS * blocks


@functools.lru_cache(maxsize=64)
def _comparison(limits: tuple[tuple[int, int], ...], steps: int, shares: int) -> Recipe:
    """How words become zeros and ones."""
    recipe, row, before = Recipe(), sum(size for _, size in limits), 0
    borders = [i * steps // shares for i in range(shares + 1)]
    words, _, _ = recipe.tensor("words")
    for i, (limit, size) in enumerate(limits):
        places = recipe.tensor((limit, size))[0], size, recipe.tensor(i)[0]
        for first, last in itertools.pairwise(borders):
            recipe.task(_compare(), (words + 4 * before, row, *places, first, last))
        before += size
    return recipe


@functools.lru_cache(maxsize=64)
def _repeated(limit: int, size: int) -> Tensor:
    return torch.full((size,), limit, dtype=torch.int32)


@functools.cache
def _twist() -> Callable[[int, int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(compilation.compile(_TEXT).address("twist"))


@functools.cache
def _compare() -> int:
    return compilation.compile(_TEXT).address("compare")


def _all(number: int) -> str:
    return f"<{', '.join([f'i32 {number}'] * 16)}>"


_TEXT = f"""
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
  %word_at = getelementptr i32, ptr %from, i64 %j
  %limit_at = getelementptr i32, ptr %limits, i64 %j
  %drawn_at = getelementptr float, ptr %to, i64 %j
  %w = load <16 x i32>, ptr %word_at, align 4
  %limit = load <16 x i32>, ptr %limit_at, align 4
  %w1 = lshr <16 x i32> %w, {_all(11)}
  %x1 = xor <16 x i32> %w, %w1
  %s2 = shl <16 x i32> %x1, {_all(7)}
  %m2 = and <16 x i32> %s2, {_all(0x9D2C5680 - (1 << 32))}
  %x2 = xor <16 x i32> %x1, %m2
  %s3 = shl <16 x i32> %x2, {_all(15)}
  %m3 = and <16 x i32> %s3, {_all(0xEFC60000 - (1 << 32))}
  %x3 = xor <16 x i32> %x2, %m3
  %s4 = lshr <16 x i32> %x3, {_all(18)}
  %x4 = xor <16 x i32> %x3, %s4
  %bits = and <16 x i32> %x4, {_all(0xFFFFFF)}
  %below = icmp slt <16 x i32> %bits, %limit
  %number = uitofp <16 x i1> %below to <16 x float>
  store <16 x float> %number, ptr %drawn_at, align 4
  %j_next = add i64 %j, 16
  %again = icmp slt i64 %j_next, %whole
  br i1 %again, label %vector, label %rest
rest:
  %left = icmp slt i64 %whole, %row
  br i1 %left, label %one, label %stepped
one:
  %i = phi i64 [ %whole, %rest ], [ %i_next, %one ]
  %word_at1 = getelementptr i32, ptr %from, i64 %i
  %limit_at1 = getelementptr i32, ptr %limits, i64 %i
  %drawn_at1 = getelementptr float, ptr %to, i64 %i
  %v = load i32, ptr %word_at1, align 4
  %limit1 = load i32, ptr %limit_at1, align 4
  %v1 = lshr i32 %v, 11
  %z1 = xor i32 %v, %v1
  %t2 = shl i32 %z1, 7
  %n2 = and i32 %t2, {0x9D2C5680 - (1 << 32)}
  %z2 = xor i32 %z1, %n2
  %t3 = shl i32 %z2, 15
  %n3 = and i32 %t3, {0xEFC60000 - (1 << 32)}
  %z3 = xor i32 %z2, %n3
  %t4 = lshr i32 %z3, 18
  %z4 = xor i32 %z3, %t4
  %bits1 = and i32 %z4, 16777215
  %below1 = icmp slt i32 %bits1, %limit1
  %number1 = uitofp i1 %below1 to float
  store float %number1, ptr %drawn_at1, align 4
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
