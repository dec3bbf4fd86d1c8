"""A kernel, compiled and run: tensors in, tensors out, rows shared out over threads."""

import array
import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler.program import DEAR, Value
from treadle.engines.cpu import jit, threads
from treadle.engines.cpu.emit import BLOCK, emit
from treadle.engines.cpu.memory import empty
from treadle.engines.cpu.pack import pack
from treadle.engines.cpu.schedule import Kernel
from treadle.engines.cpu.target import Target, host
from treadle.engines.layout import Layout

__all__ = ["CompiledKernel", "compiled"]

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
# Below this many vector operations a second thread costs more than it helps: about 20 microseconds.
_WORTH_A_THREAD = 60_000
_TILES = 24


class CompiledKernel:
    """The machine code of a kernel.

    Args:
        kernel: what it computes.
        target: the CPU; this machine's by default.
    """

    def __init__(self, kernel: Kernel, target: Target | None = None):
        target = target or host()
        self.kernel, self.target = kernel, target
        self.code = emit(kernel, target)
        self.halved = kernel.bfloat16 and kernel.dtype == torch.float32
        self.operands = [(packing.product.inputs[1], packing) for packing in self.code.packings]
        self.library = jit.compile(self.code.text, target)
        self.address = self.library.address("run")
        self.function = _RUN(self.address)
        lanes = target.lanes(kernel.dtype.itemsize)
        self.row_cost = sum(packing.size / lanes for packing in self.code.packings)
        computed = {v for phase in self.code.schedule.phases for v in _evaluated(phase, kernel.memory)}
        self.row_cost += sum(v.row_numel / lanes * (20 if v.op in DEAR else 1) for v in computed)

    def pack(self, matrices: Mapping[Value, Tensor]) -> list[Tensor]:
        """The right operands of all products, in the order of ``code.packings``, as the kernel wants them."""
        return [pack(matrices[w], packing, self.halved, self.target) for w, packing in self.operands]

    def run(
        self,
        layout: Layout,
        streams: Sequence[Tensor],
        invariants: Sequence[Tensor],
        packed: Sequence[Tensor],
        outputs: Sequence[Tensor],
        starts: Sequence[Tensor] = (),
        finishes: Sequence[Tensor] = (),
        fresh: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """Run over all rows (or all steps); writes into ``outputs`` [N, ...] and ``finishes`` [B, ...].

        Every tensor has dense rows; streams may have any distance between them.

        Returns:
            The kernel's sums.
        """
        shares = self._shares(layout)
        capacity = max(last - first for first, last in shares) if self.kernel.carries else BLOCK
        table = [layout.steps, capacity, layout.counts_address, layout.offsets_address, layout.resets_address]
        for tensor in streams:
            table.append(tensor.data_ptr())
            table.append(tensor.stride(0))
        for tensor in outputs:
            table.append(tensor.data_ptr())
            table.append(tensor.stride(0))
        table += [tensor.data_ptr() for tensor in invariants]
        table += [tensor.data_ptr() for tensor in packed]
        for group in zip(starts, finishes, fresh, strict=True):
            table += [tensor.data_ptr() for tensor in group]
        arguments = array.array("q", table)
        address, _ = arguments.buffer_info()
        code, itemsize = self.code, self.kernel.dtype.itemsize
        size = code.fixed + capacity * code.per_row + 64
        size = -(-size // 16) * 16
        scratch = empty(len(shares) * size, dtype=self.kernel.dtype)
        memory = scratch.data_ptr()
        start = -(-memory // 64) * 64
        sums = None
        if code.sums_size:
            sums = torch.as_strided(scratch, (len(shares), code.sums_size), (size, 1), (start - memory) // itemsize)
            sums.zero_()
        calls = [(address, first, last, start + i * size * itemsize) for i, (first, last) in enumerate(shares)]
        threads.share(self.function, calls)
        if sums is None:
            return []
        total = sums.sum(0) if len(shares) != 1 else sums[0].clone()
        return [
            total[begin : begin + value.row_numel].view(value.row_shape)
            for begin, value in zip(code.sums, self.kernel.sums, strict=True)
        ]

    def _shares(self, layout: Layout) -> list[tuple[int, int]]:
        """Which rows go to which thread."""
        steps = bool(self.kernel.carries)
        rows = layout.batch if steps else layout.rows
        work = self.row_cost * layout.rows
        count = threads.count(min(rows, max(1, int(work // _WORTH_A_THREAD))))
        if count == 1:
            return [(0, rows)]
        if steps:
            return layout.shares(count)
        # Whole tiles for everybody but the last: 24 rows are tiles of 4, 6, 8 and 12 without a rest.
        step = -(-rows // (count * _TILES)) * _TILES if rows > count * BLOCK else -(-rows // count)
        return [(first, min(first + step, rows)) for first in range(0, rows, step)]


def _evaluated(phase: Any, memory: set[Value]) -> list[Value]:
    """What the nests of a phase compute; what they load costs little."""
    if isinstance(phase, Value):
        return []
    seen: set[Value] = set()
    stack = [root.value for root in phase.roots]
    while stack:
        value = stack.pop()
        if value not in seen and value not in memory and value.op != "dot":
            seen.add(value)
            stack.extend(value.inputs)
    return list(seen)


@functools.lru_cache(maxsize=512)
def compiled(kernel: Kernel) -> CompiledKernel:
    """The compiled form of a kernel; one for all that ask for the same, such as layers that are alike."""
    return CompiledKernel(kernel)
