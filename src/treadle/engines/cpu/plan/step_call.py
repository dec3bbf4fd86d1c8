"""One step, laid out: everything that a call needs is in memory before it comes."""

import ctypes

import numpy as np
import torch

from treadle.engines.cpu.plan.columns import ByColumns
from treadle.engines.cpu.plan.kernel import RUN, STREAMS_AT
from treadle.engines.cpu.plan.live_operands import LiveOperands
from treadle.engines.layout import Layout


class StepCall:
    """One step of a batch, ready to be called by machine code: ``function(arguments, 0, rows, memory)``.

    Args:
        operands: what it computes with.
        rows: the batch size.
        most_threads: how many threads share out the columns of products; 1 for none.

    Attributes:
        function, arguments, rows, memory: numbers for the call.
        x_at: the address of the number that says where the input is.
        x, y: memory for input and output.
        columns: the step shared out by columns, if it is.
    """

    def __init__(self, operands: LiveOperands, rows: int, most_threads: int):
        kernel, scratch, self.rows = operands.one.compiled, operands.one.compiled.lowered.scratch, rows
        self.x = torch.zeros(rows, *operands.x.row_shape, dtype=operands.x_type)
        self.y = torch.zeros(rows, *operands.y.row_shape, dtype=operands.dtype)
        self._layout, self._operands = Layout(1, rows), operands  # memory that machine code reads
        arguments = operands.arguments(self.x.data_ptr(), self.y.data_ptr(), [s.data_ptr() for s in operands.state])
        table = arguments.table(1, rows, self._layout.counts_address, self._layout.offsets_address, 0)
        self.columns = ByColumns(kernel, rows, most_threads, table) if most_threads > 1 else None  # pyright: ignore
        if self.columns is not None:
            self.function, self.arguments, at = self.columns.address, self.columns.arguments, self.columns.table
            self.memory = self.columns.team
        else:
            self._table = np.array(table, dtype=np.int64)
            self._scratch = torch.empty(scratch.fixed + rows * scratch.per_row + 64, dtype=operands.dtype)
            self.function, self.arguments = kernel.address, self._table.ctypes.data
            at, self.memory = self.arguments, -(-self._scratch.data_ptr() // 64) * 64
        self._run, self.reads_x = RUN(self.function), bool(arguments.streams)
        self.x_at, y_at = (at + 8 * (STREAMS_AT + 2 * n) for n in (0, len(arguments.streams)))
        self._x, self._y = ctypes.c_int64.from_address(self.x_at), ctypes.c_int64.from_address(y_at)

    def __call__(self, x: int) -> None:
        """A step on the input at that address."""
        if self.reads_x:
            self._x.value = x
        self._run(self.arguments, 0, self.rows, self.memory)

    def repeat(self, xs: torch.Tensor, ys: torch.Tensor, steps: int) -> None:
        """A step for each of [T * B, ...], from and to that memory."""
        x, y = xs.data_ptr(), ys.data_ptr()
        x_bytes, y_bytes = (rows.numel() * rows.itemsize // steps for rows in (xs, ys))
        try:
            for t in range(steps):
                self._y.value = y + t * y_bytes
                self(x + t * x_bytes)
        finally:
            self._y.value = self.y.data_ptr()
