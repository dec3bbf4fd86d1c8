"""Rows moved from here to there, and sums of several threads added up: what a recipe does between its kernels."""

import functools
import itertools

import torch

from treadle.engines.cpu import jit, threads
from treadle.engines.cpu.recipe import Number, Recipe

__all__ = ["add_up", "copy", "previous"]

_ALONE = 1 << 18  # bytes; fewer are copied by one thread


def copy(recipe: Recipe, to: Number, source: Number, size: int) -> None:
    """Copy ``size`` bytes."""
    borders = _borders(size, size, 64)
    for first, last in itertools.pairwise(borders):
        recipe.task(_functions()["copy"], (to + first, source + first, last - first), late=True)


def previous(
    recipe: Recipe,
    to: Number,
    index: Number,
    count: int,
    batch: int,
    size: int,
    fresh: Number,
    start: Number,
    rows: Number,
) -> None:
    """The rows that each step begins with, ``size`` bytes each.

    Args:
        recipe: what does it.
        to: [N, ...], dense, like all of them.
        index: [N], 64 bits: from where in [B fresh rows, B start rows, N rows] (see `Layout.origins`).
        count, batch: N and B.
        size: bytes of a row.
        fresh, start, rows: where those are.
    """
    for first, last in itertools.pairwise(_borders(count, count * size, 1)):
        recipe.task(_functions()["previous"], (to, index, first, last, batch, size, fresh, start, rows), late=True)


def add_up(recipe: Recipe, to: Number, source: Number, count: int, stride: int, terms: int, dtype: torch.dtype) -> None:
    """``count`` numbers, each the sum of ``terms`` that lie ``stride`` numbers apart."""
    recipe.task(_functions()[f"add_up{dtype.itemsize * 8}"], (to, source, count, stride, terms), late=True)


def _borders(count: int, size: int, unit: int) -> list[int]:
    """Where ``count`` things of ``size`` bytes in all are split between threads."""
    shares = threads.count(max(1, size // _ALONE))
    return sorted({count * i // shares // unit * unit if i < shares else count for i in range(shares + 1)})


@functools.cache
def _functions() -> dict[str, int]:
    library = jit.compile(_TEXT + "".join(_ADD_UP.format(type=t, bits=b, bytes=b // 8) for t, b in _TYPES))
    return {name: library.address(name) for name in ("copy", "previous", "add_up32", "add_up64")}


_TYPES = (("float", 32), ("double", 64))

_TEXT = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define void @copy(ptr %to, ptr %source, i64 %size) {
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %source, i64 %size, i1 false)
  ret void
}

define void @previous(ptr %to, ptr %index, i64 %first, i64 %last, i64 %batch, i64 %size, ptr %fresh, ptr %start,
                      ptr %rows) {
begin:
  %some = icmp slt i64 %first, %last
  %two = mul i64 %batch, 2
  br i1 %some, label %row, label %end
row:
  %n = phi i64 [ %first, %begin ], [ %n_next, %row ]
  %place = getelementptr i64, ptr %index, i64 %n
  %i = load i64, ptr %place
  %is_fresh = icmp slt i64 %i, %batch
  %is_start = icmp slt i64 %i, %two
  %i_start = sub i64 %i, %batch
  %i_rows = sub i64 %i, %two
  %late = select i1 %is_start, ptr %start, ptr %rows
  %base = select i1 %is_fresh, ptr %fresh, ptr %late
  %i_late = select i1 %is_start, i64 %i_start, i64 %i_rows
  %own = select i1 %is_fresh, i64 %i, i64 %i_late
  %offset = mul i64 %own, %size
  %source = getelementptr i8, ptr %base, i64 %offset
  %to_offset = mul i64 %n, %size
  %there = getelementptr i8, ptr %to, i64 %to_offset
  call void @llvm.memcpy.p0.p0.i64(ptr %there, ptr %source, i64 %size, i1 false)
  %n_next = add i64 %n, 1
  %more = icmp slt i64 %n_next, %last
  br i1 %more, label %row, label %end
end:
  ret void
}
"""

_ADD_UP = """
define void @add_up{bits}(ptr %to, ptr %source, i64 %count, i64 %stride, i64 %terms) {{
begin:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %number, label %end
number:
  %j = phi i64 [ 0, %begin ], [ %j_next, %store ]
  br label %term
term:
  %k = phi i64 [ 0, %number ], [ %k_next, %term ]
  %total = phi {type} [ 0.0, %number ], [ %sum, %term ]
  %offset = mul i64 %k, %stride
  %at = add i64 %offset, %j
  %place = getelementptr {type}, ptr %source, i64 %at
  %value = load {type}, ptr %place, align {bytes}
  %sum = fadd {type} %total, %value
  %k_next = add i64 %k, 1
  %more = icmp slt i64 %k_next, %terms
  br i1 %more, label %term, label %store
store:
  %there = getelementptr {type}, ptr %to, i64 %j
  store {type} %sum, ptr %there, align {bytes}
  %j_next = add i64 %j, 1
  %again = icmp slt i64 %j_next, %count
  br i1 %again, label %number, label %end
end:
  ret void
}}
"""
