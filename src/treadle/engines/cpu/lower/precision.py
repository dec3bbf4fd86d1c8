"""In which numbers a section computes on a CPU: decided once, before there are kernels."""

import torch

from treadle.engines.cpu.machine.target import Target
from treadle.engines.passes.precision import Operands, Precision


def decide(dtype: torch.dtype, bfloat16: bool, memory_bound: bool, target: Target) -> Precision:
    """The precision that suits a CPU.

    Where one instruction multiplies pairs of bfloat16, both operands are pairs. Elsewhere each weight of a pair is
    widened whenever it is read. That takes longer than the products over a sequence save, so weights stay float32,
    with the values of bfloat16; but a single step waits for its weights, and half the bytes are read twice as fast.

    ``bfloat16`` asks for products in it; float64 stays as it is. Where weights are read so seldom that their bytes
    count, as in a single step, the work is ``memory_bound``.
    """
    if not bfloat16 or dtype != torch.float32:
        return Precision(dtype)
    if target.bf16_dot:
        return Precision(dtype, Operands.PAIRS, Operands.PAIRS)
    return Precision(dtype, Operands.PAIRS if memory_bound else Operands.ROUNDED)
