"""The GPU engine: loops as kernels in Triton's language, for CUDA devices. It is experimental.

The same passes and loop nests as on the CPU (``engines/passes/``) become Triton's source: ``lower/`` decides how a
kernel is cut, ``write/`` writes it, ``plan/`` launches it, a loop being one node of PyTorch's autograd. Sections of all
steps at once and the products of weight gradients are PyTorch's own operations. ``device.py`` knows the GPU; it can
pretend to have one, and then Triton's interpreter runs the kernels on the CPU, which is how they are tested.
"""

from collections.abc import Iterable, Sequence

import torch

from treadle.compiler.fission import Kind, Section
from treadle.compiler.program import Value
from treadle.engines.call import Call
from treadle.engines.engine import Engine, LiveProgram, Refusal, Runner, Taken
from treadle.engines.gpu.device import gpu_of
from treadle.engines.network import Network
from treadle.state import named_tensors

# Where a method imports something, it is loaded when it is needed; triton, when a kernel is.


class GpuEngine(Engine):
    """Loops as kernels of a GPU."""

    name = "gpu"
    form = "a kernel"
    automatic = True
    steps_live = True
    takes_in = False

    def refusal(self, call: Call) -> Refusal | None:
        """It runs on CUDA devices, in float32."""
        gpu = gpu_of(call.xs.device)
        if isinstance(gpu, Refusal):
            return gpu
        tensors = (call.xs, *(tensor for _, tensor in named_tensors(call.state)))
        if not gpu.is_pretended and any(tensor.dtype == torch.float64 for tensor in tensors):
            return Refusal("it has kernels for float32, not for float64")
        return None

    def take(self, section: Section, products: torch.dtype | None) -> Taken | Refusal | None:
        """A loop's kernels; compiled when it first runs."""
        if section.kind is not Kind.LOOP:
            return None
        from treadle.engines.gpu.plan.section import GpuSection
        from treadle.engines.passes.support import why_not

        reason = why_not(section) or _why_too_large(section)
        return GpuSection(section, products == torch.bfloat16) if reason is None else Refusal(reason)

    def details(self, taken: Taken) -> tuple[str, ...]:
        """Of each kernel that has been made: how it is cut, and what the GPU's compiler said of it."""
        return taken.details()  # pyright: ignore

    def join(
        self, sections: Sequence[Section], taken: Sequence[Taken], visible: Iterable[Value], before: Section | None
    ) -> Runner:
        """A loop as one node of autograd."""
        from treadle.engines.gpu.plan.loop import Loop

        return Loop(sections[0], taken[0], visible)  # pyright: ignore

    def live_program(self, network: Network, products: torch.dtype | None) -> LiveProgram | Refusal:
        """A network's whole step as one kernel, which a CUDA graph launches."""
        from treadle.engines.gpu.plan import live_step

        left_out = self.left_out_live(network)
        return left_out if isinstance(left_out, Refusal) else live_step.LiveProgram(network, products)

    def left_out_live(self, network: Network) -> str | Refusal:
        """Nothing; or why the step is no single kernel."""
        from treadle.engines import whole_step

        reason = whole_step.reason_against(network) or _why_too_large(whole_step.whole_step(network))
        return "" if reason is None else Refusal(reason)


def _why_too_large(section: Section) -> str | None:
    """Why a section has no kernels, where it is for the sizes of its matrices."""
    from treadle.engines.gpu.lower.tiling import MOST_NUMBERS

    # What has rows is found by 64 bits where there are many.
    most = max((v.row_numel for v in (*section.inputs, *section.values()) if not v.has_rows), default=0)
    if most < MOST_NUMBERS:
        return None
    return f"a matrix has {most:,} numbers, and its kernels count to {MOST_NUMBERS - 1:,}"
