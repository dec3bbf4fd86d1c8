"""One step of a few rows by several threads: each computes some of the columns of every product.

A recipe does it, phase by phase: whoever is there takes some panels, always the same ones whenever it can.
"""

import ctypes

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.follower import again_address
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.kernel import CompiledKernel
from treadle.engines.cpu.write import by_columns


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
        lowered = kernel.lowered
        library = compilation.recall(
            f"by columns\n{lowered.description}", ("phase",), lambda: by_columns.text(lowered), kernel.target
        )
        address, itemsize = library.address("phase"), kernel.kernel.precision.dtype.itemsize
        panels = [lowered.panels(phase) for phase in lowered.schedule.grouped]
        self.recipe = recipe = Recipe()
        own_table = recipe.table(table)
        shared = recipe.scratch.room((rows * lowered.scratch.per_row + 64) * itemsize)
        own = [recipe.scratch.room(lowered.scratch.fixed * itemsize) for _ in range(most)]
        for number, count in enumerate([*panels, 1]):  # the last phase hands the states over
            for i, (first, last) in enumerate(threads.split(count, most)):
                recipe.task(address, (own_table, number, first, last, shared, own[i]))
            recipe.barrier()
        self._call = recipe.lay_out({})
        self.arguments, self.address = self._call.address, again_address()
        self.table = self.arguments + recipe.offset_of(own_table)
        self.team = ctypes.addressof(threads.team())
