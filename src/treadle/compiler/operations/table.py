"""The table of PyTorch's operations in terms of the program's, and what its handlers share.

A handler gets what the ATen operation got, with a `Value` in place of each tensor, and returns a value (or a tuple).
"""

from collections.abc import Callable
from typing import Any

import torch

from treadle.compiler.program import BATCH, Value, cast, elementwise, full


class NotRowwise(Exception):
    """An operation lets rows of the batch meet."""


class Unknown(Exception):
    """An operation in a form that the table does not have."""


HANDLERS: dict[str, Callable[..., Any]] = {}
"""By the name of the ATen operation, without its overload."""


def handler(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table."""

    def put(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            HANDLERS[name] = function
        return function

    return put


_DUMMIES: dict[Any, torch.Tensor] = {}


def _dummy(operand: Any) -> Any:
    if not isinstance(operand, Value):
        return operand
    key = (operand.dtype, bool(operand.shape))
    if key not in _DUMMIES:
        _DUMMIES[key] = torch.empty((1,) if operand.shape else (), dtype=operand.dtype, device="cpu")
    return _DUMMIES[key]


def common(*operands: Any, floating: bool = False) -> list[Value]:
    """Tensors and numbers as values of the type that PyTorch would compute in."""
    types = [_dummy(operand) for operand in operands]
    dtype = torch.result_type(types[0], types[1]) if len(types) > 1 else types[0].dtype
    for more in types[2:]:
        dtype = torch.promote_types(dtype, torch.result_type(types[0], more))
    if floating and not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return [cast(o, dtype) if isinstance(o, Value) else full(o, (), dtype) for o in operands]


def checked(value: Value, *operands: Value) -> Value:
    """A result whose batch is where that of each operand is."""
    for operand in operands:
        if operand.has_rows and len(operand.shape) - operand.batch_axis != len(value.shape) - value.batch_axis:
            raise NotRowwise("it sets rows of one operand against features of another")
    return value


def binary(op: str, a: Any, b: Any, floating: bool = False) -> Value:
    """A pointwise operation of two, numbers among them."""
    a, b = common(a, b, floating=floating)
    return checked(elementwise(op, a, b), a, b)


def unary(op: str, a: Value) -> Value:
    """A pointwise operation of one."""
    (a,) = common(a, floating=True)
    return elementwise(op, a)


def axis_of(value: Value, dim: int) -> int:
    """The number of an axis, counted from the front."""
    return dim % max(len(value.shape), 1)


def feature_axis(value: Value, dim: int, what: str) -> int:
    """The same of an axis that may not be the batch; ``what`` goes over it."""
    dim = axis_of(value, dim)
    if value.shape and value.shape[dim] is BATCH:
        raise NotRowwise(f"{what} goes over the batch axis")
    return dim


def axes_of(value: Value, dims: Any) -> list[int]:
    """The axes that an operation is asked to go over: one, some, or all where none is named."""
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return list(range(len(value.shape)))
    return [axis_of(value, d) for d in ([dims] if isinstance(dims, int) else dims)]


def feature_axes(value: Value, dims: Any, what: str) -> list[int]:
    """The same, none of which may be the batch."""
    return [feature_axis(value, dim, what) for dim in axes_of(value, dims)]
