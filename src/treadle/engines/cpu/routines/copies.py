"""Rows moved from here to there, and sums of several threads added up: what a recipe does between its kernels."""

import functools
from collections.abc import Sequence

import torch

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import LINE_BYTES
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.recipe import Recipe

__all__ = ["add_up", "copy", "previous", "split", "unsplit"]

Shares = Sequence[tuple[int, int]]

ALONE = 1 << 18
"""Bytes; fewer are copied by one thread."""


def copy(recipe: Recipe, to: Number, source: Number, size: int) -> None:
    """Copy ``size`` bytes."""
    for first, last in _split(size, size, LINE_BYTES):
        recipe.task(_address("copy"), (to + first, source + first, last - first), late=True)


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
    for first, last in _split(count, count * size, 1):
        recipe.task(_address("previous"), (to, index, first, last, batch, size, fresh, start, rows), late=True)


def split(
    recipe: Recipe, to: Number, source: tuple[Number, Number], steps: int, shares: Shares, size: int, itemsize: int
) -> None:
    """Rows, step after step, in the order of a `Split`: all steps of the first rows, then of the next.

    Args:
        recipe: what does it.
        to: [N, ...], dense.
        source: [N, ...]: where, and how many numbers rows are apart.
        steps: T.
        shares: the runs of rows.
        size, itemsize: bytes of a row and of a number.
    """
    batch = shares[-1][1]
    for first, last in shares:
        there = to + steps * first * size
        arguments = (there, last - first, size, source[0], batch, first, source[1], itemsize)
        recipe.task(_address("runs"), (*arguments, steps, last - first, size))


def unsplit(recipe: Recipe, to: Number, source: Number, steps: int, shares: Shares, size: int, itemsize: int) -> None:
    """The inverse: rows in the order of a `Split`, dense, back to step after step."""
    batch = shares[-1][1]
    for first, last in shares:
        here = source + steps * first * size
        arguments = (to + first * size, batch, size, here, last - first, 0, size // itemsize, itemsize)
        recipe.task(_address("runs"), (*arguments, steps, last - first, size), late=True)


def add_up(recipe: Recipe, to: Number, source: Number, count: int, stride: int, terms: int, dtype: torch.dtype) -> None:
    """``count`` numbers, each the sum of ``terms`` that lie ``stride`` numbers apart."""
    recipe.task(_address(f"add_up{dtype.itemsize * 8}"), (to, source, count, stride, terms), late=True)


def _split(count: int, size: int, unit: int) -> list[tuple[int, int]]:
    """``count`` things of ``size`` bytes in all, split between threads."""
    return threads.split(count, threads.count(size // ALONE), unit)


@functools.cache
def _address(name: str) -> int:
    sums = (_ADD_UP.format(type=kind, bits=bits, bytes=bits // 8) for kind, bits in (("float", 32), ("double", 64)))
    return compilation.compile(_TEXT + "".join(sums)).address(name)


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

; Of each step, %rows rows of %size bytes: to %to, where steps are %to_step rows of %to_size bytes apart, from %source,
; where they are %source_step rows apart, beginning at row %first; its rows are %stride numbers of %itemsize apart.
define void @runs(ptr %to, i64 %to_step, i64 %to_size, ptr %source, i64 %source_step, i64 %first,
                  i64 %stride, i64 %itemsize, i64 %steps, i64 %rows, i64 %size) {
begin:
  %source_size = mul i64 %stride, %itemsize
  %to_bytes = mul i64 %to_step, %to_size
  %source_bytes = mul i64 %source_step, %source_size
  %first_bytes = mul i64 %first, %source_size
  %begin_source = getelementptr i8, ptr %source, i64 %first_bytes
  %dense = icmp eq i64 %source_size, %size
  %all = mul i64 %rows, %size
  %some = icmp sgt i64 %steps, 0
  br i1 %some, label %step, label %end
step:
  %t = phi i64 [ 0, %begin ], [ %t_next, %stepped ]
  %t_next = add i64 %t, 1
  %to_offset = mul i64 %t, %to_bytes
  %source_offset = mul i64 %t, %source_bytes
  %there = getelementptr i8, ptr %to, i64 %to_offset
  %here = getelementptr i8, ptr %begin_source, i64 %source_offset
  br i1 %dense, label %whole, label %row
whole:
  call void @llvm.memcpy.p0.p0.i64(ptr %there, ptr %here, i64 %all, i1 false)
  br label %stepped
row:
  %r = phi i64 [ 0, %step ], [ %r_next, %row ]
  %r_next = add i64 %r, 1
  %row_to = mul i64 %r, %to_size
  %row_source = mul i64 %r, %source_size
  %one_there = getelementptr i8, ptr %there, i64 %row_to
  %one_here = getelementptr i8, ptr %here, i64 %row_source
  call void @llvm.memcpy.p0.p0.i64(ptr %one_there, ptr %one_here, i64 %size, i1 false)
  %more_rows = icmp slt i64 %r_next, %rows
  br i1 %more_rows, label %row, label %stepped
stepped:
  %more = icmp slt i64 %t_next, %steps
  br i1 %more, label %step, label %end
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
