"""The machine code that packs matrices, and lays rows of bfloat16 together in pairs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.counted_loop import counted

__all__ = ["PackingCode"]

I64, I32, I1 = ir.IntType(64), ir.IntType(32), ir.IntType(1)
POINTER = ir.PointerType()


class PackingCode:
    """Writes ``pack`` and, where it makes sense, ``halve``. Addresses are numbers, as a recipe has them.

    Args:
        dtype: of the matrices.
        target: the CPU.
        rounded: whether numbers get the values of bfloat16.
    """

    b: Any  # llvmlite's methods have no types, and pyright infers wrong ones

    def __init__(self, dtype: torch.dtype, target: Target, rounded: bool):
        self.bytes, self.rounded = dtype.itemsize, rounded
        self.element = ir.FloatType() if self.bytes == 4 else ir.DoubleType()
        self.lanes = target.lanes(self.bytes)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.mask = ir.VectorType(I1, self.lanes)
        self.wide = ir.VectorType(I64, self.lanes)
        self.module = ir.Module()
        self.module.triple = target.triple
        self.zeros = ir.Constant(self.vector, [0.0] * self.lanes)

    def text(self) -> str:
        """The module; only float32 that is not rounded yet can be halved."""
        self._pack()
        if self.bytes == 4 and not self.rounded:
            self._halve()
        return str(self.module)

    def _function(self, name: str, count: int) -> list[ir.Value]:
        """Begin a function of so many 64-bit numbers."""
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [I64] * count), name)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        return list(function.args)

    def _pack(self) -> None:
        out, source, depth, by_k, by_n, slots, slot_count, vectors, units, first, last = self._function("pack", 11)
        b, lanes = self.b, self.const(self.lanes)
        block = b.ptrtoint(b.alloca(ir.ArrayType(self.vector, self.lanes)), I64)
        slots = b.inttoptr(slots, POINTER)
        whole_width = b.mul(b.mul(slot_count, vectors), lanes)
        with (
            self._panel(first, last, vectors, units) as (panel, here),
            self.loop(self.const(0), slot_count) as g,
            self.loop(self.const(0), here) as q,
        ):
            width = b.mul(b.mul(slot_count, here), lanes)
            unit = b.mul(b.add(b.mul(panel, vectors), q), lanes)
            valid = b.sub(units, unit)
            column = b.add(b.load(b.gep(slots, [g], source_etype=I64), typ=I64), unit)
            at = self.at(source, b.mul(column, by_n))
            place = b.add(b.mul(b.mul(panel, depth), whole_width), b.mul(b.add(b.mul(g, here), q), lanes))
            to = self.at(out, place)
            with b.if_else(b.icmp_signed("==", by_n, self.const(1))) as (rows, otherwise):
                with rows, self.loop(self.const(0), depth) as k:
                    row = self._as_packed(self.load(self.at(at, b.mul(k, by_k)), self.below(valid)))
                    b.store(row, self.at(to, b.mul(k, width)), align=self.bytes)
                with otherwise, b.if_else(b.icmp_signed("==", by_k, self.const(1))) as (columns, scattered):
                    with columns:
                        self._transposed(at, by_n, to, width, depth, valid, block)
                    with scattered:
                        self._gathered(at, by_k, by_n, to, width, depth, valid)
        b.ret_void()

    @contextlib.contextmanager
    def _panel(self, first: Any, last: Any, vectors: Any, units: Any) -> Iterator[tuple[Any, Any]]:
        """Panels, and how many vectors each has."""
        b = self.b
        total = b.sdiv(b.add(units, self.const(self.lanes - 1)), self.const(self.lanes))
        with self.loop(first, last) as panel:
            left = b.sub(total, b.mul(panel, vectors))
            yield panel, b.select(b.icmp_signed("<", left, vectors), left, vectors)

    def _gathered(self, at: Any, by_k: Any, by_n: Any, to: Any, width: Any, depth: Any, valid: Any) -> None:
        """Numbers that lie apart along both axes, one after the other."""
        b, zero = self.b, self.const(0)
        with self.loop(zero, depth) as k, self.loop(zero, self.const(self.lanes)) as lane:
            inside = b.icmp_signed("<", lane, valid)
            place = b.add(b.mul(k, by_k), b.mul(b.select(inside, lane, zero), by_n))
            safe = b.select(b.icmp_signed(">", valid, zero), place, zero)
            number = b.load(self.at(at, safe), typ=self.element, align=self.bytes)
            number = self._as_packed(b.select(inside, number, ir.Constant(self.element, 0.0)))
            b.store(number, self.at(to, b.add(b.mul(k, width), lane)), align=self.bytes)

    def _transposed(self, at: Any, by_n: Any, to: Any, width: Any, depth: Any, valid: Any, block: Any) -> None:
        """Columns of the matrix are rows of the memory: squares of them are turned in registers."""
        b, lanes = self.b, self.const(self.lanes)
        with self.loop(self.const(0), depth, lanes) as k:
            left = b.sub(depth, k)
            inside = self.below(left)
            rows = []
            for i in range(self.lanes):
                there = b.icmp_signed("<", self.const(i), valid)
                address = self.at(at, b.add(b.mul(b.select(there, self.const(i), self.const(0)), by_n), k))
                nothing = ir.Constant(self.mask, [0] * self.lanes)
                rows.append(self._as_packed(self.load(address, b.select(there, inside, nothing))))
            turned = _transpose(b, rows)
            with b.if_else(b.icmp_signed(">=", left, lanes)) as (whole, part):
                with whole:
                    for i, row in enumerate(turned):
                        b.store(row, self.at(to, b.mul(b.add(k, self.const(i)), width)), align=self.bytes)
                with part:
                    for i, row in enumerate(turned):
                        b.store(row, self.at(block, self.const(i * self.lanes)), align=self.bytes)
                    with self.loop(self.const(0), left) as i:
                        row = b.load(self.at(block, b.mul(i, lanes)), typ=self.vector, align=self.bytes)
                        b.store(row, self.at(to, b.mul(b.add(k, i), width)), align=self.bytes)

    def _halve(self) -> None:
        """Rows of float32 as pairs of bfloat16: those of panels, or of one matrix whose rows are ``stride`` apart."""
        out, source, depth, width, stride, panels, first, stop = self._function("halve", 8)
        b, lanes = self.b, self.const(self.lanes)
        pairs = b.sdiv(b.add(depth, self.const(1)), self.const(2))
        with self.loop(self.const(0), panels) as panel, self.loop(first, stop) as i:
            even = b.mul(i, self.const(2))
            last = b.icmp_signed("<", b.add(even, self.const(1)), depth)
            with self.loop(self.const(0), width, lanes) as j:
                row = b.add(b.mul(b.add(b.mul(panel, depth), even), stride), j)
                inside = self.below(b.sub(width, j))
                lower = self._rounded(self.load(self.at(source, row), inside))
                there = b.select(last, b.add(row, stride), row)
                upper = self._rounded(self.load(self.at(source, there), inside))
                upper = b.select(last, upper, _bits(upper, 0))
                pair = b.or_(b.lshr(lower, _bits(lower, 16)), b.and_(upper, _bits(upper, 0xFFFF0000)))
                place = b.add(b.mul(b.add(b.mul(panel, pairs), i), width), j)
                kinds = [pair.type, POINTER, I32, self.mask]
                store = self.declared(f"llvm.masked.store.v{self.lanes}i32.p0", ir.VoidType(), kinds)
                b.call(store, [pair, self.at(out, place), ir.Constant(I32, 4), inside])
        b.ret_void()

    def _as_packed(self, x: Any) -> Any:
        """A number or a vector as it is to be packed."""
        if not self.rounded:
            return x
        bits = self._rounded(x)
        return self.b.bitcast(self.b.and_(bits, _bits(bits, 0xFFFF0000)), x.type)

    def _rounded(self, x: Any) -> Any:
        """The bits of floats, their upper half rounded to nearest, ties to even. Infinities stay, NaN too."""
        b = self.b
        bits = b.bitcast(x, ir.VectorType(I32, x.type.count) if isinstance(x.type, ir.VectorType) else I32)
        odd = b.and_(b.lshr(bits, _bits(bits, 16)), _bits(bits, 1))
        up = b.add(b.add(bits, _bits(bits, 0x7FFF)), odd)
        return b.select(b.fcmp_unordered("uno", x, x), _bits(bits, 0x7FC00000), up)

    # What the functions are made of.

    def const(self, number: int) -> ir.Constant:
        return ir.Constant(I64, number)

    def loop(self, start: ir.Value, stop: ir.Value, step: ir.Value | None = None) -> Any:
        return counted(self.b, start, stop, step or self.const(1))

    def at(self, base: Any, elements: ir.Value) -> ir.Value:
        """The address of a number, so many numbers further on."""
        pointer = self.b.inttoptr(base, POINTER) if base.type == I64 else base
        return self.b.gep(pointer, [elements], source_etype=self.element)

    def below(self, count: ir.Value) -> ir.Value:
        """A mask of the first ``count`` lanes."""
        lanes = ir.Constant(self.wide, list(range(self.lanes)))
        undefined = ir.Constant(self.wide, ir.Undefined)
        one = self.b.insert_element(undefined, count, ir.Constant(I32, 0))
        spread = self.b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))
        return self.b.icmp_signed("<", lanes, spread)

    def load(self, address: ir.Value, mask: ir.Value) -> ir.Value:
        """A vector; lanes that the mask leaves out are zero and not read."""
        kinds = [POINTER, I32, self.mask, self.vector]
        load = self.declared(f"llvm.masked.load.v{self.lanes}f{self.bytes * 8}.p0", self.vector, kinds)
        return self.b.call(load, [address, ir.Constant(I32, self.bytes), mask, self.zeros])

    def declared(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        """A function of LLVM's."""
        return self.module.globals.get(name) or ir.Function(self.module, ir.FunctionType(result, kinds), name)


def _bits(like: Any, word: int) -> ir.Constant:
    """A word of 32 bits, in every lane of what is like a vector."""
    kind = like.type
    return ir.Constant(kind, [word] * kind.count if isinstance(kind, ir.VectorType) else word)


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
