"""In which numbers a kernel computes."""

import enum
from dataclasses import dataclass

import torch


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
        left: what they are multiplied with.
    """

    dtype: torch.dtype
    right: Operands = Operands.PLAIN
    left: Operands = Operands.PLAIN

    @property
    def widens(self) -> bool:
        """Whether pairs of weights are widened when they are read, because the left operands are float32."""
        return self.right is Operands.PAIRS and self.left is not Operands.PAIRS
