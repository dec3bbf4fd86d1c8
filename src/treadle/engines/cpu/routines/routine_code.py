"""What the code of routines is made of, beside a cursor: small functions, and masks known only when it runs."""

from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.cursor import I64, POINTER, VOID, Cursor


def filled(kind: Any, number: int) -> ir.Constant:
    """An integer of a type, in all lanes if that is one of vectors."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def begin(module: ir.Module, name: str, *kinds: ir.Type) -> tuple[Any, ir.Function]:
    """What builds the body of a new function, and that."""
    function = ir.Function(module, ir.FunctionType(VOID, kinds), name)
    return ir.IRBuilder(function.append_basic_block("entry")), function


class RoutineCode(Cursor):
    """A module that is being written, for numbers of one type."""

    def __init__(self, dtype: torch.dtype, target: Target):
        super().__init__(target, dtype.itemsize)

    def begin(self, name: str, *kinds: ir.Type, internal: bool = False) -> ir.Function:
        """A function whose body is written next; internal if it is called from within the module alone."""
        function = self.function(name, *kinds, internal=internal)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        return function

    def at(self, address: Any, elements: Any) -> Any:
        """The address of a number, so many numbers further on; addresses may be integers."""
        pointer = self.b.inttoptr(address, POINTER) if address.type == I64 else address
        return self.b.gep(pointer, [elements], source_etype=self.element)

    def below(self, count: Any, first: int = 0) -> Any:
        """The lanes of a vector, numbered from ``first`` on, whose numbers are below a count."""
        numbers = ir.Constant(ir.VectorType(I64, self.lanes), [first + lane for lane in range(self.lanes)])
        return self.b.icmp_signed("<", numbers, self.splat(count))
