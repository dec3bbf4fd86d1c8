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
from treadle.engines.gpu.write.steps import write
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


class Launches:
    """A kernel as one GPU runs it.

    Attributes:
        tiling: how it is cut.
        source: its text.
        products: the products, in the order of their matrices.
        compiled: what Triton made of it, by phase (None in `Mode.ROWS`); empty before, and where it is interpreted.
    """

    def __init__(self, kernel: Kernel, gpu: Gpu, how: Products):
        self.kernel, self.gpu = kernel, gpu
        plan = schedule(kernel)
        self.tiling = tiling_of(plan, how, gpu.shared_memory)
        self.source = write(plan, self.tiling)
        self.products = self.source.products
        self.function = function_of(self.source.text)
        self.compiled: dict[int | None, Any] = {}
        kernel_rows = [*kernel.streams, *kernel.outputs, *(old for old, _ in kernel.carries)]
        self.widest = max(value.row_numel for value in kernel_rows)

    def run(self, layout: Layout, given: Arguments) -> list[Tensor]:
        """Run over a sequence; returns the sums over all rows."""
        rows, device = self.tiling.rows, given.starts[0].device
        blocks, scratch = -(-layout.batch // rows), self.source.scratch
        memory = torch.empty(blocks * scratch.end, dtype=self.kernel.precision.dtype, device=device)
        lengths, offsets = layout.ragged or (None, None)
        resets, nothing = layout.packed_resets, memory
        states = [t for three in zip(given.starts, given.ends, given.fresh, strict=True) for t in three]
        tensors = [*given.streams, *given.outputs, *given.invariants, *given.matrices, *states]
        tensors += [nothing if t is None else t for t in (lengths, offsets, resets)]
        options: dict[str, Any] = {"WHOLE": lengths is None, "RESETS": resets is not None}
        options["WIDE"] = layout.batch * self.widest >= MOST_NUMBERS
        if not self.gpu.is_pretended:
            options |= self.tiling.options
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            launcher = self.function[blocks, self.tiling.parts]
            for begin, end, phase in self._launches(layout.steps, resets is not None):
                some = {} if phase is None else {"PHASE": phase}
                found = launcher(*tensors, memory, layout.batch, layout.steps, begin, end, **options, **some)
                if found is not None:
                    self.compiled[phase] = found
        every = memory.view(blocks, scratch.end)
        return [
            every[:, begin : begin + value.row_numel].sum(0).view(value.row_shape)
            for begin, value in zip(scratch.sums, self.kernel.sums, strict=True)
        ]

    def details(self) -> str:
        """How it is cut and why, and what the GPU's compiler said."""
        tiling, direction = self.tiling, "backward" if self.kernel.reverse else "forward"
        size = sum(product.inputs[1].row_numel for product in self.products) * tiling.weight_bytes
        text = f"{direction}: mode {tiling.mode} for {size:,} bytes of weights, {tiling.rows} rows a program"
        if tiling.mode is Mode.STEPS:
            text += f", {tiling.parts} programs for the columns, {self.source.phases - 2} launches a step"
        text += f", products in {tiling.products}"
        if not self.compiled:
            return f"{text}, on {self.gpu.name}"
        every = self.compiled.values()
        registers, shared = max(one.n_regs for one in every), max(one.metadata.shared for one in every)
        most = "at most " * (len(every) > 1)  # each phase is a kernel of its own
        text += f", {most}{registers} registers, {most}{shared:,} bytes of shared memory"
        return f"{text}, on {self.gpu.name}"

    def _launches(self, steps: int, has_resets: bool) -> list[tuple[int, int, int | None]]:
        """The first step of each launch, the one after its last, and its phase."""
        if self.tiling.mode is Mode.ROWS:
            return [(0, steps, None)]
        last = self.source.phases - 1
        of_resets = last - 1 if self.kernel.reverse else 1
        phases = [n for n in range(1, last) if has_resets or n != of_resets]
        return [(0, 0, 0), *((s, s + 1, n) for s in range(steps) for n in phases), (0, 0, last)]


def function_of(text: str) -> Any:
    """The kernel of a source. Triton reads that again, from where Python keeps the lines of what is no file."""
    name = f"<treadle {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    namespace: dict[str, Any] = {"__name__": "treadle.generated"}
    exec(compile(text, name, "exec"), namespace)
    return namespace["kernel"]


@kept_while_used
def launches(kernel: Kernel, gpu: Gpu, how: Products) -> Launches:
    """A kernel for a GPU; one for all that ask for the same, such as layers that are alike."""
    return Launches(kernel, gpu, how)
