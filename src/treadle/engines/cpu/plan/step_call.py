"""One step, laid out: everything that a call needs is in memory before it comes.

For a few rows and several threads it is a recipe: each thread computes some of the columns of every product, always the
same ones whenever it can.
"""

import ctypes

import numpy as np
import torch

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.machine.follower import again_address
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.kernel import RUN, CompiledKernel
from treadle.engines.cpu.plan.live_operands import LiveOperands
from treadle.engines.cpu.write import by_columns
from treadle.engines.layout import Layout


class StepCall:
    """One step of a batch, ready to be called by machine code: ``function(arguments, 0, rows, memory)``.

    With more than one thread, these share out the columns of products (``columns``). The number at ``x_at`` says where
    the input is.
    """

    def __init__(self, operands: LiveOperands, rows: int, most_threads: int):
        weights, self.rows = operands.weights, rows
        kernel = weights.one.compiled
        scratch = kernel.lowered.scratch
        self.x = torch.zeros(rows, *weights.x.row_shape, dtype=weights.x_type, device="cpu")
        self.y = torch.zeros(rows, *weights.y.row_shape, dtype=weights.dtype, device="cpu")
        layout = Layout(1, rows)
        self._layout, self._operands = layout, operands  # memory that machine code reads
        arguments = weights.arguments(address(self.x), address(self.y), [address(s) for s in operands.state])
        table = arguments.table(1, rows, address(layout.counts), address(layout.offsets), 0)
        self.columns = ByColumns(kernel, rows, most_threads, table) if most_threads > 1 else None  # pyright: ignore
        if self.columns is not None:
            self.function, self.arguments, at = self.columns.address, self.columns.arguments, self.columns.table
            self.memory = self.columns.team
        else:
            self._table = np.array(table, dtype=np.int64)
            size = scratch.fixed + rows * scratch.per_row + 64
            self._scratch = torch.empty(size, dtype=weights.dtype, device="cpu")
            self.function, self.arguments = kernel.address, self._table.ctypes.data
            at, self.memory = self.arguments, -(-address(self._scratch) // 64) * 64
        self._run, self.reads_x = RUN(self.function), bool(arguments.streams)
        places = kernel.lowered.places
        self.x_at, y_at = at + 8 * places.streams.start, at + 8 * places.outputs.start
        self._x, self._y = ctypes.c_int64.from_address(self.x_at), ctypes.c_int64.from_address(y_at)

    def __call__(self, x: int) -> None:
        """A step on the input at that address."""
        if self.reads_x:
            self._x.value = x
        self._run(self.arguments, 0, self.rows, self.memory)

    def repeat(self, xs: torch.Tensor, ys: torch.Tensor, steps: int) -> None:
        """A step for each of [T * B, ...], from and to that memory."""
        x, y = address(xs), address(ys)
        x_bytes, y_bytes = (rows.numel() * rows.itemsize // steps for rows in (xs, ys))
        try:
            for t in range(steps):
                self._y.value = y + t * y_bytes
                self(x + t * x_bytes)
        finally:
            self._y.value = address(self.y)


class ByColumns:
    """A step of a kernel by threads that share out columns: the function at ``address`` (arguments, 0, rows, team).

    ``table`` is given as the numbers that the kernel reads, and then is the address of these. States end up where they
    start.
    """

    def __init__(self, kernel: CompiledKernel, rows: int, most: int, table: list[int]):
        lowered = kernel.lowered
        self._library = library = compilation.recall(
            f"by columns\n{lowered.description}", ("phase",), lambda: by_columns.text(lowered), kernel.target
        )
        phase, itemsize = library.address("phase"), kernel.kernel.precision.dtype.itemsize
        panels = [lowered.panels(phase) for phase in lowered.schedule.grouped]
        self.recipe = recipe = Recipe()
        own_table = recipe.table(table)
        shared = recipe.scratch.room((rows * lowered.scratch.per_row + 64) * itemsize)
        own = [recipe.scratch.room(lowered.scratch.fixed * itemsize) for _ in range(most)]
        for number, count in enumerate([*panels, 1]):  # the last phase hands the states over
            for i, (first, last) in enumerate(threads.split(count, most)):
                recipe.task(phase, (own_table, number, first, last, shared, own[i]))
            recipe.barrier()
        self._call = recipe.lay_out({})
        self.arguments, self.address = self._call.address, again_address()
        self.table = self.arguments + recipe.offset_of(own_table)
        self.team = ctypes.addressof(threads.team())
