"""A kernel on rows that stay where they are: everything that a call needs is in memory before it comes."""

import numpy as np
import torch

from treadle.engines.cpu.lower.lowered import BLOCK
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.plan.kernel import RUN, Arguments, CompiledKernel
from treadle.engines.cpu.plan.step_call import ByColumns
from treadle.engines.layout import Layout


class KernelCall:
    """One step of a kernel on so many rows, by up to so many threads: ``call()``. ``held`` is memory that it reads."""

    def __init__(self, kernel: CompiledKernel, rows: int, arguments: Arguments, most_threads: int, held: object):
        self.rows, self._held, dtype, scratch = rows, held, kernel.kernel.precision.dtype, kernel.lowered.scratch
        self._layout = layout = Layout(1, rows)  # memory that machine code reads
        capacity = rows if kernel.kernel.carries or most_threads > 1 else min(rows, BLOCK)
        table = arguments.table(1, capacity, address(layout.counts), address(layout.offsets), 0)
        if most_threads > 1:
            self._columns = columns = ByColumns(kernel, rows, most_threads, table)  # pyright: ignore
            self._run, self._arguments, self._memory = RUN(columns.address), columns.arguments, columns.team
        else:
            self._kernel, self._table = kernel, np.array(table, dtype=np.int64)
            self._scratch = torch.empty(scratch.fixed + capacity * scratch.per_row + 64, dtype=dtype, device="cpu")
            self._run, self._arguments = RUN(kernel.address), self._table.ctypes.data
            self._memory = -(-address(self._scratch) // 64) * 64

    def __call__(self) -> None:
        self._run(self._arguments, 0, self.rows, self._memory)
