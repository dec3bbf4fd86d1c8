"""The CPU engine: programs as machine code, made with LLVM while the program runs; nothing is compiled at installation.

In the order of the work: ``section.py`` takes a section of a plan, ``schedule.py`` finds its loop nests, ``emit.py``
writes them down as LLVM IR (with the functions of ``math.py``), ``jit.py`` turns that into machine code for a
``target.py``, or finds it in the ``cache.py``; ``kernel.py`` is the result. ``chain.py`` makes sections that follow
each other one node of PyTorch's autograd: all that they do, with the products over all rows of ``contract.py``, the
packed weights of ``pack.py`` and the ``moves.py`` between them, is a ``recipe.py`` that ``threads.py`` follow. Where
rows are few, threads share out columns (``panels.py``): of a sequence in ``abreast.py``, of one step in ``columns.py``.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from treadle.compiler.fission import Section
from treadle.compiler.program import Value

__all__ = ["CPU", "CPU_BFLOAT16", "CpuEngine"]

# Where a method imports something, LLVM is loaded when it is needed.


@dataclasses.dataclass(frozen=True)
class CpuEngine:
    """Sections as machine code.

    Args:
        bfloat16: whether products multiply in bfloat16; they add up in float32.
    """

    bfloat16: bool = False

    def take(self, section: Section) -> Any:
        """The compiled form of a section, or the reason why there is none."""
        from treadle.engines.cpu.plan.section import CompiledSection, why_not

        reason = why_not(section)
        return CompiledSection(section, self.bfloat16) if reason is None else reason

    def join(
        self, sections: Sequence[Section], taken: Sequence[Any], visible: Iterable[Value], before: Section | None
    ) -> Any:
        """Sections that follow each other as one, with the invariants that they alone read: see `Chain`."""
        from treadle.engines.cpu.plan.chain import Chain

        return Chain(sections, taken, visible, before)


CPU, CPU_BFLOAT16 = CpuEngine(), CpuEngine(bfloat16=True)
