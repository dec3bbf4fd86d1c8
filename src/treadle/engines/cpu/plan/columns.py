"""One step of a few rows by several threads: each computes some of the columns of every product (``panels.py``).

A recipe does it, phase by phase: whoever is there takes some panels, always the same ones whenever it can.
"""

import ctypes
from typing import Any

from llvmlite import ir

from treadle.compiler.program import Value
from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.follower import again_address
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.kernel import CompiledKernel
from treadle.engines.cpu.write.emit import I64, POINTER, phases_of
from treadle.engines.cpu.write.panels import PanelEmitter


class ByColumns:
    """A step of a kernel, ready to be called by machine code, on memory that stays.

    Args:
        kernel: the kernel, and how its operands are packed.
        rows: how many.
        most: threads.
        table: the kernel's arguments, for one step of so many rows; its states end up where they start.

    Attributes:
        address, arguments, team: the function at that address does a step: ``step(arguments, 0, rows, team)``.
        table: where the kernel's own arguments are.
    """

    def __init__(self, kernel: CompiledKernel, rows: int, most: int, table: list[int]):
        emitter = _ColumnEmitter(kernel.kernel, kernel.target)
        self.code = code = emitter.code()
        library = compilation.recall(f"by columns\n{code.description}", ("phase",), code.write, kernel.target)
        address, itemsize = library.address("phase"), kernel.kernel.precision.dtype.itemsize
        panels = [emitter.panels_of(phase) for phase in phases_of(code.schedule)]
        self.recipe = recipe = Recipe()
        own_table = recipe.table(table)
        shared = recipe.scratch.room((rows * code.per_row + 64) * itemsize)
        own = [recipe.scratch.room(code.fixed * itemsize) for _ in range(most)]
        for number, count in enumerate([*panels, 1]):  # the last phase hands the states over
            for i, (first, last) in enumerate(threads.split(count, most)):
                recipe.task(address, (own_table, number, first, last, shared, own[i]))
            recipe.barrier()
        self._call = recipe.lay_out({})
        self.arguments, self.address = self._call.address, again_address()
        self.table = self.arguments + recipe.offset_of(own_table)
        self.team = ctypes.addressof(threads.team())


class _ColumnEmitter(PanelEmitter):
    """Writes ``phase(arguments, number, first, last, scratch, own)``: some panels of one phase, all rows.

    ``scratch`` is memory for all threads, ``own`` for one. The states are read where they start. The last phase takes
    them from the scratch to where they end up.
    """

    def text(self) -> str:
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64, I64, POINTER, POINTER])
        function = ir.Function(self.module, kind, "phase")
        self.arguments, number, self.first_panel, self.last_panel, self.scratch, self.own = function.args
        start = self._begin(function)
        self.first, self.row0, self.rows = self.const(0), self.const(0), self.table["capacity"]
        carries = range(len(self.kernel.carries))
        self.current = [self._pointer(("start", i)) for i in carries]
        self.next = [self._entry_row(("carry", i, 1)) for i in carries]
        end = function.append_basic_block("end")
        switch = self.b.switch(number, end)
        for n, phase in enumerate([*phases_of(self.plan), None]):
            block = function.append_basic_block(f"phase{n}")
            switch.add_case(self.const(n), block)
            self.b.position_at_end(block)
            if phase is None:
                for i in carries:
                    self._copy_rows(("finish", i), self.next[i], i, self.const(0), self.rows, into_scratch=False)
            else:
                self._phase(phase)
            self.b.branch(end)
        self.b.position_at_end(end)
        self.b.ret_void()
        self.entry.branch(start)
        return str(self.module)

    def _entry_row(self, key: Any) -> Any:
        start = self.entry.mul(self.table["capacity"], self.const(self.row_start[key]))
        return self.entry.gep(self.scratch, [start], source_etype=self.element)

    def _row_and_stride(self, value: Value, r: Any) -> tuple[Any, Any]:
        for i, (old, _) in enumerate(self.kernel.carries):
            if old is value:
                count = self.const(old.row_numel)
                return self._at(self.current[i], self.b.mul(r, count)), count
        return super()._row_and_stride(value, r)

    def _is_outside(self, value: Value) -> bool:
        return super()._is_outside(value) or any(old is value for old, _ in self.kernel.carries)
