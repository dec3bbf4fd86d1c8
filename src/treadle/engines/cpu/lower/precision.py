"""In which numbers a section computes: decided once, before there are kernels."""

import enum
from dataclasses import dataclass

import torch

from treadle.engines.cpu.machine.target import Target


class Operands(enum.Enum):
    """How the operands on one side of every product lie in memory."""

    PLAIN = "as they are"
    ROUNDED = "rounded to bfloat16, but still as float32"
    PAIRS = "bfloat16, in pairs of two neighbours along K, 32 bits each"


@dataclass(frozen=True)
class Precision:
    """The type of all values and sums, and what products multiply.

    Args:
        dtype: float32 or float64.
        right: the weights.
        left: what they are multiplied with; never `Operands.ROUNDED`.
    """

    dtype: torch.dtype
    right: Operands = Operands.PLAIN
    left: Operands = Operands.PLAIN

    @classmethod
    def decide(cls, dtype: torch.dtype, bfloat16: bool, memory_bound: bool, target: Target) -> "Precision":
        """The precision that suits a CPU.

        Where one instruction multiplies pairs of bfloat16, both operands are pairs. Elsewhere each weight of a pair is
        widened whenever it is read. That takes longer than the products over a sequence save, so weights stay float32,
        with the values of bfloat16; but a single step waits for its weights, and half the bytes are read twice as fast.

        ``bfloat16`` asks for products in it; float64 stays as it is. Where weights are read so seldom that their bytes
        count, as in a single step, the work is ``memory_bound``.
        """
        if not bfloat16 or dtype != torch.float32:
            return cls(dtype)
        if target.bf16_dot:
            return cls(dtype, Operands.PAIRS, Operands.PAIRS)
        return cls(dtype, Operands.PAIRS if memory_bound else Operands.ROUNDED)
