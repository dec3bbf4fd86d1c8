"""Tensors of one number everywhere."""

import functools
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.operations.table import HANDLERS, handler
from treadle.compiler.program import Value, cast, full


def _constant(number: int, first: Any, *rest: Any, dtype: Any = None, **_: Any) -> Value:
    like = first if isinstance(first, Value) else None
    shape: Any = first if like is None else rest[0] if rest else like.shape
    dtype = dtype or (like.dtype if like is not None else torch.get_default_dtype())
    return full(number, shape, dtype)


handler(*"zeros empty new_zeros new_empty zeros_like empty_like empty_strided new_empty_strided".split())(
    functools.partial(_constant, 0)
)
handler("ones", "new_ones", "ones_like")(functools.partial(_constant, 1))


@handler("full_like", "new_full")
def _full_like(like: Value, *rest: Any, dtype: Any = None, **_: Any) -> Value:
    shape, number = rest if len(rest) == 2 else (like.shape, rest[0])
    return full(number, shape, dtype or like.dtype)


HANDLERS |= {
    "full": lambda shape, number, dtype=None, **_: full(number, shape, dtype or torch.tensor(number).dtype),
    "scalar_tensor": lambda number, dtype=None, **_: full(number, (), dtype or torch.get_default_dtype()),
    "fill": lambda value, number: (
        p.expand(cast(number, value.dtype), value.shape)
        if isinstance(number, Value)
        else full(number, value.shape, value.dtype)
    ),
}
