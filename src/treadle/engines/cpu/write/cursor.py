"""Where LLVM IR is written, and the small things that all of it is made of: loops, vectors, masks, addresses."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.vector import Same, declared

I64, I32, I8, I1 = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.IntType(1)
POINTER, VOID = ir.PointerType(), ir.VoidType()


@contextlib.contextmanager
def counted(b: Any, start: Any, stop: Any, step: Any, opaque: bool = False) -> Iterator[Any]:
    """``for i in range(start, stop, step)``, on 64-bit numbers: what is built inside is the body.

    Where it is opaque, LLVM does not see how ``i`` grows. It then looks for no better induction variables, which takes
    a third of its time.
    """
    before = b.block
    head, body, end = (b.append_basic_block(name) for name in ("loop", "body", "end"))
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", i, stop), body, end)
    b.position_at_end(body)
    yield i
    following = b.add(i, step)
    if opaque:  # passes through an assembler text without instructions
        following = b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [following], False)
    i.add_incoming(following, b.block)
    b.branch(head)
    b.position_at_end(end)


@functools.cache
def const(number: int) -> ir.Constant:
    """An integer."""
    return ir.Constant(I64, number)


class BFloat(ir.Type):
    """LLVM's ``bfloat``, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


class Cursor:
    """A place in a module: the function that is being written, and where in it.

    Args:
        target: the CPU.
        itemsize: bytes of the numbers that vectors are made of: 4 for float32, 8 for float64.

    Attributes:
        b: builds what comes next. llvmlite's methods have no types, and pyright infers wrong ones: hence ``Any``.
        entry: builds the function's first block: variables, and what is read once.
    """

    b: Any
    entry: Any

    def __init__(self, target: Target, itemsize: int):
        self.target, self.bytes = target, itemsize
        self.element = ir.DoubleType() if itemsize == 8 else ir.FloatType()
        self.lanes = target.lanes(itemsize)
        self.vector, self.mask = ir.VectorType(self.element, self.lanes), ir.VectorType(I1, self.lanes)
        self.suffix = f"v{self.lanes}f{itemsize * 8}"
        self.zeros = self.filled(0.0)
        self._first_lane = Same(ir.VectorType(I32, self.lanes), 0)
        self._computed: dict[Any, ir.Value] = {}
        self.module = ir.Module()
        self.module.triple = target.triple

    # Functions.

    def function(self, name: str, *kinds: ir.Type, internal: bool = False) -> ir.Function:
        """A new function, which gives nothing back; internal if it is called from within the module alone."""
        function = ir.Function(self.module, ir.FunctionType(VOID, kinds), name)
        if internal:
            function.linkage = "internal"
        return function

    def call_small(self, name: str, arguments: list[Any], write: Callable[..., None]) -> None:
        """Call a function of the module, which is written when it is first called: what runs seldom, in many places."""
        function = self.module.globals.get(name)
        if function is None:
            function = self.function(name, *(argument.type for argument in arguments), internal=True)
            function.attributes.add("noinline")
            with self.inside(function):
                write(*function.args)
        self.b.call(function, arguments)

    def declared(self, name: str, result: ir.Type, *kinds: ir.Type) -> ir.Function:
        return declared(self.module, name, ir.FunctionType(result, kinds))

    @contextlib.contextmanager
    def inside(self, function: ir.Function) -> Iterator[None]:
        """What is written is the body of a function, which returns at its end."""
        outer = self.__dict__.get("b"), self.__dict__.get("entry")
        self.entry = ir.IRBuilder(function.append_basic_block("entry"))
        start = function.append_basic_block("start")
        self.b = ir.IRBuilder(start)
        yield
        self.b.ret_void()
        self.entry.branch(start)
        self.b, self.entry = outer

    @contextlib.contextmanager
    def before(self) -> Iterator[Any]:
        """Gives what builds a block before what is written: of that, what is read or computed once."""
        outer = self.b
        inner = outer.append_basic_block("inner")
        self.b = ir.IRBuilder(inner)
        yield outer
        outer.branch(inner)
        outer.position_at_end(self.b.block)
        self.b = outer

    @contextlib.contextmanager
    def building(self, builder: Any) -> Iterator[None]:
        """What is written goes where this builds."""
        outer, self.b = self.b, builder
        yield
        self.b = outer

    def slot(self, kind: ir.Type | None = None) -> ir.Value:
        """Memory for one variable, a vector unless said otherwise, which LLVM turns into a register."""
        return self.entry.alloca(kind or self.vector)

    # Numbers and loops.

    const = staticmethod(const)

    def plus(self, a: Any, c: Any) -> Any:
        """A sum of integers, or of what is known of it now."""
        if isinstance(a, ir.Constant) and isinstance(c, ir.Constant):
            return const(a.constant + c.constant)
        if isinstance(a, ir.Constant):
            a, c = c, a
        return a if isinstance(c, ir.Constant) and c.constant == 0 else self._once(self.b.add, a, c)

    def times(self, a: Any, factor: int) -> Any:
        """A multiple of an integer, or what is known of it now."""
        if isinstance(a, ir.Constant) or factor == 0:
            return const(a.constant * factor if factor else 0)
        return a if factor == 1 else self._once(self.b.mul, a, const(factor))

    def _once(self, build: Callable[[Any, Any], Any], a: Any, c: Any) -> Any:
        """What is computed of two integers, which the block may have computed before."""
        key = self.b.block, build.__name__, a, c
        if key not in self._computed:
            self._computed[key] = build(a, c)
        return self._computed[key]

    def minimum(self, a: ir.Value, c: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed("<", a, c), a, c)

    def loop(
        self, start: ir.Value | int, stop: ir.Value | int, step: ir.Value | int = 1, *, searched: bool = False
    ) -> Any:
        """A loop, `counted`; of one that is searched, LLVM looks for the best induction variables."""
        bounds = (const(i) if isinstance(i, int) else i for i in (start, stop, step))
        return counted(self.b, *bounds, opaque=self.target.indexes and not searched)

    def over(self, count: int, body: Callable[[ir.Value, int], Any]) -> None:
        """``body(j, valid lanes)`` for each vector of ``count`` features."""
        whole = count - count % self.lanes
        if whole == self.lanes:
            body(const(0), self.lanes)
        elif whole:
            with self.loop(0, whole, self.lanes) as j:
                body(j, self.lanes)
        if count - whole:
            body(const(whole), count - whole)

    # Memory.

    def at(self, address: ir.Value, elements: ir.Value) -> ir.Value:
        """The address of a number, so many numbers further on."""
        if isinstance(elements, ir.Constant) and elements.constant == 0:
            return address
        return self.b.gep(address, [elements], source_etype=self.element)

    def load_word(self, table: ir.Value, index: ir.Value) -> ir.Value:
        return self.b.load(self.b.gep(table, [index], source_etype=I64), typ=I64)

    def load_number(self, address: ir.Value) -> ir.Value:
        return self.b.load(address, typ=self.element, align=self.bytes)

    def store_number(self, number: ir.Value, address: ir.Value) -> None:
        self.b.store(number, address, align=self.bytes)

    def load_slot(self, slot: ir.Value) -> ir.Value:
        return self.b.load(slot, typ=self.vector)

    def load(self, address: ir.Value, lanes: int | ir.Value | None = None) -> ir.Value:
        """A vector. Only so many lanes are read, or those of a mask, if that is given; the others are zero."""
        mask = self._mask_of(lanes)
        if mask is None:
            return self.b.load(address, typ=self.vector, align=self.bytes)
        function = self.declared(
            f"llvm.masked.load.{self.suffix}.p0", self.vector, POINTER, I32, self.mask, self.vector
        )
        return self.b.call(function, [address, ir.Constant(I32, self.bytes), mask, self.zeros])

    def store(self, value: Any, address: ir.Value, lanes: int | ir.Value | None = None) -> None:
        """Store a vector, or so many of its lanes, or those of a mask; it may be one of integers of as many bytes."""
        mask = self._mask_of(lanes)
        if mask is None:
            self.b.store(value, address, align=self.bytes)
            return
        kind = value.type
        suffix = self.suffix if kind == self.vector else f"v{self.lanes}i{self.bytes * 8}"
        function = self.declared(f"llvm.masked.store.{suffix}.p0", VOID, kind, POINTER, I32, self.mask)
        self.b.call(function, [value, address, ir.Constant(I32, self.bytes), mask])

    def _mask_of(self, lanes: int | ir.Value | None) -> ir.Value | None:
        if isinstance(lanes, int):
            return None if lanes == self.lanes else self.first(lanes)
        return lanes

    def fill(self, address: ir.Value, count: int) -> None:
        self.over(count, lambda j, valid: self.store(self.zeros, self.at(address, j), valid))

    def copy(self, source: ir.Value, to: ir.Value, count: int) -> None:
        def write(source: ir.Value, to: ir.Value) -> None:
            self.over(count, lambda j, valid: self.store(self.load(self.at(source, j), valid), self.at(to, j), valid))

        self.call_small(f"copy{count}", [source, to], write)

    # Vectors.

    def filled(self, number: float) -> ir.Constant:
        return Same(self.vector, number)

    def first(self, count: int) -> ir.Constant:
        """The mask of the first lanes."""
        return ir.Constant(self.mask, [int(lane < count) for lane in range(self.lanes)])

    def splat(self, number: Any) -> ir.Value:
        """A number that is known only when the code runs, in all lanes."""
        undefined = Same(ir.VectorType(number.type, self.lanes))
        one = self.b.insert_element(undefined, number, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, undefined, self._first_lane)

    def multiply_add(self, a: ir.Value, x: ir.Value, c: ir.Value) -> ir.Value:
        # Where there is no instruction for it, LLVM would call libm for each lane of llvm.fma.
        fused = self.target.vector_bytes > 16 or self.target.registers == 32
        function = self.declared(f"llvm.{'fma' if fused else 'fmuladd'}.{self.suffix}", *[self.vector] * 4)
        return self.b.call(function, [a, x, c])

    def multiply_pairs(self, a: ir.Value, w: ir.Value, c: ir.Value) -> ir.Value:
        """``c`` [float32 lanes] plus, in each lane, both products of a pair of bfloat16 of ``a`` and one of ``w``."""
        half, name = ir.VectorType(BFloat(), 2 * self.lanes), f"llvm.x86.avx512bf16.dpbf16ps.{self.lanes * 32}"
        function = self.declared(name, self.vector, self.vector, half, half)
        return self.b.call(function, [c, self.b.bitcast(a, half), self.b.bitcast(w, half)])
