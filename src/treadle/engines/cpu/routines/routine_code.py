"""What the code of routines is made of, beside a cursor: small functions, and parts of vectors, known when it runs."""

from collections.abc import Callable
from typing import Any

import torch
from llvmlite import ir

from treadle.engines.cpu.machine.target import Target
from treadle.engines.cpu.write.cursor import I64, POINTER, VOID, Cursor, const
from treadle.engines.cpu.write.vector import Same


def filled(kind: Any, number: int) -> ir.Constant:
    """An integer of a type, in all lanes if that is one of vectors."""
    return Same(kind, number) if isinstance(kind, ir.VectorType) else ir.Constant(kind, number)


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

    def loop(self, start: Any, stop: Any, step: Any = 1, *, searched: bool = True) -> Any:
        """All networks share this code: LLVM takes its time once on a machine."""
        return super().loop(start, stop, step, searched=searched)

    def at(self, address: Any, elements: Any) -> Any:
        """The address of a number, so many numbers further on; addresses may be integers."""
        pointer = self.b.inttoptr(address, POINTER) if address.type == I64 else address
        return self.b.gep(pointer, [elements], source_etype=self.element)

    # The first lanes of a vector: a mask where the CPU has instructions for that, elsewhere how many they are. LLVM
    # would make a branch for each lane of a mask, wherever one is used.

    @property
    def part(self) -> Any:
        """The type of what tells the first lanes from others."""
        return self.mask if self.target.masks else I64

    @property
    def nothing(self) -> ir.Constant:
        """No lane at all."""
        return filled(self.mask, 0) if self.target.masks else const(0)

    def below(self, count: Any, first: int = 0) -> Any:
        """The lanes of a vector, numbered from ``first`` on, whose numbers are below a count."""
        if not self.target.masks:
            return self.b.sub(count, const(first)) if first else count
        numbers = ir.Constant(ir.VectorType(I64, self.lanes), [first + lane for lane in range(self.lanes)])
        return self.b.icmp_signed("<", numbers, self.splat(count))

    def load(self, address: Any, lanes: Any = None) -> Any:
        if lanes is None or self.target.masks:
            return super().load(address, lanes)
        return self.b.call(self._made("load_part", self.vector, [POINTER, I64], self._load_part), [address, lanes])

    def store(self, value: Any, address: Any, lanes: Any = None) -> None:
        if lanes is None or self.target.masks:
            super().store(value, address, lanes)
            return
        value = self.b.bitcast(value, self.vector)
        function = self._made("store_part", VOID, [self.vector, POINTER, I64], self._store_part)
        self.b.call(function, [value, address, lanes])

    def _made(self, name: str, result: Any, kinds: list[Any], write: Callable[[Any, Any], None]) -> ir.Function:
        """A function of the module, made when first needed; the count may be below zero or beyond all lanes."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, kinds), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            write(ir.IRBuilder(function.append_basic_block("entry")), function)
        return function

    def _load_part(self, b: Any, function: Any) -> None:
        address, count = function.args
        for lanes, case in self._cases(b, function, count):
            b.position_at_end(case)
            if lanes == self.lanes:
                b.ret(b.load(address, typ=self.vector, align=self.bytes))
                continue
            vector: Any = self.zeros
            for lane in range(lanes):
                number = b.load(self._lane(b, address, lane), typ=self.element, align=self.bytes)
                vector = b.insert_element(vector, number, const(lane))
            b.ret(vector)

    def _store_part(self, b: Any, function: Any) -> None:
        value, address, count = function.args
        for lanes, case in self._cases(b, function, count):
            b.position_at_end(case)
            if lanes == self.lanes:
                b.store(value, address, align=self.bytes)
            else:
                for lane in range(lanes):
                    b.store(b.extract_element(value, const(lane)), self._lane(b, address, lane), align=self.bytes)
            b.ret_void()

    def _lane(self, b: Any, address: Any, lane: int) -> Any:
        return b.gep(address, [const(lane)], source_etype=self.element)

    def _cases(self, b: Any, function: Any, count: Any) -> list[tuple[int, Any]]:
        """A block for each number of lanes, and the switch to them."""
        cases = [(lanes, function.append_basic_block(f"lanes{lanes}")) for lanes in range(self.lanes + 1)]
        count = b.select(b.icmp_signed(">", count, const(0)), count, const(0))
        switch = b.switch(count, cases[-1][1])
        for lanes, case in cases[:-1]:
            switch.add_case(const(lanes), case)
        return cases
