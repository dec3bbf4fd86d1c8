"""Steps of any rows of many: everything that a call needs is in memory before it comes."""

import ctypes

import numpy as np
import torch
from torch import Tensor

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.machine.follower import again_address
from treadle.engines.cpu.machine.recipe import Recipe, RecipeCall
from treadle.engines.cpu.plan.kernel import RUN
from treadle.engines.cpu.plan.live_operands import LiveOperands
from treadle.engines.cpu.write import by_index
from treadle.engines.cpu.write.by_index import Behind
from treadle.engines.layout import Layout


class PoolCall:
    """Calls for up to so many rows, whose inputs, answers and index are in memory of its own.

    Attributes:
        x, y: [room, ...]: the input of a step, and its answer.
        rows_of_x, rows_of_y: the same as arrays.
        index: [room]: which row of the states each of these rows is.
    """

    def __init__(self, operands: LiveOperands, room: int):
        weights, self.room = operands.weights, room
        kernel = weights.one.compiled
        lowered, self._operands = kernel.lowered, operands  # whose memory machine code reads
        self._library = compilation.recall(
            f"by index\n{lowered.description}", ("run",), lambda: by_index.text(lowered), kernel.target
        )
        self._function = self._library.address("run")
        self.x = torch.zeros(room, *weights.x.row_shape, dtype=weights.x_type, device="cpu")
        self.y = torch.zeros(room, *weights.y.row_shape, dtype=weights.dtype, device="cpu")
        self.rows_of_x, self.rows_of_y = self.x.numpy(), self.y.numpy()
        self.index = np.zeros(room, np.int64)
        self._one_step = Layout(1, room)
        arguments = weights.arguments(address(self.x), address(self.y), [address(s) for s in operands.state])
        counts, offsets = address(self._one_step.counts), address(self._one_step.offsets)
        table = [*arguments.table(1, room, counts, offsets, 0), 0, self.index.ctypes.data]
        self.table = np.array(table, dtype=np.int64)
        self._behind, self._places = len(lowered.places), lowered.places
        self._address = self.table.ctypes.data
        scratch, itemsize = lowered.scratch, weights.dtype.itemsize
        self._scratch_bytes = -(-(scratch.fixed + room * scratch.per_row + 64) * itemsize // 64) * 64
        self._calls: dict[int, RecipeCall] = {}
        self._again, self._team = RUN(again_address()), ctypes.addressof(threads.team())

    def __call__(self, rows: int, parts: int) -> None:
        """A step of that many rows, shared out over so many threads."""
        self.table[self._behind + Behind.ROWS] = rows
        found = self._calls.get(parts)
        if found is None:
            found = self._calls[parts] = self._laid_out(parts)
        self._again(found.address, 0, 0, self._team)

    def steps(self, layout: Layout, xs: Tensor, ys: Tensor, parts: int) -> None:
        """All steps on [N, ...], into ``ys``; the index is in the order of the layout's rows."""
        before = self.table.copy()
        try:
            places = self._places
            self.table[places.steps] = layout.steps
            self.table[places.counts], self.table[places.offsets] = address(layout.counts), address(layout.offsets)
            self.table[[*places.streams]] = address(xs)
            self.table[[*places.outputs]] = address(ys)
            self(layout.batch, parts)
        finally:
            self.table[:] = before

    def _laid_out(self, parts: int) -> RecipeCall:
        """A call by so many threads."""
        recipe = Recipe()
        scratch = recipe.scratch.room(parts * self._scratch_bytes)
        for part in range(parts):
            arguments = (self._address, part, parts, scratch + part * self._scratch_bytes)
            recipe.task(self._function, arguments)
        return recipe.lay_out({})
