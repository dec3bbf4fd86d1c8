"""The machine code of the product over rows. Sizes are arguments, so that there is one kernel for each dtype."""

from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine import cache_sizes
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.routines.routine_code import RoutineCode
from treadle.engines.cpu.routines.row_panel_code import PANEL, vectors_of_a_tile
from treadle.engines.cpu.write.cursor import I64, POINTER, VOID, const

CHUNK = 64
"""Blocks that are added up before their sum is added to that of others."""


def rows_of_a_block(target: Target) -> int:
    """Most rows (of N) for which both are copied; sums leave the registers once a block.

    The copy of a panel has to leave room in the nearest cache, of 32 KB, for what a tile reads of ``a``. A wide one
    streams from the second cache as fast as it is multiplied.
    """
    return 128 if target.registers >= 32 else 256


def depth(itemsize: int, target: Target) -> int:
    """Most columns of ``a`` that are copied at a time: with a block of rows they take half of the second cache."""
    most = cache_sizes.second() // (2 * rows_of_a_block(target) * itemsize)
    return max(128, min(512, 1 << most.bit_length() - 1))


class RowProductCode(RoutineCode):
    """Writes the module: ``outer``, which goes over blocks of rows and over panels."""

    def __init__(self, dtype: torch.dtype, target: Target):
        super().__init__(dtype, target)
        self.vectors, self.depth = vectors_of_a_tile(target), depth(self.bytes, target)
        self.columns = self._copied_columns()
        self._outer()

    def _outer(self) -> None:
        """Chunks of blocks of rows. All but the first have their sums in ``other``, and are then added to ``out``.

        ``panels`` is a table of functions, `PanelCode`'s, for one vector, two, and so on; those that are needed.
        """
        kinds = [POINTER, I64, POINTER, I64, POINTER, POINTER, I64, I64, I64, I64, I64, POINTER, POINTER]
        function = self.begin("outer", *kinds)
        a, a_stride, g, g_stride, out, other, out_stride, n_size, k_size, m_size, block, buffer, panels = function.args
        b = self.b
        chunk = b.mul(block, const(CHUNK))
        with self.loop(0, n_size, chunk) as first:
            is_first = b.icmp_signed("==", first, const(0))
            to = b.select(is_first, out, other)
            chunk_rows = self.minimum(b.sub(n_size, first), chunk)
            with self.loop(0, chunk_rows, block) as start:
                n = b.add(first, start)
                rows = self.minimum(b.sub(chunk_rows, start), block)
                a_block = self.at(a, b.mul(n, a_stride))
                g_block = self.at(g, b.mul(n, g_stride))
                again = b.icmp_signed(">", start, const(0))
                places = (a_block, a_stride), (g_block, g_stride), (to, out_stride)
                self._block(*places, (rows, k_size, m_size), block, buffer, again, panels)
            with b.if_then(b.not_(is_first)), self.loop(0, k_size) as k, self.loop(0, m_size) as m:
                offset = b.add(b.mul(k, out_stride), m)
                total, more = (
                    b.load(self.at(base, offset), typ=self.element, align=self.bytes) for base in (out, other)
                )
                b.store(b.fadd(total, more), self.at(out, offset), align=self.bytes)
        b.ret_void()

    def _block(self, a: Any, g: Any, to: Any, sizes: Any, block: Any, buffer: Any, again: Any, panels: Any) -> None:
        """The sums of a block of rows: panels from left to right, the last ones as narrow as what is left.

        ``a``, ``g`` and ``to`` are where they are, and how many numbers rows are apart; the sizes are rows, columns of
        ``a``, columns of ``g``; ``again`` says whether the sums are added to what is there.
        """
        b, (rows, k_size, m_size) = self.b, sizes
        copy = self.at(buffer, b.mul(block, const(self.vectors * self.lanes)))
        with self.loop(0, k_size, self.depth) as k:
            deep = self.minimum(b.sub(k_size, k), const(self.depth))
            b.call(self.columns, [self.at(a[0], k), a[1], rows, deep, block, copy])
            line = self.at(to[0], b.mul(k, to[1]))
            with self.loop(0, m_size, self.vectors * self.lanes) as m:
                columns = b.sub(m_size, m)
                left = b.sdiv(b.add(columns, const(self.lanes - 1)), const(self.lanes))
                panel = self.load_word(panels, b.sub(self.minimum(left, const(self.vectors)), const(1)))
                arguments = [copy, block, self.at(g[0], m), g[1]]
                arguments += [self.at(line, m), to[1], rows, deep, columns, buffer, again]
                b.call(b.inttoptr(panel, ir.FunctionType(VOID, PANEL).as_pointer()), arguments)

    def _copied_columns(self) -> ir.Function:
        """Copy rows of ``a``: columns as wide as a vector, one after the other, ``block`` rows each."""
        function = self.begin("columns", POINTER, I64, I64, I64, I64, POINTER, internal=True)
        a, a_stride, n_size, k_size, block, buffer = function.args
        b = self.b
        whole = b.and_(k_size, const(-self.lanes))
        some = b.icmp_signed("<", whole, k_size)
        mask = self.below(b.sub(k_size, whole))
        with self.loop(0, n_size) as n:
            source = self.at(a, b.mul(n, a_stride))
            place = self.at(buffer, b.mul(n, const(self.lanes)))
            with self.loop(0, whole, self.lanes) as k:
                value = self.load(self.at(source, k))
                b.store(value, self.at(place, b.mul(k, block)), align=self.target.vector_bytes)
            with b.if_then(some):
                value = self.load(self.at(source, whole), mask)
                b.store(value, self.at(place, b.mul(whole, block)), align=self.target.vector_bytes)
        b.ret_void()
        return function
