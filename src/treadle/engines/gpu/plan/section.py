"""A loop on a GPU: its passes, and each with its tensors."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.gpu.device import Gpu
from treadle.engines.gpu.lower.tiling import Products
from treadle.engines.gpu.plan.launches import Arguments, Launches, launches
from treadle.engines.layout import Layout
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Precision
from treadle.engines.passes.rows import contiguous
from treadle.engines.passes.section_passes import Pass, SectionPasses


class KernelOfPass:
    """A kernel, for whichever GPU runs it."""

    def __init__(self, kernel: Kernel, bfloat16: bool):
        self.kernel, self.bfloat16 = kernel, bfloat16
        self.made: dict[tuple[Gpu, Products], Launches] = {}

    def on(self, gpu: Gpu) -> Launches:
        """The kernel for a GPU, made when it is first needed."""
        how = products_on(gpu, self.bfloat16)
        found = self.made.get((gpu, how))
        return found or self.made.setdefault((gpu, how), launches(self.kernel, gpu, how))


def products_on(gpu: Gpu, bfloat16: bool) -> Products:
    """How products multiply: in bfloat16 if asked for, in TF32 where PyTorch's own products do, exactly elsewhere."""
    if bfloat16:
        return Products.ROUNDED if gpu.is_pretended else Products.BFLOAT16
    # Of the two ways to say so, this is the one that may be asked whichever was taken.
    is_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return Products.TF32 if is_tf32 and not gpu.is_pretended else Products.IEEE


class GpuSection(SectionPasses[KernelOfPass]):
    """The kernels of one loop, made when they are first needed.

    Args:
        bfloat16: whether products multiply in bfloat16; sums stay float32.
    """

    def __init__(self, section: Section, bfloat16: bool = False):
        super().__init__(section)
        self.precision, self.bfloat16 = Precision(self.dtype), bfloat16 and self.dtype == torch.float32
        self.kernels: list[KernelOfPass] = []

    def compiled(self, kernel: Kernel) -> KernelOfPass:
        """A kernel, for whichever GPU runs it."""
        self.kernels.append(KernelOfPass(kernel, self.bfloat16))
        return self.kernels[-1]

    def details(self) -> tuple[str, ...]:
        """What is known of the kernels that have run."""
        found = [launched.details() for kernel in self.kernels for launched in kernel.made.values()]
        return tuple(dict.fromkeys(found)) or ("its kernels are made when it first runs",)


class Passed(NamedTuple):
    """What a pass over a sequence gives: outputs by value, states after the last step, sums over all rows."""

    outputs: dict[Value, Tensor]
    ends: list[Tensor]
    sums: list[Tensor]


def run_pass(
    one: Pass[KernelOfPass],
    gpu: Gpu,
    layout: Layout,
    rows: Mapping[Value, Tensor],
    shared: Mapping[Value, Tensor],
    starts: Sequence[Tensor],
    fresh: Sequence[Tensor],
) -> Passed:
    """Run a pass.

    Args:
        rows: what it may read [N, ...], the rows first.
        shared: what its values without rows are made of.
        starts: states [B, ...] before its first step.
        fresh: states [B, ...] at resets; of a backward pass, where gradients are added that end there.
    """
    kernel, dtype, some = one.kernel, one.kernel.precision.dtype, starts[0]
    of_kernel = one.compiled.on(gpu)
    known = dict(shared)
    interpreter.evaluate([*one.shared, *one.matrices], known, 0, some.device)
    outputs = {v: some.new_empty((layout.rows, *v.row_shape), dtype=dtype) for v in kernel.outputs}
    starts = [contiguous(start, dtype) for start in starts]
    ends = [torch.empty_like(start) for start in starts]
    given = Arguments(
        [contiguous(rows[v], rows[v].dtype if v in one.indices else dtype) for v in kernel.streams],
        list(outputs.values()),
        [contiguous(known[v], dtype) for v in kernel.invariants],
        [matrix_for(known[product.inputs[1]], dtype, of_kernel) for product in of_kernel.products],
        starts,
        ends,
        fresh,
    )
    sums = of_kernel.run(layout, given)
    return Passed(outputs, ends, sums)


def matrix_for(tensor: Tensor, dtype: torch.dtype, of_kernel: Launches) -> Tensor:
    """The right operand of a product as it is multiplied."""
    match of_kernel.tiling.products:
        case Products.BFLOAT16:
            dtype = torch.bfloat16
        case Products.ROUNDED:
            tensor = tensor.to(torch.bfloat16)
    return contiguous(tensor, dtype)
