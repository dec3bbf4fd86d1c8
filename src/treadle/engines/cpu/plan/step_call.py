"""One step, laid out: everything that a call needs is in memory before it comes."""

import ctypes

import torch

from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.plan.kernel_call import KernelCall
from treadle.engines.cpu.plan.live_operands import LiveOperands


class StepCall(KernelCall):
    """One step of a batch, ready to be called by machine code, on the input at the address that stands at ``x_at``."""

    def __init__(self, operands: LiveOperands, rows: int, most_threads: int):
        weights = operands.weights
        self.x = torch.zeros(rows, *weights.x.row_shape, dtype=weights.x_type, device="cpu")
        self.y = torch.zeros(rows, *weights.y.row_shape, dtype=weights.dtype, device="cpu")
        arguments = weights.arguments(address(self.x), address(self.y), [address(s) for s in operands.state])
        super().__init__(weights.one.compiled, rows, arguments, most_threads, operands)
        self.reads_x = bool(arguments.streams)
        places = weights.one.compiled.lowered.places
        self.x_at, y_at = self.table + 8 * places.streams.start, self.table + 8 * places.outputs.start
        self._x, self._y = ctypes.c_int64.from_address(self.x_at), ctypes.c_int64.from_address(y_at)

    def __call__(self, x: int) -> None:
        """A step on the input at that address."""
        if self.reads_x:
            self._x.value = x
        self.run()

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
