"""The machine code that packs matrices, and lays rows of bfloat16 together in pairs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.routines.routine_code import RoutineCode, filled
from treadle.engines.cpu.write.cursor import I32, I64, POINTER, VOID, const

_ROWS_AHEAD = 16
"""How many rows ahead memory is asked for."""


class PackingCode(RoutineCode):
    """Writes ``pack``. Addresses are numbers, as a recipe has them.

    ``part`` is how many vectors of a panel lie together, over all of K, where their number can be divided by that.
    With ``rounded``, numbers get the values of bfloat16.
    """

    def __init__(self, dtype: torch.dtype, target: Target, rounded: bool):
        super().__init__(dtype, target)
        self.rounded = rounded

    def text(self) -> str:
        """The module."""
        self._pack()
        return str(self.module)

    def _pack(self) -> None:
        out, source, depth, by_k, by_n, slots, slot_count, vectors, part, units, first, last = self.begin(
            "pack", *[I64] * 12
        ).args
        b, lanes = self.b, const(self.lanes)
        block = b.ptrtoint(b.alloca(ir.ArrayType(self.vector, self.lanes)), I64)
        slots = b.inttoptr(slots, POINTER)
        whole_width = b.mul(b.mul(slot_count, vectors), lanes)
        with self._panel(first, last, vectors, units) as (panel, here):
            begin = self.at(out, b.mul(b.mul(panel, depth), whole_width))
            all_here = b.mul(slot_count, here)
            in_parts = b.icmp_signed("==", b.srem(all_here, part), const(0))
            together = b.select(in_parts, part, all_here)
            width = b.mul(together, lanes)

            def vector(g: Any, q: Any) -> tuple[Any, Any, Any]:
                """Where a vector of the first row is, where it goes, and how many of its lanes are there."""
                unit = b.mul(b.add(b.mul(panel, vectors), q), lanes)
                column = b.add(b.load(b.gep(slots, [g], source_etype=I64), typ=I64), unit)
                number = b.add(b.mul(g, here), q)
                before = b.sub(number, b.srem(number, together))
                to = self.at(begin, b.mul(b.add(b.mul(before, depth), b.sub(number, before)), lanes))
                return self.at(source, b.mul(column, by_n)), to, b.sub(units, unit)

            with self.loop(0, slot_count) as g, self.loop(0, here) as q:
                at, to, valid = vector(g, q)
                with b.if_else(b.icmp_signed("==", by_n, const(1))) as (rows, otherwise):
                    with rows, self.loop(0, depth) as k:
                        place = self.at(at, b.mul(k, by_k))
                        self._fetch(self.at(place, b.mul(by_k, const(_ROWS_AHEAD))))
                        row = self._as_packed(self.load(place, self.below(valid)))
                        self.store(row, self.at(to, b.mul(k, width)))
                    with otherwise, b.if_else(b.icmp_signed("==", by_k, const(1))) as (columns, scattered):
                        with columns:
                            self._transposed(at, by_n, to, width, depth, valid, block)
                        with scattered:
                            self._gathered(at, by_k, by_n, to, width, depth, valid)
        b.ret_void()

    @contextlib.contextmanager
    def _panel(self, first: Any, last: Any, vectors: Any, units: Any) -> Iterator[tuple[Any, Any]]:
        """Panels, and how many vectors each has."""
        b = self.b
        total = b.sdiv(b.add(units, const(self.lanes - 1)), const(self.lanes))
        with self.loop(first, last) as panel:
            left = b.sub(total, b.mul(panel, vectors))
            yield panel, b.select(b.icmp_signed("<", left, vectors), left, vectors)

    def _gathered(self, at: Any, by_k: Any, by_n: Any, to: Any, width: Any, depth: Any, valid: Any) -> None:
        """Numbers that lie apart along both axes, one after the other."""
        b, zero = self.b, const(0)
        with self.loop(0, depth) as k, self.loop(0, self.lanes) as lane:
            inside = b.icmp_signed("<", lane, valid)
            place = b.add(b.mul(k, by_k), b.mul(b.select(inside, lane, zero), by_n))
            safe = b.select(b.icmp_signed(">", valid, zero), place, zero)
            number = b.load(self.at(at, safe), typ=self.element, align=self.bytes)
            number = self._as_packed(b.select(inside, number, ir.Constant(self.element, 0.0)))
            self.store(number, self.at(to, b.add(b.mul(k, width), lane)))

    def _transposed(self, at: Any, by_n: Any, to: Any, width: Any, depth: Any, valid: Any, block: Any) -> None:
        """Columns of the matrix are rows of the memory: squares of them are turned in registers."""
        b, lanes = self.b, const(self.lanes)
        with self.loop(0, depth, lanes) as k:
            left = b.sub(depth, k)
            inside = self.below(left)
            rows = []
            for i in range(self.lanes):
                there = b.icmp_signed("<", const(i), valid)
                address = self.at(at, b.add(b.mul(b.select(there, const(i), const(0)), by_n), k))
                rows.append(self._as_packed(self.load(address, b.select(there, inside, self.nothing))))
                self._fetch(self.at(address, b.mul(by_n, lanes)))
            turned = _transpose(b, rows)
            with b.if_else(b.icmp_signed(">=", left, lanes)) as (whole, part):
                with whole:
                    for i, row in enumerate(turned):
                        self.store(row, self.at(to, b.mul(b.add(k, const(i)), width)))
                with part:
                    for i, row in enumerate(turned):
                        self.store(row, self.at(block, const(i * self.lanes)))
                    with self.loop(0, left) as i:
                        row = self.load(self.at(block, b.mul(i, lanes)))
                        self.store(row, self.at(to, b.mul(b.add(k, i), width)))

    def _fetch(self, address: Any) -> None:
        """Ask for what is read soon: columns are too short for a core to see where they lead."""
        fetch = self.declared("llvm.prefetch.p0", VOID, POINTER, I32, I32, I32)
        to_read, stays, is_data = I32(0), I32(3), I32(1)
        self.b.call(fetch, [address, to_read, stays, is_data])

    def _as_packed(self, x: Any) -> Any:
        """A number or a vector as it is to be packed."""
        if not self.rounded:
            return x
        bits = _rounded(self.b, x)
        return self.b.bitcast(self.b.and_(bits, filled(bits.type, 0xFFFF0000)), x.type)


class HalvingCode(RoutineCode):
    """Writes ``halve``. Addresses are numbers, as a recipe has them."""

    def __init__(self, target: Target):
        super().__init__(torch.float32, target)

    def text(self) -> str:
        """The module."""
        self._halve()
        return str(self.module)

    def _halve(self) -> None:
        """Rows of float32 as pairs of bfloat16: those of panels, or of one matrix whose rows are ``stride`` apart."""
        out, source, depth, width, stride, panels, first, stop = self.begin("halve", *[I64] * 8).args
        b, lanes = self.b, const(self.lanes)
        pairs = b.sdiv(b.add(depth, const(1)), const(2))
        with self.loop(0, panels) as panel, self.loop(first, stop) as i:
            even = b.mul(i, const(2))
            last = b.icmp_signed("<", b.add(even, const(1)), depth)
            with self.loop(0, width, lanes) as j:
                row = b.add(b.mul(b.add(b.mul(panel, depth), even), stride), j)
                inside = self.below(b.sub(width, j))
                lower = _rounded(b, self.load(self.at(source, row), inside))
                there = b.select(last, b.add(row, stride), row)
                upper = _rounded(b, self.load(self.at(source, there), inside))
                upper = b.select(last, upper, filled(upper.type, 0))
                pair = b.or_(b.lshr(lower, filled(lower.type, 16)), b.and_(upper, filled(upper.type, 0xFFFF0000)))
                place = b.add(b.mul(b.add(b.mul(panel, pairs), i), width), j)
                self.store(pair, self.at(out, place), inside)
        b.ret_void()


def _rounded(b: Any, x: Any) -> Any:
    """The bits of floats, their upper half rounded to nearest, ties to even. Infinities stay, NaN too."""
    bits = b.bitcast(x, ir.VectorType(I32, x.type.count) if isinstance(x.type, ir.VectorType) else I32)
    odd = b.and_(b.lshr(bits, filled(bits.type, 16)), filled(bits.type, 1))
    up = b.add(b.add(bits, filled(bits.type, 0x7FFF)), odd)
    return b.select(b.fcmp_unordered("uno", x, x), filled(bits.type, 0x7FC00000), up)


def _transpose(b: Any, rows: list[ir.Value]) -> list[ir.Value]:
    """A square of vectors, turned: each round exchanges blocks of half the size between pairs of rows."""
    count = len(rows)
    size = count // 2
    while size:
        result = list(rows)
        for i in range(count):
            if i & size:
                continue
            j = i | size
            low = [lane if not lane & size else count + (lane ^ size) for lane in range(count)]
            high = [lane | size if not lane & size else count + lane for lane in range(count)]
            kind = ir.VectorType(I32, count)
            result[i] = b.shuffle_vector(rows[i], rows[j], ir.Constant(kind, low))
            result[j] = b.shuffle_vector(rows[i], rows[j], ir.Constant(kind, high))
        rows, size = result, size // 2
    return rows
