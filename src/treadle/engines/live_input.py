"""What a live step reads: refused where the kernel would misread it."""

from collections.abc import Iterable

from torch import Tensor

from treadle.compiler.program import Value
from treadle.errors import ShapeError


class LiveInput:
    """What inputs a step can read.

    Args:
        x: the input.
        values: what is computed.
    """

    def __init__(self, x: Value, values: Iterable[Value]):
        self.is_float = x.dtype.is_floating_point
        self.tokens = min((v.inputs[0].shape[0] for v in values if v.op == "embedding"), default=None)

    def check(self, x: Tensor) -> None:
        """Refuse tokens where features are read, features where tokens are, and tokens that are not embedded."""
        if x.is_floating_point() != self.is_float:
            if x.is_floating_point():
                raise ShapeError(
                    f"this network reads tokens, which are whole numbers, but x is {x.dtype}: pass x.long()"
                )
            raise ShapeError(
                f"this network reads features, which are floats, but x is {x.dtype}: pass x.float(), or embed tokens"
            )
        if self.tokens is not None and x.numel():
            low, high = (int(n) for n in x.aminmax())
            if low < 0 or high >= self.tokens:
                token = low if low < 0 else high
                raise IndexError(f"token {token} is not one of the {self.tokens} that are embedded")
