"""A section of a plan on the CPU: its passes, in the precision that suits this CPU."""

from collections.abc import Iterable

from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.cpu.lower.precision import decide
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.plan.kernel import CompiledKernel, compiled
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.section_passes import SectionPasses


class CompiledSection(SectionPasses[CompiledKernel]):
    """The kernels of one section, made when they are first needed.

    Args:
        bfloat16: whether right operands of products are rounded to bfloat16; sums stay float32.
        memory_bound: whether they are read so seldom that their bytes count, as in a single step.
        int8: the right operands, of the section on its own inputs (`Section.local`), that are kept as int8.
    """

    def __init__(
        self, section: Section, bfloat16: bool = False, memory_bound: bool = False, int8: Iterable[Value] = ()
    ):
        super().__init__(section)
        self.precision, self.int8 = decide(self.dtype, bfloat16, memory_bound, host()), frozenset(int8)

    def compiled(self, kernel: Kernel) -> CompiledKernel:
        """The machine code of a kernel; one for all that ask for the same."""
        return compiled(kernel)
