"""Products of matrices and vectors."""

from typing import Any

from treadle.compiler import program as p
from treadle.compiler.operations.shapes import select, unsqueeze
from treadle.compiler.operations.table import HANDLERS, NotRowwise, binary, handler
from treadle.compiler.program import BATCH, Value


@handler("mm", "matmul")
def matmul(a: Value, b: Value) -> Value:
    """A product of matrices, at most one of which has rows."""
    if a.shape[1] is not b.shape[0] and a.shape[1] != b.shape[0]:  # as PyTorch says it: a step may catch that
        sizes = " and ".join("x".join(map(str, one.shape)) for one in (a, b))
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({sizes})")
    a_rows, b_rows = a.batch_axis, b.batch_axis
    if a_rows == 0 and b_rows == -1:
        return p.dot(a, b)
    if a_rows == -1 and b_rows == 1:
        return p.permute(p.dot(p.permute(b, (1, 0)), p.permute(a, (1, 0))), (1, 0))
    if a_rows == 1 and b_rows == 0:
        return p.outer(p.permute(a, (1, 0)), b)
    if a_rows == b_rows == -1:
        return p.make("matmul", (a, b), (), (a.shape[0], b.shape[1]), a.dtype)
    raise NotRowwise("the product contracts or pairs rows")


@handler("linear")
def _linear(x: Value, weight: Value, bias: Any = None) -> Value:
    product = _tensor_dot(x, p.permute(weight, (1, 0)))
    return product if bias is None else binary("add", product, bias)


def _tensor_dot(x: Value, w: Value) -> Value:
    """[..., K] times [K, N]: one product for each place of the axes between the batch and the features."""
    if len(x.shape) <= 2:
        return matmul(x, w)
    axis = next(i for i, dim in enumerate(x.shape[:-1]) if dim is not BATCH)
    parts = [unsqueeze(_tensor_dot(select(x, axis, i), w), axis) for i in range(x.shape[axis])]
    return p.cat(parts, axis)


@handler("bmm")
def _bmm(a: Value, b: Value) -> Value:
    if a.shape[0] is BATCH or b.shape[0] is BATCH:
        # Each row has a matrix of its own: a sum of products.
        product = binary("mul", unsqueeze(a, 3), unsqueeze(b, 1))
        return p.reduce("sum", product, [2])
    return p.cat([unsqueeze(matmul(select(a, 0, i), select(b, 0, i)), 0) for i in range(a.shape[0])], 0)


HANDLERS |= {
    "mv": lambda a, b: p.reshape(matmul(a, unsqueeze(b, 1)), a.shape[:1]),
    "dot": lambda a, b: p.reduce("sum", binary("mul", a, b), [0]),
    "vdot": lambda a, b: p.reduce("sum", binary("mul", a, b), [0]),
    "addmm": lambda bias, a, b, beta=1, alpha=1: binary(
        "add", binary("mul", matmul(a, b), alpha), binary("mul", bias, beta)
    ),
    "baddbmm": lambda bias, a, b, beta=1, alpha=1: binary(
        "add", binary("mul", bias, beta), binary("mul", _bmm(a, b), alpha)
    ),
}
