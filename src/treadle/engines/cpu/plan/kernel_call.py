"""A kernel on rows that stay where they are, one step a call: everything that it needs is in memory before it comes.

For a few rows and several threads it is a recipe: each thread computes some of the columns of every product, always the
same ones whenever it can.
"""

import ctypes

import numpy as np
import torch

from treadle.engines.cpu.lower.lowered import BLOCK
from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.machine.follower import again_address
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.kernel import RUN, Arguments, CompiledKernel
from treadle.engines.cpu.routines.kernel_code import kernel_code
from treadle.engines.cpu.write import by_columns
from treadle.engines.layout import Layout


class KernelCall:
    """One step of a kernel on so many rows, ready to be called: ``function(arguments, 0, rows, memory)``.

    With more than one thread, these share out the columns of products (``columns``). ``held`` is memory that the kernel
    reads; what it is given stands at ``table``, as numbers.
    """

    def __init__(self, kernel: CompiledKernel, rows: int, arguments: Arguments, most_threads: int, held: object):
        self.rows, self._held, dtype, scratch = rows, held, kernel.kernel.precision.dtype, kernel.lowered.scratch
        self._layout = layout = Layout(1, rows)  # memory that machine code reads
        capacity = rows if kernel.kernel.carries or most_threads > 1 else min(rows, BLOCK)
        table = arguments.table(1, capacity, address(layout.counts), address(layout.offsets), 0)
        self.columns = ByColumns(kernel, rows, most_threads, table) if most_threads > 1 else None  # pyright: ignore
        if self.columns is not None:
            self.function, self.arguments, self.table = self.columns.address, self.columns.arguments, self.columns.table
            self.memory = self.columns.team
        else:
            self._kernel, self._table = kernel, np.array(table, dtype=np.int64)
            self._scratch = torch.empty(
                scratch.own(capacity) + capacity * scratch.per_row + 64, dtype=dtype, device="cpu"
            )
            self.function, self.arguments = kernel.address, self._table.ctypes.data
            self.table, self.memory = self.arguments, -(-address(self._scratch) // 64) * 64
        self._run = RUN(self.function)

    def run(self) -> None:
        """The step."""
        self._run(self.arguments, 0, self.rows, self.memory)


class ByColumns:
    """A step of a kernel by threads that share out columns: the function at ``address`` (arguments, 0, rows, team).

    ``table`` is given as the numbers that the kernel reads, and then is the address of these. States end up where they
    start.
    """

    def __init__(self, kernel: CompiledKernel, rows: int, most: int, table: list[int]):
        lowered = kernel.lowered
        self._library = library = kernel_code(lowered, "by columns", "phase", by_columns.text)
        phase, itemsize = library.address("phase"), kernel.kernel.precision.dtype.itemsize
        panels = [lowered.panels(phase) for phase in lowered.schedule.grouped]
        self.recipe = recipe = Recipe()
        own_table = recipe.table(table)
        shared = recipe.scratch.room((rows * lowered.scratch.per_row + 64) * itemsize)
        own = [recipe.scratch.room(lowered.scratch.own(rows) * itemsize) for _ in range(most)]
        for number, count in enumerate([*panels, 1]):  # the last phase hands the states over
            for i, (first, last) in enumerate(threads.split(count, most)):
                recipe.task(phase, (own_table, number, first, last, shared, own[i]))
            recipe.barrier()
        self._call = recipe.lay_out({})
        self.arguments, self.address = self._call.address, again_address()
        self.table = self.arguments + recipe.offset_of(own_table)
        self.team = ctypes.addressof(threads.team())
