"""A section of a live step with the weights that it has: in which numbers its matrices are kept."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.cpu.plan.kernel import CompiledKernel
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.engine import KeptMatrix
from treadle.engines.network import Network
from treadle.engines.passes.int8 import Int8Matrix, in_int8
from treadle.engines.passes.section_passes import Pass


class LiveSection:
    """A section, compiled for a precision of its products and the weights that it has now.

    Which matrices can be kept as int8 is a question of their numbers: see `in_int8`.

    Args:
        network: whose section it is.
        key: names it among those of the network.
        make: the section; asked once for all networks that have the same program.
        products: `torch.bfloat16`, `torch.int8`, or None for float32.

    Attributes:
        section: as it is in the program.
        compiled: on its own inputs.
    """

    def __init__(self, network: Network, key: object, make: Callable[[], Section], products: torch.dtype | None):
        self.network, self.key, self.products = network, key, products
        self.section = network.kept(("live section", key), make)
        self.compiled = self._compiled(())

    def _compiled(self, int8: tuple[Value, ...]) -> CompiledSection:
        bfloat16 = self.products == torch.bfloat16
        key = ("live", self.key, bfloat16, int8)
        return self.network.kept(key, lambda: CompiledSection(self.section, bfloat16, True, int8))

    def own(self, constants: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
        """The inputs without rows, by the section's own values, of what is known by the program's."""
        inputs = zip(self.section.inputs, self.compiled.section.inputs, strict=True)
        return {own: constants[value].detach() for value, own in inputs if value in constants}

    def with_weights(self, weights: Mapping[Value, Tensor]) -> "tuple[Pass[CompiledKernel], dict[Value, Int8Matrix]]":
        """The pass that is the step, and the matrices that it has as int8."""
        found: dict[Value, Int8Matrix] = {}
        if self.products == torch.int8:
            known = dict(weights)
            matrices = self.compiled.plain.matrices
            interpreter.evaluate(matrices, known, 0)
            kept = {matrix: in_int8(known[matrix]) for matrix in matrices}
            found = {matrix: one for matrix, one in kept.items() if one is not None}
            self.compiled = self._compiled(tuple(found))
        return self.compiled.plain, found

    def kept(self, found: Mapping[Value, Int8Matrix]) -> Iterator[KeptMatrix]:
        """How each matrix is kept, by what it is in the program."""
        in_program = dict(zip(self.compiled.section.inputs, self.section.inputs, strict=True))
        for matrix in self.compiled.plain.matrices:
            value = p.rebuild([matrix], in_program)[matrix]
            if matrix in found:
                yield KeptMatrix(value, "int8", found[matrix].bound)
            elif self.products == torch.int8:
                yield KeptMatrix(value, "float32", None, _NO_FACTORS)
            elif self.products == torch.bfloat16 and self.compiled.dtype == torch.float32:
                yield KeptMatrix(value, "bfloat16", _BFLOAT16)
            else:
                yield KeptMatrix(value, str(self.compiled.dtype).removeprefix("torch."), 0.0)


_BFLOAT16 = 2.0**-8 / 2
"""How far a number may be from the one that was rounded to bfloat16, relative to it."""
_NO_FACTORS = (
    "its columns are no multiples of a factor each: it is made of parameters by more than views, or several parameters"
    " share a column"
)
