"""From loop nests to LLVM: vectors, masks and addresses are explicit, nothing is left to an optimiser's luck.

A kernel is one function, ``run(arguments, first, last, scratch)``: rows ``first`` to ``last`` of the batch through all
steps. Threads call it for rows of their own and never wait for each other. ``arguments`` is a table of addresses and
sizes, whose places `Places` gives; ``scratch`` is memory for one thread.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from llvmlite import ir

from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.engines.cpu.lower.precision import Operands
from treadle.engines.cpu.lower.schedule import (
    ROW,
    Affine,
    Index,
    Kernel,
    Nest,
    Schedule,
    flat,
    operands_at,
    root_index,
    schedule,
    variables,
)
from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write import vector_functions as vector_math
from treadle.engines.cpu.write.bfloat16 import BFloat, multiply_pairs
from treadle.engines.cpu.write.counted_loop import counted

__all__ = ["Code", "Emitter", "emit"]

I64, I32, I8, I1 = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.IntType(1)
POINTER = ir.PointerType()
BLOCK = 48
"""How many rows a kernel without steps takes through all its phases at a time: what stays in the caches."""
FLUSH_STEPS, FLUSH_ROWS = 256, 32 * BLOCK
"""How many steps (or rows, without steps) are added up before their sum is added to that of those before: each number
is then added to one not much larger than itself, and a long sequence costs no precision."""
TOGETHER = 4
"""How many rows go through one nest before the next one begins; also, how many sums a reduction keeps side by side."""

_COMPARE = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the matrix of a product lies in memory: panels of ``slots * vectors`` vectors, each contiguous over K."""

    product: Value
    slots: tuple[int, ...]
    units: int
    vectors: int
    """Vectors of one slot in a panel."""
    lanes: int

    @functools.cached_property
    def panels(self) -> int:
        """How many panels there are; the last one may have fewer vectors."""
        return -(-self.units // (self.vectors * self.lanes))

    @functools.cached_property
    def width(self) -> int:
        """Columns of a panel."""
        return len(self.slots) * self.vectors * self.lanes

    @functools.cached_property
    def last_vectors(self) -> int:
        """Vectors of one slot in the last panel."""
        return -(-(self.units - (self.panels - 1) * self.vectors * self.lanes) // self.lanes)

    @functools.cached_property
    def padded_units(self) -> int:
        """Columns of one slot, with what is there to fill up vectors."""
        return -(-self.units // self.lanes) * self.lanes

    @functools.cached_property
    def depth(self) -> int:
        """K, rows of the matrix."""
        return self.product.inputs[1].shape[0]

    @functools.cached_property
    def size(self) -> int:
        """How many numbers the packed matrix has."""
        return self.depth * len(self.slots) * self.padded_units


@dataclasses.dataclass(frozen=True)
class Code:
    """A kernel as LLVM IR, and what a caller has to know to run it."""

    kernel: Kernel
    write: Callable[[], str]
    """Writes the IR, which takes a while: where the machine code is known already, nobody needs it."""
    places: dict[Any, int]
    packings: tuple[Packing, ...]
    sums: tuple[int, ...]
    """Where in the scratch each of the kernel's sums begins."""
    fixed: int
    """Numbers of scratch that do not depend on the rows."""
    per_row: int
    """Numbers of scratch for each row."""
    schedule: Schedule

    @functools.cached_property
    def text(self) -> str:
        """The IR."""
        return self.write()

    @functools.cached_property
    def description(self) -> str:
        """What the text follows from, beside this file and those that it uses: the kernel, value by value."""
        kernel = self.kernel
        groups = (kernel.streams, kernel.invariants, sum(kernel.carries, ()), kernel.outputs, kernel.sums)
        values = p.ordered(value for group in groups for value in group)
        number = {value: i for i, value in enumerate(values)}
        lines = [
            f"{v.op} {v.attributes!r} {p.show_shape(v.shape)} {v.dtype} {[number[operand] for operand in v.inputs]}"
            for v in values
        ]
        lines += [str([number[value] for value in group]) for group in groups]
        # Weights that are rounded are float32 like others: the text is the same.
        pairs = [operands is Operands.PAIRS for operands in (kernel.precision.right, kernel.precision.left)]
        return "\n".join([*lines, f"{kernel.precision.dtype} {kernel.reverse} {pairs}"])


def emit(kernel: Kernel, target: Target) -> Code:
    """The code of a kernel for a CPU."""
    return Emitter(kernel, target).code()


def phases_of(plan: Schedule) -> list[Any]:
    """The phases of a step: products (`Value`), nests with products in them, and lists of those without."""
    phases: list[Any] = []
    for phase in plan.phases:
        if isinstance(phase, Value) or phase.fused:
            phases.append(phase)
        elif phases and isinstance(phases[-1], list):
            phases[-1].append(phase)
        else:
            phases.append([phase])
    return phases


class Emitter:
    """Writes a kernel.

    Args:
        kernel: what it computes.
        target: for which CPU.
    """

    # llvmlite's methods have no types, and pyright infers wrong ones: hence Any.
    entry: Any
    b: Any
    tile_row: Any
    tile_vector: Any
    tile_vectors: int

    def __init__(self, kernel: Kernel, target: Target):
        self.kernel, self.target = kernel, target
        self.plan = schedule(kernel)
        self.readable = kernel.memory | self.plan.stored
        self.held = kernel.memory | set(self.plan.buffers)
        self.bytes = kernel.precision.dtype.itemsize
        self.element = ir.DoubleType() if self.bytes == 8 else ir.FloatType()
        self.lanes = target.lanes(self.bytes)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.mask_type = ir.VectorType(I1, self.lanes)
        self.module = ir.Module()
        self.module.triple = target.triple
        self.steps = bool(kernel.carries)
        self.right_pairs = kernel.precision.right is Operands.PAIRS
        self.left_pairs = kernel.precision.left is Operands.PAIRS
        self.packings = self._packings()
        self.places = self._places()
        self._lay_out_scratch()

    # What goes where.

    def _packings(self) -> dict[Value, Packing]:
        groups: dict[Value, int] = {}
        for phase in self.plan.phases:
            if isinstance(phase, Nest) and phase.fused:
                most = max(len(f.slots) for f in phase.fused)
                vectors = {1: 4, 2: 2}.get(most, 1) if self.target.registers == 32 else {1: 2}.get(most, 1)
                groups |= {f.product: min(vectors, -(-phase.domain[0] // self.lanes)) for f in phase.fused}
        result = {}
        for product, fused in self.plan.products.items():
            units = product.row_numel
            if product in groups:
                nest = next(n for n in self.plan.phases if isinstance(n, Nest) and fused in n.fused)
                units, vectors = nest.domain[0], groups[product]
            else:
                vectors = min(4 if self.target.registers == 32 else 2, -(-units // self.lanes))
            result[product] = Packing(product, fused.slots, units, vectors, self.lanes)
        return result

    def _places(self) -> dict[Any, int]:
        names: list[Any] = ["steps", "capacity", "counts", "offsets", "resets"]
        for i in range(len(self.kernel.streams)):
            names += [("stream", i), ("stream stride", i)]
        for i in range(len(self.kernel.outputs)):
            names += [("output", i), ("output stride", i)]
        names += [("invariant", i) for i in range(len(self.kernel.invariants))]
        names += [("matrix", i) for i in range(len(self.packings))]
        for i in range(len(self.kernel.carries)):
            names += [("start", i), ("finish", i), ("fresh", i)]
        return {name: i for i, name in enumerate(names)}

    def _padded(self, count: int, multiple: int = 1) -> int:
        multiple = max(multiple, self.lanes)
        return -(-max(count, 1) // multiple) * multiple + self.lanes

    def _lay_out_scratch(self) -> None:
        self.sums, end = [], 0
        for value in self.kernel.sums:
            self.sums.append(end)
            end += self._padded(value.row_numel)
        self.sums_size = end
        end *= 2  # of late, and of all before
        self.tiles: dict[Value, int] = {}
        for product, packing in self.packings.items():
            if product not in self.plan.buffers:
                self.tiles[product] = end
                width = len(packing.slots) * self.lanes
                end += max(self._tile_rows(width * v // self.lanes) * width * v for v in range(1, packing.vectors + 1))
        self.fixed = end
        self.row_start: dict[Any, int] = {}
        self.row_size: dict[Any, int] = {}
        start = 0
        places: list[tuple[Any, int]] = []
        for value, count in self.plan.buffers.items():
            packing = self.packings.get(value)
            places.append((value, self._padded(count, packing.width if packing else 1)))
        if self.left_pairs:
            operands = dict.fromkeys(product.inputs[0] for product in self.packings)
            places += [(("half", operand), self._padded((operand.row_numel + 1) // 2)) for operand in operands]
        for i, (old, _) in enumerate(self.kernel.carries):
            size = self._padded(old.row_numel)
            places += [(("carry", i, 0), size), (("carry", i, 1), size)]
        for key, size in places:
            self.row_start[key], self.row_size[key] = start, size
            start += size
        self.per_row = start

    def _tile_rows(self, vectors: int) -> int:
        """How many rows of accumulators the registers hold beside a row of the panel and a broadcast."""
        return max(1, min((self.target.registers - 1 - vectors) // vectors, 8))

    # The function.

    def code(self) -> Code:
        """What a caller has to know, which is known before anything is written."""
        return Code(
            self.kernel,
            self.text,
            self.places,
            tuple(self.packings.values()),
            tuple(self.sums_size + begin for begin in self.sums),
            self.fixed,
            self.per_row,
            self.plan,
        )

    def text(self) -> str:
        """The module."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64, POINTER])
        function = ir.Function(self.module, kind, "run")
        self.arguments, self.first, self.last, self.scratch = function.args
        start = self._begin(function)
        nothing = ir.Constant(self.vector, [0.0] * self.lanes)
        self._over(2 * self.sums_size, lambda j, valid: self._store(nothing, self._at(self._own(), j), valid))
        if self.steps:
            self._all_steps()
        else:
            with self.loop(self.first, self.last, self.const(BLOCK)) as row0:
                left = self.b.sub(self.last, row0)
                self._phases(row0, self._minimum(left, self.const(BLOCK)))
                self._flush_after(self.b.sub(row0, self.first), FLUSH_ROWS)
        self._flush()
        self.b.ret_void()
        self.entry.branch(start)
        return str(self.module)

    def _begin(self, function: ir.Function) -> ir.Block:
        """Read the table; what follows goes into the block that this gives."""
        entry = function.append_basic_block("entry")
        start = function.append_basic_block("start")
        self.entry = ir.IRBuilder(entry)
        self.b = ir.IRBuilder(start)
        self.table: dict[Any, ir.Value] = {}
        for name, place in self.places.items():
            address = self.entry.gep(self.arguments, [self.const(place)], source_etype=I64)
            self.table[name] = self.entry.load(address, typ=I64)
        return start

    def _all_steps(self) -> None:
        """Time, and which rows take part in it: a row joins at its first step and leaves after its last."""
        b, carries = self.b, range(len(self.kernel.carries))
        zero = self.const(0)
        swap = [[self._slot(POINTER) for _ in range(2)] for _ in carries]
        for i in carries:
            for side in range(2):
                b.store(self._row_address(("carry", i, side), zero), swap[i][side])
        before = self._slot(I64)
        b.store(zero, before)
        steps = self.table["steps"]
        with self.loop(zero, steps, self.const(1)) as s:
            t = b.sub(b.sub(steps, self.const(1)), s) if self.kernel.reverse else s
            rows = self._rows_at(t)
            with b.if_then(b.icmp_signed(">", rows, zero)):
                self.current = [b.load(swap[i][0], typ=POINTER) for i in carries]
                self.next = [b.load(swap[i][1], typ=POINTER) for i in carries]
                offset = self._load_i64("offsets", t)
                row0 = b.add(offset, self.first)
                joined = b.load(before, typ=I64)
                with self._by_one(b.icmp_signed("<", joined, rows)):
                    for i in carries:
                        self._copy_rows(("start", i), self.current[i], i, joined, rows, into_scratch=True)
                b.store(rows, before)
                has_resets = b.icmp_signed("!=", self.table["resets"], zero)
                if not self.kernel.reverse:
                    with self._by_one(has_resets):
                        self._start_anew(row0, rows, self.current)
                self._phases(row0, rows)
                if self.kernel.reverse:
                    with self._by_one(has_resets):
                        self._start_anew(row0, rows, self.next)
                is_last = b.icmp_signed("==", b.add(s, self.const(1)), steps)
                with self._by_one(), b.if_else(is_last) as (then, otherwise):
                    with then:
                        for i in carries:
                            self._copy_rows(("finish", i), self.next[i], i, zero, rows, into_scratch=False)
                    with otherwise:
                        if not self.kernel.reverse:
                            after = self._rows_at(b.add(t, self.const(1)))
                            after = b.select(b.icmp_signed("<", after, zero), zero, after)
                            for i in carries:
                                self._copy_rows(("finish", i), self.next[i], i, after, rows, into_scratch=False)
                for i in carries:
                    b.store(self.next[i], swap[i][0])
                    b.store(self.current[i], swap[i][1])
            self._flush_after(s, FLUSH_STEPS)

    def _own(self) -> Any:
        """Where sums and tiles are, which are each thread's own."""
        return self.scratch

    @contextlib.contextmanager
    def _by_one(self, changes: Any = None) -> Iterator[None]:
        """What is done once for all rows of the kernel; the others wait where it ``changes`` what they read."""
        yield

    def _meet(self) -> None:
        """All rows have come so far."""

    def _own_rows(self) -> tuple[Any, Any]:
        """From which row to which one nests without products go."""
        return self.const(0), self.rows

    def _flush_after(self, done: Any, every: int) -> None:
        """Flush where what is done is a multiple of that."""
        if self.sums_size:
            rest = self.b.srem(done, self.const(every))
            with self.b.if_then(self.b.icmp_signed("==", rest, self.const(0)), likely=False):
                self._flush()

    def _flush(self) -> None:
        """Add the sums of late to those of all before, and begin new ones."""

        def move(j: Any, valid: int) -> None:
            recent, total = self._at(self._own(), j), self._at(self._own(), self.b.add(j, self.const(self.sums_size)))
            self._store(self.b.fadd(self._load(total, valid), self._load(recent, valid)), total, valid)
            self._store(ir.Constant(self.vector, [0.0] * self.lanes), recent, valid)

        self._over(self.sums_size, move)

    def _rows_at(self, t: ir.Value) -> ir.Value:
        """How many of the thread's rows take step t; rows are sorted, the longest first."""
        return self.b.sub(self._minimum(self._load_i64("counts", t), self.last), self.first)

    def _load_i64(self, name: str, index: ir.Value) -> ir.Value:
        table = self.b.inttoptr(self.table[name], POINTER)
        return self.b.load(self.b.gep(table, [index], source_etype=I64), typ=I64)

    def _copy_rows(self, name: Any, local: ir.Value, carry: int, start: Any, stop: Any, into_scratch: bool) -> None:
        """Rows of a carried value between its tensor [B, n] and the scratch."""
        count, size = self.kernel.carries[carry][0].row_numel, self.row_size["carry", carry, 0]
        with self.loop(start, stop, self.const(1)) as r:
            outside = self._at(self._pointer(name), self.b.mul(self.b.add(self.first, r), self.const(count)))
            inside = self._at(local, self.b.mul(r, self.const(size)))
            source, to = (outside, inside) if into_scratch else (inside, outside)
            self._copy_row(source, to, count)

    def _copy_row(self, source: ir.Value, to: ir.Value, count: int) -> None:
        def copy(j: ir.Value, valid: int) -> None:
            self._store(self._load(self._at(source, j), valid), self._at(to, j), valid)

        self._over(count, copy)

    def _start_anew(self, row0: ir.Value, rows: ir.Value, local: list[ir.Value]) -> None:
        """Resets. Forwards, a row takes the initial state before its step; backwards, what reached it ends there."""
        b = self.b
        some = b.icmp_signed("!=", self.table["resets"], self.const(0))
        with b.if_then(some):
            flags = b.inttoptr(self.table["resets"], POINTER)
            with self.loop(self.const(0), rows, self.const(1)) as r:
                flag = b.load(b.gep(flags, [b.add(row0, r)], source_etype=I8), typ=I8)
                with b.if_then(b.icmp_signed("!=", flag, ir.Constant(I8, 0))):
                    for i, (old, _) in enumerate(self.kernel.carries):
                        count, size = old.row_numel, self.row_size["carry", i, 0]
                        fresh = self._at(self._pointer(("fresh", i)), b.mul(b.add(self.first, r), self.const(count)))
                        inside = self._at(local[i], b.mul(r, self.const(size)))
                        if not self.kernel.reverse:
                            self._copy_row(fresh, inside, count)
                        else:
                            self._over(count, lambda j, valid, f=fresh, s=inside: self._end_here(f, s, j, valid))

    def _end_here(self, fresh: ir.Value, inside: ir.Value, j: ir.Value, valid: int) -> None:
        to, source = self._at(fresh, j), self._at(inside, j)
        total = self.b.fadd(self._load(to, valid), self._load(source, valid))
        self._store(total, to, valid)
        self._store(ir.Constant(self.vector, [0.0] * self.lanes), source, valid)

    # Phases of one step.

    def _phases(self, row0: ir.Value, rows: ir.Value) -> None:
        self.row0, self.rows = row0, rows
        for phase in phases_of(self.plan):
            self._phase(phase)
            self._meet()

    def _phase(self, phase: Any) -> None:
        if isinstance(phase, list):
            self._plain(phase)
        elif isinstance(phase, Value):
            self._product(phase)
        else:
            self._fused(phase)

    def _plain(self, nests: Sequence[Nest]) -> None:
        """Nests without products, one after the other."""
        # A nest waits for the one before it, but rows do not wait for each other: a few rows at a time.
        begin, stop = self._own_rows()
        with self.loop(begin, stop, self.const(TOGETHER)) as first:
            end = self._minimum(stop, self.b.add(first, self.const(TOGETHER)))
            for nest in nests:
                with self.loop(first, end, self.const(1)) as r:
                    self.enter_row(r)
                    self._nest(nest)

    def _all_panels(self, whole: int, rest: bool, panel_of: Callable[[ir.Value, bool], None]) -> None:
        """``panel_of(panel, whether it is a whole one)`` for each panel; a last one may have fewer vectors."""
        if whole:
            with self.loop(self.const(0), self.const(whole), self.const(1)) as panel:
                panel_of(panel, True)
        if rest:
            panel_of(self.const(whole), False)

    def enter_row(self, r: ir.Value) -> None:
        """What follows is about row ``r`` of the thread's rows."""
        self.r = r

    def _halve_left(self, product: Value) -> None:
        """The left operand of a product in bfloat16, all rows: it is read by every panel."""
        operand = product.inputs[0]
        count = operand.row_numel
        half = ir.VectorType(BFloat(), self.lanes)
        kind = ir.FunctionType(half, [self.vector])
        name = f"llvm.x86.avx512bf16.cvtneps2bf16.{self.lanes * 32}"
        with self.loop(self.const(0), self.rows, self.const(1)) as r:
            source, _ = self._left(operand, r)
            to = self._row_address(("half", operand), r)

            def convert(j: ir.Value, valid: int) -> None:
                rounded = self.b.call(self._declared(name, kind), [self._load(self._at(source, j), valid)])
                self.b.store(rounded, self.b.gep(to, [j], source_etype=ir.IntType(16)), align=2)

            self._over(count, convert)

    def _product(self, product: Value) -> None:
        """A product whose result goes into a buffer."""
        packing = self.packings[product]
        if self.left_pairs:
            self._halve_left(product)

        def panel_of(panel: ir.Value, is_whole: bool) -> None:
            def out(r: ir.Value) -> ir.Value:
                return self._at(self._row_address(product, r), self.b.mul(panel, self.const(packing.width)))

            vectors = packing.vectors if is_whole else packing.last_vectors
            self._all_tiles([product], panel, vectors, [out], [self.row_size[product]], None)

        whole = packing.panels - (packing.last_vectors < packing.vectors)
        self._all_panels(whole, whole < packing.panels, panel_of)

    def _all_tiles(
        self, products: Sequence[Value], panel: Any, vectors: int, outs: Any, strides: Sequence[int], then: Any
    ) -> None:
        """The tiles of one panel with so many vectors a slot, all rows: ``then(first row, count)`` after each."""
        b = self.b
        widths = [len(self.packings[product].slots) * vectors for product in products]
        most = min(map(self._tile_rows, widths))
        # Of ten rows twice five, not six and four: the fewer rows, the longer each waits for the weights.
        tiles = b.sdiv(b.add(self.rows, self.const(most - 1)), self.const(most))
        with self.loop(self.const(0), tiles, self.const(1)) as n:
            first = b.sdiv(b.mul(n, self.rows), tiles)
            count = b.sub(b.sdiv(b.mul(b.add(n, self.const(1)), self.rows), tiles), first)
            for product, width, out, stride in zip(products, widths, outs, strides, strict=True):
                packing = self.packings[product]
                if self.left_pairs:
                    half = ("half", product.inputs[0])
                    a, a_stride = self._row_address(half, first), self.const(self.row_size[half])
                else:
                    a, a_stride = self._left(product.inputs[0], first)
                rows_of_panel = (packing.depth + 1) // 2 if self.right_pairs else packing.depth
                size = self.const(rows_of_panel * packing.width)
                weights = self._at(self._pointer(("matrix", list(self.packings).index(product))), b.mul(panel, size))
                to = out(first)
                given = [a, a_stride, weights, self.const(packing.depth), to, self.const(stride)]
                end = b.append_basic_block("tiled")
                switch = b.switch(count, end)
                for n in range(1, most + 1):
                    with self._block(f"rows{n}") as block:
                        switch.add_case(self.const(n), block)
                        b.call(self._tile(n, width), given)
                        b.branch(end)
                b.position_at_end(end)
            if then is not None:
                then(first, count)

    @contextlib.contextmanager
    def _block(self, name: str) -> Iterator[ir.Block]:
        block = self.b.append_basic_block(name)
        self.b.position_at_end(block)
        yield block

    def _left(self, operand: Value, r: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The address of row ``r`` of a product's left operand, and the distance between its rows."""
        offset = 0
        while operand not in self.held:
            if operand.op == "slice":
                offset += operand.slice.start * (operand.slice.axis == 1)
            operand = operand.inputs[0]
        address, stride = self._row_and_stride(operand, r)
        return self._at(address, self.const(offset)), stride

    def _row_and_stride(self, value: Value, r: ir.Value) -> tuple[ir.Value, ir.Value]:
        b = self.b
        if value in self.kernel.streams:
            i = self.kernel.streams.index(value)
            stride = self.table["stream stride", i]
            return self._at(self._pointer(("stream", i)), b.mul(b.add(self.row0, r), stride)), stride
        for i, (old, _) in enumerate(self.kernel.carries):
            if old is value:
                size = self.const(self.row_size["carry", i, 0])
                return self._at(self.current[i], b.mul(r, size)), size
        return self._row_address(value, r), self.const(self.row_size[value])

    def _fused(self, nest: Nest) -> None:
        """Products and the nest that reads them: panel by panel, tile by tile, the nest on the accumulators."""
        (units,) = nest.domain
        products = [fused.product for fused in nest.fused]
        vectors = self.packings[products[0]].vectors
        step = vectors * self.lanes
        if self.left_pairs:
            for product in products:
                self._halve_left(product)
        whole, rest = divmod(units, step)

        def run(panel: ir.Value, counts: list[int]) -> None:
            """One panel whose vectors have so many valid lanes each."""

            def body(first: ir.Value, count: ir.Value) -> None:
                with self.loop(self.const(0), count, self.const(1)) as n:
                    start = self.b.mul(panel, self.const(step))
                    self.enter_row(self.b.add(first, n))

                    def at(q: ir.Value, valid: int) -> None:
                        self.tile_row, self.tile_vector = n, q
                        j = self.b.add(start, self.b.mul(q, self.const(self.lanes)))
                        self._body(nest, [j], valid)

                    full = sum(1 for c in counts if c == self.lanes)
                    if full:
                        with self.loop(self.const(0), self.const(full), self.const(1)) as q:
                            at(q, self.lanes)
                    for q, c in enumerate(counts):
                        if c < self.lanes:
                            at(self.const(q), c)

            outs = [lambda first, product=product: self._tile_address(product) for product in products]
            self.tile_vectors = len(counts)
            strides = [len(self.packings[x].slots) * len(counts) * self.lanes for x in products]
            self._all_tiles(products, panel, len(counts), outs, strides, body)

        fewer = [min(self.lanes, rest - start) for start in range(0, rest, self.lanes)]
        self._all_panels(
            whole, bool(rest), lambda panel, is_whole: run(panel, [self.lanes] * vectors if is_whole else fewer)
        )

    def _tile_address(self, product: Value) -> ir.Value:
        return self._at(self._own(), self.const(self.tiles[product]))

    def _nest(self, nest: Nest) -> None:
        if nest.reduced:
            self._reduction(nest)
            return
        outer, count = nest.domain[:-1], nest.domain[-1] if nest.domain else 1

        def nested(at: int, variables: list[ir.Value]) -> None:
            if at < len(outer):
                with self.loop(self.const(0), self.const(outer[at]), self.const(1)) as i:
                    nested(at + 1, [*variables, i])
            else:
                self._over_features(
                    count, lambda j, valid: self._body(nest, [*variables, j][: len(nest.domain)], valid)
                )

        nested(0, [])

    def _body(self, nest: Nest, variables: list[ir.Value], valid: int) -> None:
        """One vector of features of every root."""
        self.enter_vector(nest, variables, valid)
        for root in nest.roots:
            value, index = root_index(root, nest)
            result = self.value_at(value, index)
            for sink in root.sinks:
                affine = list(flat(index, value.shape, len(nest.domain), sink.strides))
                affine[0] += sink.offset
                self._sink(self._as_number(result), sink, tuple(affine))

    def enter_vector(self, nest: Nest, variables: list[ir.Value], valid: int) -> None:
        """What follows is about these features."""
        self.nest, self.variables, self.valid, self.memo = nest, variables, valid, {}

    def _sink(self, result: ir.Value, sink: Any, affine: Affine) -> None:
        b = self.b
        if sink.kind == "output":
            base = self._cached(("output", sink.key), lambda: self._output_row(sink.key))
        elif sink.kind == "carry":
            size = self.row_size["carry", sink.key, 1]
            base = self._cached(
                ("next", sink.key), lambda: self._at(self.next[sink.key], b.mul(self.r, self.const(size)))
            )
        elif sink.kind == "sum":
            base = self._at(self._own(), self.const(self.sums[sink.key]))
        else:
            base = self._cached(("buffer", sink.key), lambda: self._row_address(sink.key, self.r))
        address = self._address(base, affine)
        coefficient = affine[-1] if self.variables else 1
        summed = sink.kind == "sum"
        if coefficient == 1:
            result = b.fadd(self._load(address, self.valid), result) if summed else result
            self._store(result, address, self.valid)
        else:
            for lane in range(self.valid):
                one = b.extract_element(result, ir.Constant(I32, lane))
                place = self._at(address, self.const(coefficient * lane))
                one = b.fadd(b.load(place, typ=self.element, align=self.bytes), one) if summed else one
                b.store(one, place, align=self.bytes)

    def _output_row(self, i: int) -> ir.Value:
        row = self.b.mul(self.b.add(self.row0, self.r), self.table["output stride", i])
        return self._at(self._pointer(("output", i)), row)

    def _reduction(self, nest: Nest) -> None:
        last = len(nest.domain) - 1
        kept = [n for n in range(len(nest.domain)) if n not in nest.reduced]
        across = last in nest.reduced  # whether lanes are summed too
        variables: dict[int, ir.Value] = {}

        def over_kept(at: int) -> None:
            if at == len(kept):
                one(self.lanes)
            elif kept[at] == last:
                self._over(nest.domain[last], lambda j, valid: (variables.__setitem__(last, j), one(valid)))
            else:
                with self.loop(self.const(0), self.const(nest.domain[kept[at]]), self.const(1)) as i:
                    variables[kept[at]] = i
                    over_kept(at + 1)

        side_by_side = across and len(nest.reduced) == 1 and nest.domain[last] >= TOGETHER * self.lanes

        def one(valid: int) -> None:
            sums = [self._slot(self.vector) for _ in nest.roots]
            for root, total in zip(nest.roots, sums, strict=True):
                self.b.store(self._neutral(root.value.op), total)
            if side_by_side:
                in_several(sums)
            else:
                over_reduced(0, sums, valid)
            self.enter_vector(nest, [variables.get(n, self.const(0)) for n in range(len(nest.domain))], valid)
            for root, total in zip(nest.roots, sums, strict=True):
                self._store_total(root, nest, self.b.load(total, typ=self.vector), across, valid)

        def in_several(sums: list[Any]) -> None:
            """Several sums at once, because one addition after another waits for the one before it."""
            count = nest.domain[last]
            whole = count - count % (TOGETHER * self.lanes)
            others = [[self._slot(self.vector) for _ in nest.roots] for _ in range(TOGETHER - 1)]
            for root, *totals in zip(nest.roots, *others, strict=True):
                for total in totals:
                    self.b.store(self._neutral(root.value.op), total)
            with self.loop(self.const(0), self.const(whole), self.const(TOGETHER * self.lanes)) as j:
                for n, totals in enumerate([sums, *others]):
                    variables[last] = self.b.add(j, self.const(n * self.lanes))
                    add(totals, self.lanes)
            for start in range(whole, count, self.lanes):
                variables[last] = self.const(start)
                add(sums, min(self.lanes, count - start))
            for i, root in enumerate(nest.roots):
                for totals in others:
                    parts = [self.b.load(total, typ=self.vector) for total in (sums[i], totals[i])]
                    self.b.store(self._combined(root.value.op, *parts), sums[i])

        def over_reduced(at: int, sums: list[Any], valid: int) -> None:
            if at == len(nest.reduced):
                add(sums, valid)
            elif nest.reduced[at] == last:

                def body(j: ir.Value, v: int) -> None:
                    variables[last] = j
                    add(sums, v)

                self._over(nest.domain[last], body)
            else:
                with self.loop(self.const(0), self.const(nest.domain[nest.reduced[at]]), self.const(1)) as i:
                    variables[nest.reduced[at]] = i
                    over_reduced(at + 1, sums, valid)

        def add(sums: list[Any], valid: int) -> None:
            self.enter_vector(nest, [variables[n] for n in range(len(nest.domain))], valid)
            for root, total in zip(nest.roots, sums, strict=True):
                value, index = root_index(root, nest)
                new = self._as_number(self.value_at(value, index))
                if across and valid < self.lanes:
                    new = self.b.select(self._mask(valid), new, self._neutral(root.value.op))
                old = self.b.load(total, typ=self.vector)
                self.b.store(self._combined(root.value.op, old, new), total)

        over_kept(0)

    def _neutral(self, op: str) -> ir.Constant:
        return ir.Constant(self.vector, [0.0 if op == "sum" else float("-inf")] * self.lanes)

    def _combined(self, op: str, old: ir.Value, new: ir.Value) -> ir.Value:
        return self.b.fadd(old, new) if op == "sum" else vector_math.emit(self.b, "maximum", old, new)

    def _store_total(self, root: Any, nest: Nest, total: Any, across: bool, valid: int) -> None:
        value = root.value
        inside, _ = root_index(root, nest)
        index = variables(inside.shape)
        zero = (0,) * (len(nest.domain) + 1)
        gone = {n + 1 for n in nest.reduced}
        index = tuple(axis if axis is ROW else zero if any(axis[n] for n in gone) else axis for axis in index)
        for sink in root.sinks:
            affine = list(flat(index, inside.shape, len(nest.domain), sink.strides))
            affine[0] += sink.offset
            address = self._address(self._row_address(sink.key, self.r), tuple(affine))
            if across:
                name = (
                    f"llvm.vector.reduce.{'fadd' if value.op == 'sum' else 'fmaximum'}.v{self.lanes}f{self.bytes * 8}"
                )
                given = [ir.Constant(self.element, -0.0), total] if value.op == "sum" else [total]
                kind = ir.FunctionType(self.element, [g.type for g in given])
                flags = ("reassoc",) if value.op == "sum" else ()
                one = self.b.call(self._declared(name, kind), given, fastmath=flags)
                self.b.store(one, address, align=self.bytes)
            else:
                self._store(total, address, valid)

    # Values.

    def value_at(self, value: Value, index: Index) -> ir.Value:
        """The vector of a value at an index."""
        key = (value, index)
        if key not in self.memo:
            self.memo[key] = self._computed(value, index)
        return self.memo[key]

    def _computed(self, value: Value, index: Index) -> ir.Value:
        if self.plan.is_loaded(value, self.nest):
            result = self._loaded_at(value, index)
            if value.dtype == torch.bool:
                return self.b.fcmp_unordered("!=", result, ir.Constant(self.vector, [0.0] * self.lanes))
            return result
        if value.op == "full":
            number = value.number
            if value.dtype == torch.bool:
                return ir.Constant(self.mask_type, [int(number)] * self.lanes)
            return ir.Constant(self.vector, [float(number)] * self.lanes)
        if value.op == "embedding":
            return self._embedded(value, index)
        operands = [self.value_at(v, i) for v, i in operands_at(value, index, self.nest.domain, self.readable)]
        return self._operation(value, operands) if value.op in p.ELEMENTWISE else operands[0]

    def _operation(self, value: Value, operands: list[ir.Value]) -> ir.Value:
        b, op = self.b, value.op
        fast = ("contract",)
        match op:
            case "add":
                return b.fadd(*operands, flags=fast)
            case "sub":
                return b.fsub(*operands, flags=fast)
            case "mul":
                return b.fmul(*operands, flags=fast)
            case "div":
                return b.fdiv(*operands)
            case "ne":
                return b.fcmp_unordered("!=", *operands)
            case "not":
                return b.not_(operands[0])
            case "and":
                return b.and_(*operands)
            case "or":
                return b.or_(*operands)
            case "where":
                return b.select(*operands)
            case "cast":
                if value.dtype == torch.bool:
                    return b.fcmp_unordered("!=", operands[0], ir.Constant(self.vector, [0.0] * self.lanes))
                return self._as_number(operands[0])
        if op in _COMPARE:
            return b.fcmp_ordered(_COMPARE[op], *operands)
        return vector_math.emit(b, op, *operands)

    def _as_number(self, value: Any) -> ir.Value:
        if value.type != self.mask_type:
            return value
        one, zero = (ir.Constant(self.vector, [x] * self.lanes) for x in (1.0, 0.0))
        return self.b.select(value, one, zero)

    def _loaded_at(self, value: Value, index: Index) -> ir.Value:
        place = index[1] if index[:1] == ("flat",) else flat(index, value.shape, len(self.nest.domain))
        if value in self.plan.products and value not in self.plan.buffers:
            return self._from_tile(value, place)
        if value in self.kernel.invariants:
            base, vector = self._pointer(("invariant", self.kernel.invariants.index(value))), True
        else:
            base = self._cached(value, lambda: self._row_and_stride(value, self.r)[0])
            vector = self._is_outside(value)
        address = self._address(base, place)
        coefficient = place[-1] if self.variables else 0
        if coefficient == 1:
            # What is outside of the scratch may end right behind its last feature.
            return self._load(address, self.valid if vector else self.lanes)
        if coefficient == 0:
            return self._splat(self.b.load(address, typ=self.element, align=self.bytes))
        result: ir.Value = ir.Constant(self.vector, [0.0] * self.lanes)
        for lane in range(self.valid):
            one = self.b.load(self._at(address, self.const(coefficient * lane)), typ=self.element, align=self.bytes)
            result = self.b.insert_element(result, one, ir.Constant(I32, lane))
        return result

    def _is_outside(self, value: Value) -> bool:
        """Whether rows of a value are read from elsewhere than the scratch."""
        return value in self.kernel.streams

    def _from_tile(self, product: Value, place: Affine) -> ir.Value:
        packing = self.packings[product]
        slot = packing.slots.index(place[0])
        row = self.b.mul(self.tile_row, self.const(len(packing.slots) * self.tile_vectors * self.lanes))
        column = self.b.mul(self.b.add(self.const(slot * self.tile_vectors), self.tile_vector), self.const(self.lanes))
        return self._load(self._at(self._tile_address(product), self.b.add(row, column)), self.lanes)

    def _embedded(self, value: Value, index: Index) -> Any:
        """Features of the row of a table that a whole number names; numbers outside read its first or last row."""
        b = self.b
        table, which = value.inputs
        i = self.kernel.streams.index(which)
        row = b.mul(b.add(self.row0, self.r), self.table["stream stride", i])
        number = b.load(b.gep(self._pointer(("stream", i)), [row], source_etype=I64), typ=I64)
        zero, last = self.const(0), self.const(table.shape[0] - 1)
        number = b.select(b.icmp_signed("<", number, zero), zero, self._minimum(number, last))
        base = self._pointer(("invariant", self.kernel.invariants.index(table)))
        place = flat(index, value.shape, len(self.nest.domain))
        address = self._address(self._at(base, b.mul(number, self.const(table.shape[1]))), place)
        if self.variables and place[-1] == 1:
            return self._load(address, self.valid)
        return self._splat(b.load(address, typ=self.element, align=self.bytes))

    # The product of a tile.

    def _tile(self, rows: int, vectors: int) -> ir.Function:
        """A function for ``rows`` rows of the left operand against one packed panel: sums stay in registers."""
        name = f"tile{rows}x{vectors}"
        found = self.module.globals.get(name)
        if found is not None:
            return found
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, POINTER, I64, POINTER, I64])
        function = ir.Function(self.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        a, a_stride, weights, depth, out, out_stride = function.args
        outer, self_entry = self.b, self.entry
        self.entry = ir.IRBuilder(function.append_basic_block("entry"))
        start = function.append_basic_block("start")
        self.b = ir.IRBuilder(start)
        b = self.b
        sums = [[self._slot(self.vector) for _ in range(vectors)] for _ in range(rows)]
        for row in sums:
            for total in row:
                b.store(ir.Constant(self.vector, [0.0] * self.lanes), total)
        unroll = 4 if rows * vectors <= 8 else 1
        # Two of K at a time where the weights come in pairs; of an odd K, the last pair has one half.
        count = b.sdiv(depth, self.const(2)) if self.right_pairs and not self.left_pairs else depth
        if self.left_pairs:
            count = b.sdiv(b.add(depth, self.const(1)), self.const(2))
        whole = b.sub(count, b.srem(count, self.const(unroll))) if unroll > 1 else count

        def step(k: ir.Value, half: bool = False) -> None:
            base = self._at(weights, b.mul(k, self.const(vectors * self.lanes)))
            columns = [self._load(self._at(base, self.const(v * self.lanes)), self.lanes) for v in range(vectors)]
            for i in range(rows):
                row = b.mul(a_stride, self.const(i))
                if not self.right_pairs or self.left_pairs:
                    address = self._at(a, b.add(row, k))
                    spread = self._splat(b.load(address, typ=self.element, align=self.bytes))

                    def multiply(x: Any, w: Any, c: Any) -> Any:
                        return multiply_pairs(b, x, w, c) if self.left_pairs else self._multiply_add(x, w, c)

                    for v in range(vectors):
                        b.store(multiply(spread, columns[v], b.load(sums[i][v], typ=self.vector)), sums[i][v])
                    continue
                for upper in (False, True)[: 1 if half else 2]:
                    place = b.add(b.add(row, b.mul(k, self.const(2))), self.const(int(upper)))
                    spread = self._splat(b.load(self._at(a, place), typ=self.element, align=self.bytes))
                    for v in range(vectors):
                        old = b.load(sums[i][v], typ=self.vector)
                        b.store(self._multiply_add(spread, self._widened(columns[v], upper), old), sums[i][v])

        with self.loop(self.const(0), whole, self.const(unroll)) as k:
            for u in range(unroll):
                step(b.add(k, self.const(u)))
        if unroll > 1:
            with self.loop(whole, count, self.const(1)) as k:
                step(k)
        if self.right_pairs and not self.left_pairs:
            with b.if_then(b.icmp_signed("!=", b.srem(depth, self.const(2)), self.const(0))):
                step(count, half=True)
        for i in range(rows):
            for v in range(vectors):
                place = b.add(b.mul(out_stride, self.const(i)), self.const(v * self.lanes))
                self._store(b.load(sums[i][v], typ=self.vector), self._at(out, place), self.lanes)
        b.ret_void()
        self.entry.branch(start)
        self.b, self.entry = outer, self_entry
        return function

    def _multiply_add(self, a: ir.Value, x: ir.Value, c: ir.Value) -> ir.Value:
        # Where there is no instruction for it, LLVM would call libm for each lane of llvm.fma.
        name = f"llvm.{'fma' if self.target.vector_bytes > 16 or self.target.registers == 32 else 'fmuladd'}"
        name += f".v{self.lanes}f{self.bytes * 8}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return self.b.call(self._declared(name, kind), [a, x, c])

    def _widened(self, pairs: ir.Value, upper: bool) -> ir.Value:
        """One half of each pair of bfloat16, as float32: its bits are the upper ones of the float."""
        words = ir.VectorType(I32, self.lanes)
        bits = self.b.bitcast(pairs, words)
        if upper:
            bits = self.b.and_(bits, ir.Constant(words, [0xFFFF0000] * self.lanes))
        else:
            bits = self.b.shl(bits, ir.Constant(words, [16] * self.lanes))
        return self.b.bitcast(bits, self.vector)

    # Small things.

    def const(self, number: int) -> ir.Constant:
        """An integer."""
        return ir.Constant(I64, number)

    def _minimum(self, a: ir.Value, c: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed("<", a, c), a, c)

    def _slot(self, kind: ir.Type) -> ir.Value:
        """Memory for one variable, which LLVM turns into a register."""
        return self.entry.alloca(kind)

    def loop(self, start: ir.Value, stop: ir.Value, step: ir.Value) -> Any:
        """``for i in range(start, stop, step)``."""
        return counted(self.b, start, stop, step)

    def _over(self, count: int, body: Callable[[ir.Value, int], Any]) -> None:
        """``body(j, valid lanes)`` for each vector of ``count`` features."""
        whole = count - count % self.lanes
        if whole == self.lanes:
            body(self.const(0), self.lanes)
        elif whole:
            with self.loop(self.const(0), self.const(whole), self.const(self.lanes)) as j:
                body(j, self.lanes)
        if count - whole:
            body(self.const(whole), count - whole)

    def _over_features(self, count: int, body: Callable[[ir.Value, int], Any]) -> None:
        """The same, for the last axis of a nest without products."""
        self._over(count, body)

    def _pointer(self, name: Any) -> ir.Value:
        return self._cached_entry(name, lambda: self.entry.inttoptr(self.table[name], POINTER))

    def _cached_entry(self, name: Any, make: Callable[[], ir.Value]) -> ir.Value:
        key = ("pointer", name)
        if key not in self.table:
            self.table[key] = make()
        return self.table[key]

    def _cached(self, key: Any, make: Callable[[], ir.Value]) -> ir.Value:
        # An address that was computed inside a loop does not hold outside of it: remember it for this vector alone.
        if ("address", key) not in self.memo:
            self.memo["address", key] = make()
        return self.memo["address", key]

    def _row_address(self, key: Any, r: ir.Value) -> ir.Value:
        """Row ``r`` of something in the scratch."""
        start = self.b.mul(self.table["capacity"], self.const(self.row_start[key]))
        row = self.b.mul(r, self.const(self.row_size[key]))
        return self._at(self.scratch, self.b.add(self.b.add(start, row), self.const(self.fixed)))

    def _at(self, address: ir.Value, elements: ir.Value) -> ir.Value:
        if isinstance(elements, ir.Constant) and elements.constant == 0:
            return address
        return self.b.gep(address, [elements], source_etype=self.element)

    def _address(self, base: ir.Value, affine: Affine) -> ir.Value:
        place: ir.Value = self.const(affine[0])
        for coefficient, variable in zip(affine[1:], self.variables, strict=True):
            if coefficient:
                term = variable if coefficient == 1 else self.b.mul(variable, self.const(coefficient))
                place = self.b.add(place, term)
        return self._at(base, place)

    def _mask(self, valid: int) -> ir.Constant:
        return ir.Constant(self.mask_type, [int(lane < valid) for lane in range(self.lanes)])

    def _load(self, address: ir.Value, valid: int) -> ir.Value:
        if valid == self.lanes:
            return self.b.load(address, typ=self.vector, align=self.bytes)
        name = f"llvm.masked.load.v{self.lanes}f{self.bytes * 8}.p0"
        kind = ir.FunctionType(self.vector, [POINTER, I32, self.mask_type, self.vector])
        zeros = ir.Constant(self.vector, [0.0] * self.lanes)
        return self.b.call(
            self._declared(name, kind), [address, ir.Constant(I32, self.bytes), self._mask(valid), zeros]
        )

    def _store(self, value: ir.Value, address: ir.Value, valid: int) -> None:
        if valid == self.lanes:
            self.b.store(value, address, align=self.bytes)
            return
        name = f"llvm.masked.store.v{self.lanes}f{self.bytes * 8}.p0"
        kind = ir.FunctionType(ir.VoidType(), [self.vector, POINTER, I32, self.mask_type])
        self.b.call(self._declared(name, kind), [value, address, ir.Constant(I32, self.bytes), self._mask(valid)])

    def _splat(self, scalar: ir.Value) -> ir.Value:
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.b.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def _declared(self, name: str, kind: ir.FunctionType) -> ir.Function:
        return self.module.globals.get(name) or ir.Function(self.module, kind, name)
