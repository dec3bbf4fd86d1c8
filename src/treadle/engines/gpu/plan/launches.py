"""A kernel for one GPU, and its launches."""

import contextlib
import hashlib
import linecache
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from treadle.caches import kept_while_used
from treadle.engines.gpu.device import Gpu
from treadle.engines.gpu.lower.tiling import MOST_NUMBERS, Mode, Products, tiling_of
from treadle.engines.gpu.plan.phases import Launcher, Phases
from treadle.engines.gpu.write.arguments import ALIGNED, in_table
from treadle.engines.gpu.write.steps import COUNTER, write
from treadle.engines.layout import Layout
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.schedule import schedule


class Arguments(NamedTuple):
    """The tensors of a kernel, dense and in its precision.

    Args:
        streams: what it reads [N, ...].
        outputs: what it writes [N, ...].
        invariants: what all rows read.
        matrices: the right operand of each product, in the order of `Launches.products`.
        starts, ends, fresh: of each state [B, ...].
    """

    streams: Sequence[Tensor]
    outputs: Sequence[Tensor]
    invariants: Sequence[Tensor]
    matrices: Sequence[Tensor]
    starts: Sequence[Tensor]
    ends: Sequence[Tensor]
    fresh: Sequence[Tensor]

    def in_order(self, layout: Layout, scratch: Tensor, meetings: Tensor) -> list[Tensor]:
        """As kernels take them, see `arguments_of`; in the place of what there is not stands the scratch."""
        states = [tensor for three in zip(self.starts, self.ends, self.fresh, strict=True) for tensor in three]
        lengths, offsets = layout.ragged or (scratch, scratch)
        resets = scratch if layout.packed_resets is None else layout.packed_resets
        some = [*self.streams, *self.outputs, *self.invariants, *self.matrices, *states]
        return [*some, lengths, offsets, resets, scratch, meetings]


class Launches:
    """A kernel as one GPU runs it.

    Attributes:
        tiling: how it is cut.
        source: its text.
        products: the products, in the order of their matrices.
        compiled: what Triton made of it, by phase in `Mode.STEPS`; empty before, and where it is interpreted.
    """

    def __init__(self, kernel: Kernel, gpu: Gpu, how: Products):
        self.kernel, self.gpu = kernel, gpu
        plan = schedule(kernel)
        self.tiling = tiling_of(plan, how, gpu)
        self.source = write(plan, self.tiling)
        self.products = self.source.products
        self.function = function_of(self.source.text)
        self.write_table = function_of(self.source.text, "write_table") if self.tiling.mode is Mode.STEPS else None
        self.compiled: dict[int | None, Any] = {}
        kernel_rows = [*kernel.streams, *kernel.outputs, *(old for old, _ in kernel.carries)]
        self.widest = max(value.row_numel for value in kernel_rows)
        self._phases: dict[Any, Phases] = {}

    def run(self, layout: Layout, given: Arguments) -> list[Tensor]:
        """Run over a sequence; returns the sums over all rows."""
        blocks, device, end = -(-layout.batch // self.tiling.rows), given.starts[0].device, self.source.scratch.end
        scratch = torch.empty(blocks * end, dtype=self.kernel.precision.dtype, device=device)
        options: dict[str, Any] = {"WHOLE": layout.ragged is None, "RESETS": layout.packed_resets is not None}
        options["WIDE"] = layout.batch * self.widest >= MOST_NUMBERS
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            match self.tiling.mode:
                case Mode.ROWS:
                    tensors = given.in_order(layout, scratch, scratch)
                    self._launch((blocks, 1), options, *tensors, layout.batch, layout.steps, 0, 0, layout.steps)
                case Mode.SPLIT:
                    self._split(blocks, options, layout, given, scratch)
                case Mode.STEPS:
                    tensors = [_aligned(tensor) for tensor in given.in_order(layout, scratch, scratch)]
                    phases = self._phases_of(blocks, options, device)
                    numbers = layout.batch, layout.steps, 0, 0
                    phases.run(lambda table: self.write_table[1,](*tensors, *numbers, table), layout.steps)  # pyright: ignore
        every = scratch.view(blocks, end)
        return [
            every[:, begin : begin + value.row_numel].sum(0).view(value.row_shape)
            for begin, value in zip(self.source.scratch.sums, self.kernel.sums, strict=True)
        ]

    def _launch(self, grid: tuple[int, int], options: dict[str, Any], *given: Any, phase: int | None = None) -> None:
        options = options if phase is None else {**options, "PHASE": phase}
        found = self.function[grid](*given, **options, **({} if self.gpu.is_pretended else self.tiling.options))
        if found is not None:
            self.compiled[phase] = found

    def _split(self, blocks: int, options: dict[str, Any], layout: Layout, given: Arguments, scratch: Tensor) -> None:
        """As many blocks of rows as run at once, so that no program waits for one that has not begun; then the next."""
        parts = self.tiling.parts
        meetings = torch.zeros(blocks, COUNTER, dtype=torch.int64, device=scratch.device)
        tensors, at_once = given.in_order(layout, scratch, meetings), max(1, self.gpu.multiprocessors // parts)
        for block in range(0, blocks, at_once):
            numbers = layout.batch, layout.steps, block, 0, layout.steps
            self._launch((min(at_once, blocks - block), parts), options, *tensors, *numbers)

    def _phases_of(self, blocks: int, options: dict[str, Any], device: torch.device) -> Phases:
        """The launches for so many blocks of rows, on the stream that is in use."""
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        key = blocks, *options.values(), device, stream
        if key not in self._phases:
            while len(self._phases) >= _MOST_GRAPHS:
                self._phases.pop(next(iter(self._phases)), None)
            last = self.source.phases - 1
            of_resets = last - 1 if self.kernel.reverse else 1
            numbers = [n for n in range(1, last) if options["RESETS"] or n != of_resets]

            def launch(table: Tensor, ahead: int, phase: int) -> None:
                self._launch((blocks, self.tiling.parts), options, table, ahead, phase=phase)

            launcher = Launcher(launch, numbers, last)
            self._phases[key] = Phases(launcher, len(in_table(self.source.arguments)), device)
        return self._phases[key]

    def details(self) -> str:
        """How it is cut and why, and what the GPU's compiler said."""
        tiling, direction = self.tiling, "backward" if self.kernel.reverse else "forward"
        size = sum(product.inputs[1].row_numel for product in self.products) * tiling.weight_bytes
        text = f"{direction}: mode {tiling.mode} for {size:,} bytes of weights, {tiling.rows} rows a program"
        if tiling.mode is not Mode.ROWS:
            text += f", {tiling.parts} programs for the columns"
        if tiling.mode is Mode.STEPS:
            text += f", {self.source.phases - 2} launches a step"
        text += f", products in {tiling.products}"
        if not self.compiled:
            return f"{text}, on {self.gpu.name}"
        every = self.compiled.values()
        registers, shared = max(one.n_regs for one in every), max(one.metadata.shared for one in every)
        most = "at most " * (len(every) > 1)  # each phase is a kernel of its own
        text += f", {most}{registers} registers, {most}{shared:,} bytes of shared memory"
        return f"{text}, on {self.gpu.name}"


_MOST_GRAPHS = 8
"""Of one kernel, for other numbers of blocks or on other streams, at most."""


def _aligned(tensor: Tensor) -> Tensor:
    """A tensor whose address kernels may count on; what they write into has been made so."""
    return tensor.clone() if tensor.data_ptr() % ALIGNED else tensor


def function_of(text: str, name: str = "kernel") -> Any:
    """A kernel of a source. Triton reads that again, from where Python keeps the lines of what is no file."""
    file = f"<treadle {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    namespace: dict[str, Any] = {"__name__": "treadle.generated"}
    exec(compile(text, file, "exec"), namespace)
    return namespace[name]


@kept_while_used
def launches(kernel: Kernel, gpu: Gpu, how: Products) -> Launches:
    """A kernel for a GPU; one for all that ask for the same, such as layers that are alike."""
    return Launches(kernel, gpu, how)
