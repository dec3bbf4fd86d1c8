"""The CPU engine: programs as machine code, made with LLVM while the program runs; nothing is compiled at installation.

In the order of the work: ``lower/`` turns a section of a plan into loop nests, and decides precision and memory layout.
``write/`` writes them down as LLVM IR. ``routines/`` are the kernels that every network shares: products over all rows,
packed weights, copies. ``plan/`` is what one call does, written down once: sections that follow each other are one node
of PyTorch's autograd, and its passes are recipes. ``machine/`` is below all of these: it compiles, keeps machine code
on disk, and follows recipes on several threads.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.call import Call
from treadle.engines.engine import Engine, LiveProgram, Refusal, Runner, Taken
from treadle.engines.network import Network

# Where a method imports something, LLVM is loaded when it is needed.


class CpuEngine(Engine):
    """Sections as machine code."""

    name = "cpu"
    form = "machine code"
    automatic = True
    steps_live = True
    joins_invariants = True

    def refusal(self, call: Call) -> Refusal | None:
        """It runs on the CPU alone."""
        if call.xs.device.type != "cpu":
            return Refusal(f"the CPU engine runs on the CPU, but x is on {call.xs.device}", elsewhere=True)
        return None

    def take(self, section: Section, products: torch.dtype | None) -> Taken | Refusal:
        """The compiled form of a section; compiled when it first runs."""
        from treadle.engines.cpu.plan.section import CompiledSection
        from treadle.engines.passes.support import why_not

        reason = why_not(section)
        return CompiledSection(section, products == torch.bfloat16) if reason is None else Refusal(reason)

    def goes_with(self, before: Taken, after: Taken) -> bool:
        """Sections of one precision share a block of memory."""
        return before.dtype == after.dtype

    def join(
        self, sections: Sequence[Section], taken: Sequence[Taken], visible: Iterable[Value], before: Section | None
    ) -> Runner:
        """Sections that follow each other as one node of autograd: see `Chain`."""
        from treadle.engines.cpu.plan.chain import Chain

        return Chain(sections, taken, visible, before)  # pyright: ignore

    def live_program(self, network: Network, products: torch.dtype | None) -> LiveProgram | Refusal:
        """A network's whole step as one kernel; or as kernels and operations of PyTorch's in turn."""
        from treadle.engines import whole_step
        from treadle.engines.cpu.plan import live_program, piecewise_step, step_pieces

        if whole_step.reason_against(network) is None:
            return live_program.LiveProgram(network, products)
        pieces = step_pieces.step_pieces(network)
        return pieces if isinstance(pieces, Refusal) else piecewise_step.PiecewiseProgram(network, pieces, products)

    def left_out_live(self, network: Network) -> str | Refusal:
        """What has no machine code, of a step that is no single kernel."""
        from treadle.engines import whole_step
        from treadle.engines.cpu.plan import step_pieces

        if whole_step.reason_against(network) is None:
            return ""
        pieces = step_pieces.step_pieces(network)
        return pieces if isinstance(pieces, Refusal) else step_pieces.why_in_pieces(network)

    def remembers(self, what: str) -> bool:
        """On disk, for this CPU and these sources."""
        from treadle.engines.cpu.machine import compilation

        return compilation.remembers(what)

    def remember(self, what: str) -> None:
        """On disk, beside the code."""
        from treadle.engines.cpu.machine import compilation

        compilation.remember(what)

    def release_memory(self) -> bool:
        """Give back the blocks that wait."""
        from treadle.engines.cpu.machine import scratch_memory

        return scratch_memory.release()

    def masks(self, shares: Sequence[float], sizes: Sequence[int], steps: int) -> list[Tensor] | None:
        """Masks of all steps at once, where our generator is known to draw what PyTorch's draws."""
        from treadle.engines.cpu.routines import random_masks

        return random_masks.masks(shares, sizes, steps) if random_masks.agree_with_pytorch() else None
