"""Rows moved from here to there, and sums of several threads added up: what a recipe does between its kernels."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from llvmlite import ir

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import LINE_BYTES
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.extent import Extent, Part
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.routines.routine_code import begin
from treadle.engines.cpu.write.cursor import I1, I64, POINTER, VOID, const, counted
from treadle.engines.cpu.write.vector import declared

ALONE = 1 << 18
"""Bytes; fewer are copied by one thread."""


def copy(recipe: Recipe, to: Number, source: Number, count: Extent | int, size: int = 1) -> None:
    """Copy so many things of ``size`` bytes each."""
    for first, last in _split(count, size, LINE_BYTES if size == 1 else 1):
        recipe.task(_address("copy"), (to, source, first * size, last * size), late=True)


def previous(
    recipe: Recipe, to: Number, index: Number, count: Extent | int, batch: Number, size: int, *places: Number
) -> None:
    """The ``count`` rows that each step begins with, ``size`` bytes each, dense.

    ``index`` (64 bits) says from where in [B fresh rows, B start rows, ``count`` rows], see `Layout.origins`;
    ``places`` says where these three are.
    """
    for first, last in _split(count, size, 1):
        recipe.task(_address("previous"), (to, index, first, last, batch, size, *places), late=True)


class Runs(NamedTuple):
    """Rows in the order of a `Split`: all steps of the first rows, then of the next."""

    steps: Number
    batch: Number
    runs: Sequence["Run"]


class Run(NamedTuple):
    """Some rows of the batch."""

    first: Number
    rows: Number
    before: Number
    """How many rows of all steps lie before those of this run."""


def split(recipe: Recipe, to: Number, source: tuple[Number, Number], runs: Runs, size: int, itemsize: int) -> None:
    """Rows, step after step, in the order of a `Split`; dense.

    The source is an address, and how many numbers rows are apart; sizes are bytes, of a row and of a number.
    """
    for first, rows, before in runs.runs:
        arguments = (to + before * size, rows, size, source[0], runs.batch, first, source[1], itemsize)
        recipe.task(_address("runs"), (*arguments, runs.steps, rows, size))


def unsplit(recipe: Recipe, to: Number, source: Number, runs: Runs, size: int, itemsize: int) -> None:
    """The inverse: rows in the order of a `Split`, dense, back to step after step."""
    for first, rows, before in runs.runs:
        here = source + before * size
        arguments = (to + first * size, runs.batch, size, here, rows, 0, size // itemsize, itemsize)
        recipe.task(_address("runs"), (*arguments, runs.steps, rows, size), late=True)


def add_up(recipe: Recipe, to: Number, source: Number, count: int, stride: int, terms: int, dtype: torch.dtype) -> None:
    """``count`` numbers, each the sum of ``terms`` that lie ``stride`` numbers apart."""
    recipe.task(_address(f"add_up{dtype.itemsize * 8}"), (to, source, count, stride, terms), late=True)


def _split(count: Extent | int, size: int, unit: int) -> list[Part]:
    """Things of ``size`` bytes each, split between threads."""
    count = Extent.of(count)
    return count.parts(threads.count(count.most * size // ALONE), unit)


@functools.cache
def _address(name: str) -> int:
    names = "copy", "previous", "runs", "add_up32", "add_up64"
    return compilation.routine("copies", names, _text, host()).address(name)


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
    b, function = begin(module, "copy", POINTER, POINTER, I64, I64)
    to, source, first, last = function.args
    _copy(b, _row(b, to, first, const(1)), _row(b, source, first, const(1)), b.sub(last, first))
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
