"""The CPU engine: programs as machine code, made with LLVM while the program runs; nothing is compiled at installation.

In the order of the work: ``section.py`` takes a section of a plan, ``schedule.py`` finds its loop nests, ``emit.py``
writes them down as LLVM IR (with the functions of ``math.py``), ``jit.py`` turns that into machine code for a
``target.py``, or finds it in the ``cache.py``; ``kernel.py`` is the result. ``chain.py`` makes sections that follow
each other one node of PyTorch's autograd: all that they do, with the products over all rows of ``contract.py``, the
packed weights of ``pack.py`` and the ``moves.py`` between them, is a ``recipe.py`` that ``threads.py`` follow. Where
rows are few, threads share out columns (``panels.py``): of a sequence in ``abreast.py``, of one step in ``columns.py``.
"""

from typing import Any

from treadle.compiler.fission import Section

__all__ = ["take", "take_bfloat16"]


def take(section: Section, bfloat16: bool = False) -> Any:
    """The compiled form of a section, or the reason why there is none."""
    from treadle.engines.cpu.plan.section import CompiledSection, why_not  # LLVM is loaded when it is needed

    reason = why_not(section)
    return CompiledSection(section, bfloat16) if reason is None else reason


def take_bfloat16(section: Section) -> Any:
    """The same, with products in bfloat16 that add up in float32."""
    return take(section, True)
