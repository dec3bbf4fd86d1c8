"""Operations that a program keeps as PyTorch's: they treat rows alike, or draw random numbers."""

from typing import Any

from treadle.compiler.operations.table import NotRowwise
from treadle.compiler.program import BATCH, Value
from treadle.torch_internals import OpOverload, schema_of

FIRST = (
    "convolution avg_pool2d max_pool2d_with_indices avg_pool1d upsample_nearest2d native_group_norm"
    " _adaptive_avg_pool2d reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"
).split()
"""Operations that take the first axis for the batch."""
ALONG = "cumsum cumprod index_select gather sort topk flip".split()
"""Operations along an axis, which may not be the batch."""
ROWWISE = {*FIRST, *ALONG, "embedding"}
"""Operations that treat rows alike, if `check_rowwise` has nothing against their arguments."""
RANDOM = set(
    "bernoulli native_dropout rand randn rand_like randn_like bernoulli_ uniform_ normal_ exponential_ normal randint"
    " randint_like".split()
)
"""Operations that draw random numbers."""


def has_rows(tree: Any) -> bool:
    """Whether the batch is anywhere in what an operation is given."""
    if isinstance(tree, Value):
        return tree.has_rows
    if isinstance(tree, dict):
        return any(map(has_rows, tree.values()))
    return any(map(has_rows, tree)) if isinstance(tree, (list, tuple)) else tree is BATCH


def check_rowwise(function: OpOverload, name: str, given: list[Any], options: dict[str, Any]) -> None:
    """Refuse arguments with which an operation of `ROWWISE` would let rows meet."""
    value = given[0]
    if name in FIRST and not (isinstance(value, Value) and value.batch_axis == 0):
        raise NotRowwise("it takes another axis than the first for the batch")
    if name in ALONG:
        dims = options.get("dim", options.get("dims"))
        if dims is None:
            place = next(i for i, a in enumerate(schema_of(function).arguments) if a.name in ("dim", "dims"))
            dims = given[place] if place < len(given) else -1
        for dim in dims if isinstance(dims, list) else [dims]:
            if value.shape[dim % len(value.shape)] is BATCH:
                raise NotRowwise("it goes over the batch axis")
        if any(isinstance(v, Value) and v.has_rows and v.batch_axis != value.batch_axis for v in given):
            raise NotRowwise("it pairs rows with features")
    if name == "embedding" and has_rows(value):
        raise NotRowwise("it looks rows up in a table of rows")
