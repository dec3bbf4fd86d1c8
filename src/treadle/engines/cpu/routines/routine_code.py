"""What the code of routines is made of: loops, addresses, and vectors of which some lanes are read or written."""

from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.cursor import counted
from treadle.engines.cpu.write.vector import declared

I64, I32, I1, POINTER, VOID = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.PointerType(), ir.VoidType()


def const(number: int) -> ir.Constant:
    """An integer."""
    return ir.Constant(I64, number)


def filled(kind: Any, number: int) -> ir.Constant:
    """An integer of a type, in all lanes if that is one of vectors."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def begin(module: ir.Module, name: str, *kinds: ir.Type) -> tuple[Any, ir.Function]:
    """What builds the body of a new function, and that."""
    function = ir.Function(module, ir.FunctionType(VOID, kinds), name)
    return ir.IRBuilder(function.append_basic_block("entry")), function


class RoutineCode:
    """A module that is being written, for numbers of one type.

    Attributes:
        b: builds what comes next. llvmlite's methods have no types, and pyright infers wrong ones: hence ``Any``.
    """

    b: Any

    def __init__(self, dtype: torch.dtype, target: Target):
        self.bytes, self.vector_bytes = dtype.itemsize, target.vector_bytes
        self.element = ir.FloatType() if self.bytes == 4 else ir.DoubleType()
        self.lanes = target.lanes(self.bytes)
        self.vector, self.mask = ir.VectorType(self.element, self.lanes), ir.VectorType(I1, self.lanes)
        self.suffix = f"v{self.lanes}f{self.bytes * 8}"
        self.module = ir.Module()
        self.module.triple = target.triple

    def begin(self, name: str, *kinds: ir.Type, internal: bool = False) -> ir.Function:
        """A function whose body is written next; internal if it is called from within the module alone."""
        self.b, function = begin(self.module, name, *kinds)
        if internal:
            function.linkage = "internal"
        return function

    def declared(self, name: str, result: ir.Type, *kinds: ir.Type) -> ir.Function:
        """A function of LLVM's."""
        return declared(self.module, name, ir.FunctionType(result, kinds))

    def minimum(self, one: Any, other: Any) -> Any:
        """The smaller of two numbers."""
        return self.b.select(self.b.icmp_signed("<", one, other), one, other)

    def loop(self, start: Any, stop: Any, step: Any = 1) -> Any:
        """``for i in range(start, stop, step)``."""
        return counted(self.b, *(const(i) if isinstance(i, int) else i for i in (start, stop, step)))

    def at(self, base: Any, elements: Any) -> Any:
        """The address of a number, so many numbers further on."""
        pointer = self.b.inttoptr(base, POINTER) if base.type == I64 else base
        return self.b.gep(pointer, [elements], source_etype=self.element)

    def splat(self, number: Any) -> Any:
        """A number in all lanes."""
        undefined = ir.Constant(ir.VectorType(number.type, self.lanes), ir.Undefined)
        one = self.b.insert_element(undefined, number, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def below(self, count: Any, first: int = 0) -> Any:
        """The lanes of a vector, numbered from ``first`` on, whose numbers are below a count."""
        numbers = ir.Constant(ir.VectorType(I64, self.lanes), [first + lane for lane in range(self.lanes)])
        return self.b.icmp_signed("<", numbers, self.splat(count))

    def load(self, address: Any, mask: Any | None = None) -> Any:
        """A vector; lanes that the mask leaves out are zero and not read."""
        if mask is None:
            return self.b.load(address, typ=self.vector, align=self.bytes)
        kinds = POINTER, I32, self.mask, self.vector
        load = self.declared(f"llvm.masked.load.{self.suffix}.p0", self.vector, *kinds)
        zeros = ir.Constant(self.vector, [0.0] * self.lanes)
        return self.b.call(load, [address, ir.Constant(I32, self.bytes), mask, zeros])

    def store(self, value: Any, address: Any, mask: Any | None = None) -> None:
        """Write a vector, less the lanes that the mask leaves out; it may be one of integers, of as many bytes."""
        if mask is None:
            self.b.store(value, address, align=self.bytes)
            return
        kind = value.type
        suffix = self.suffix if kind == self.vector else f"v{self.lanes}i{self.bytes * 8}"
        store = self.declared(f"llvm.masked.store.{suffix}.p0", VOID, kind, POINTER, I32, self.mask)
        self.b.call(store, [value, address, ir.Constant(I32, self.bytes), mask])
