"""Rows moved from here to there, and sums of several threads added up: what a recipe does between its kernels."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import LINE_BYTES
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.routines.routine_code import begin
from treadle.engines.cpu.write.cursor import I1, I64, POINTER, VOID, const, counted
from treadle.engines.cpu.write.vector import declared

Shares = Sequence[tuple[int, int]]

ALONE = 1 << 18
"""Bytes; fewer are copied by one thread."""


def copy(recipe: Recipe, to: Number, source: Number, size: int) -> None:
    """Copy ``size`` bytes."""
    for first, last in _split(size, size, LINE_BYTES):
        recipe.task(_address("copy"), (to + first, source + first, last - first), late=True)


def previous(recipe: Recipe, to: Number, index: Number, count: int, batch: int, size: int, *places: Number) -> None:
    """The ``count`` rows that each step begins with, ``size`` bytes each, dense.

    ``index`` (64 bits) says from where in [B fresh rows, B start rows, ``count`` rows], see `Layout.origins`;
    ``places`` says where these three are.
    """
    for first, last in _split(count, count * size, 1):
        recipe.task(_address("previous"), (to, index, first, last, batch, size, *places), late=True)


def split(
    recipe: Recipe, to: Number, source: tuple[Number, Number], steps: int, shares: Shares, size: int, itemsize: int
) -> None:
    """Rows, step after step, in the order of a `Split`: all steps of the first rows, then of the next; dense.

    The source is an address, and how many numbers rows are apart; sizes are bytes, of a row and of a number.
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
    return compilation.compile(_text()).address(name)


def _text() -> str:
    module = ir.Module()
    _write_copies(module)
    _write_previous(module)
    _write_runs(module)
    for number in (ir.FloatType(), ir.DoubleType()):
        _write_add_up(module, number)
    return str(module)


def _copy(b: Any, to: Any, source: Any, size: Any) -> None:
    kind = ir.FunctionType(VOID, [POINTER, POINTER, I64, I1])
    b.call(declared(b.module, "llvm.memcpy.p0.p0.i64", kind), [to, source, size, I1(0)])


def _row(b: Any, base: Any, number: Any, size: Any) -> Any:
    """Where a row of so many bytes begins."""
    return b.gep(base, [b.mul(number, size)], source_etype=ir.IntType(8))


def _write_copies(module: ir.Module) -> None:
    b, function = begin(module, "copy", POINTER, POINTER, I64)
    _copy(b, *function.args)
    b.ret_void()


def _write_previous(module: ir.Module) -> None:
    b, function = begin(module, "previous", POINTER, POINTER, I64, I64, I64, I64, POINTER, POINTER, POINTER)
    to, index, first, last, batch, size, fresh, start, rows = function.args
    two = b.mul(batch, const(2))
    with counted(b, first, last, const(1)) as n:
        i = b.load(b.gep(index, [n], source_etype=I64), typ=I64)
        is_fresh, is_start = b.icmp_signed("<", i, batch), b.icmp_signed("<", i, two)
        base = b.select(is_fresh, fresh, b.select(is_start, start, rows))
        own = b.select(is_fresh, i, b.select(is_start, b.sub(i, batch), b.sub(i, two)))
        _copy(b, _row(b, to, n, size), _row(b, base, own, size), size)
    b.ret_void()


def _write_runs(module: ir.Module) -> None:
    """Of each step, ``rows`` rows of ``size`` bytes.

    They go to ``to``, where steps are ``to_step`` rows of ``to_size`` bytes apart. They come from ``source``, where
    steps are ``source_step`` rows apart, from row ``first`` on; its rows are ``stride`` numbers of ``itemsize`` apart.
    """
    b, function = begin(module, "runs", POINTER, I64, I64, POINTER, I64, I64, I64, I64, I64, I64, I64)
    to, to_step, to_size, source, source_step, first, stride, itemsize, steps, rows, size = function.args
    source_size = b.mul(stride, itemsize)
    to_bytes, source_bytes = b.mul(to_step, to_size), b.mul(source_step, source_size)
    source = _row(b, source, first, source_size)
    dense, whole = b.icmp_signed("==", source_size, size), b.mul(rows, size)
    with counted(b, const(0), steps, const(1)) as t:
        there, here = _row(b, to, t, to_bytes), _row(b, source, t, source_bytes)
        with b.if_else(dense) as (at_once, one_by_one):
            with at_once:
                _copy(b, there, here, whole)
            with one_by_one, counted(b, const(0), rows, const(1)) as r:
                _copy(b, _row(b, there, r, to_size), _row(b, here, r, source_size), size)
    b.ret_void()


def _write_add_up(module: ir.Module, number: ir.Type) -> None:
    bytes = 4 if number == ir.FloatType() else 8
    b, function = begin(module, f"add_up{8 * bytes}", POINTER, POINTER, I64, I64, I64)
    to, source, count, stride, terms = function.args
    total = b.alloca(number)
    terms = b.select(b.icmp_signed(">", terms, const(1)), terms, const(1))  # or LLVM asks before each sum
    with counted(b, const(0), count, const(1)) as j:
        b.store(number(0.0), total)
        with counted(b, const(0), terms, const(1)) as k:
            value = b.load(b.gep(source, [b.add(b.mul(k, stride), j)], source_etype=number), typ=number, align=bytes)
            b.store(b.fadd(b.load(total, typ=number), value), total)
        b.store(b.load(total, typ=number), b.gep(to, [j], source_etype=number), align=bytes)
    b.ret_void()
