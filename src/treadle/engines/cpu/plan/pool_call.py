"""Steps of any rows of many: everything that a call needs is in memory before it comes."""

import ctypes
from weakref import WeakKeyDictionary

import numpy as np
import torch

from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.machine.follower import again_address
from treadle.engines.cpu.machine.recipe import Recipe, RecipeCall
from treadle.engines.cpu.plan.kernel import RUN
from treadle.engines.cpu.plan.live_operands import LiveOperands
from treadle.engines.cpu.routines.kernel_code import kernel_code
from treadle.engines.cpu.write import by_columns, by_index
from treadle.engines.cpu.write.by_index import Behind
from treadle.engines.layout import Layout

_RUN_LOCKED = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_BLOCK = 96
"""Rows that a thread takes through a step at a time: what lies between its phases stays in the caches."""


class PoolCall:
    """Calls for up to so many rows, whose inputs, answers and index are in memory of its own.

    Attributes:
        x, y: [room, ...]: the input of a step, and its answer.
        rows_of_x, rows_of_y: the same as arrays.
        index: [room]: which row of the states each of these rows is.
        rows_at: the address at which it says how many there are.
        block: how many rows the kernel takes through a step at a time; the most that can be shared out by columns.
    """

    def __init__(self, operands: LiveOperands, room: int):
        weights, self.room = operands.weights, room
        kernel = weights.one.compiled
        lowered, self._operands = kernel.lowered, operands  # whose memory machine code reads
        self._library = kernel_code(lowered, "by index", "run", by_index.text)
        self._function = self._library.address("run")
        self.x = torch.zeros(room, *weights.x.row_shape, dtype=weights.x_type, device="cpu")
        self.y = torch.zeros(room, *weights.y.row_shape, dtype=weights.dtype, device="cpu")
        self.rows_of_x, self.rows_of_y = self.x.numpy(), self.y.numpy()
        self.index = np.zeros(room, np.int64)
        self._one_step = Layout(1, room)
        arguments = weights.arguments(address(self.x), address(self.y), [address(s) for s in operands.state])
        counts, offsets = address(self._one_step.counts), address(self._one_step.offsets)
        self.block = min(room, _BLOCK)
        table = [*arguments.table(1, self.block, counts, offsets, 0), 0, self.index.ctypes.data]
        self.table = np.array(table, dtype=np.int64)
        places = lowered.places
        self._streams, self._outputs = len([*places.streams]), len([*places.outputs])
        self._of_block = np.array([places.steps, places.counts, places.offsets, *places.streams, *places.outputs])
        self._of_step = self.table[self._of_block]
        self._blocks: WeakKeyDictionary[Layout, list[int]] = WeakKeyDictionary()
        self._address = self.table.ctypes.data
        self.rows_at = self._address + 8 * (len(lowered.places) + Behind.ROWS)
        self._rows = ctypes.c_int64.from_address(self.rows_at)
        scratch, itemsize = lowered.scratch, weights.dtype.itemsize
        self._scratch_bytes = -(-(scratch.own(self.block) + self.block * scratch.per_row + 64) * itemsize // 64) * 64
        self._kernel = kernel
        self._recipes: list[Recipe] = []
        self._calls: dict[tuple[int, bool], RecipeCall] = {}
        self._again, self._again_locked = RUN(again_address()), _RUN_LOCKED(again_address())
        self._team = ctypes.addressof(threads.team())

    def __call__(self, rows: int, parts: int, by_columns: bool = False, keeps_lock: bool = False) -> None:
        """A step of that many rows by so many threads, which share out rows or columns; Python's lock may be kept."""
        self._rows.value = rows
        found = self.laid_out(parts, by_columns)
        (self._again_locked if keeps_lock else self._again)(found.address, 0, 0, self._team)

    def laid_out(self, parts: int, by_columns: bool = False) -> RecipeCall:
        """The call by so many threads, ready to be made."""
        found = self._calls.get((parts, by_columns))
        if found is None:
            recipe = self._by_columns(parts) if by_columns else self._by_rows(parts)
            found = self._calls[parts, by_columns] = recipe.lay_out({})
            self._recipes.append(recipe)  # which keeps the machine code
        return found

    def steps(self, layout: Layout, xs: int, ys: int, parts: int, keeps_lock: bool = False) -> None:
        """All steps on [N, ...] at the address ``xs``, into ``ys``; the index is in the order of the layout's rows."""
        said = self._blocks.get(layout)
        if said is None:
            said = self._blocks[layout] = [layout.steps, address(layout.counts), address(layout.offsets)]
        try:
            self.table[self._of_block] = [*said, *[xs] * self._streams, *[ys] * self._outputs]
            self(layout.batch, parts, keeps_lock=keeps_lock)
        finally:
            self.table[self._of_block] = self._of_step

    def _by_rows(self, parts: int) -> Recipe:
        """Each of so many threads has rows of its own."""
        recipe = Recipe()
        scratch = recipe.scratch.room(parts * self._scratch_bytes)
        for part in range(parts):
            arguments = (self._address, part, parts, scratch + part * self._scratch_bytes)
            recipe.task(self._function, arguments)
        return recipe

    def _by_columns(self, parts: int) -> Recipe:
        """Each of so many threads has columns of its own, of all rows; see ``write/by_columns.py``."""
        lowered, recipe = self._kernel.lowered, Recipe()
        library = kernel_code(lowered, "by columns and index", "phase", by_columns.text_by_index)
        recipe.keep(library)
        phase, itemsize = library.address("phase"), self.y.itemsize
        shared = recipe.scratch.room((self.block * lowered.scratch.per_row + 64) * itemsize)
        own = [recipe.scratch.room(lowered.scratch.own(self.block) * itemsize) for _ in range(parts)]
        grouped = lowered.schedule.grouped
        panels = [1, *map(lowered.panels, grouped), 1]  # gathered before all, scattered after all
        for number, count in zip(range(by_columns.GATHER, len(grouped) + 1), panels, strict=True):
            for i, (first, last) in enumerate(threads.split(count, parts)):
                recipe.task(phase, (self._address, number, first, last, shared, own[i]))
            recipe.barrier()
        return recipe
