"""What a program means, in plain PyTorch: one operation after another, slow, differentiable, on any device.

Every engine has to agree with this file.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from treadle.compiler.program import BATCH, Program, Value, between
from treadle.compiler.tracer import Traced

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: getattr(torch, name)
    for name in "neg abs exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid erf floor ceil round trunc sign reciprocal"
    " add sub mul div pow maximum minimum eq ne lt le gt ge where matmul".split()
}
_FUNCTIONS |= {
    "logsigmoid": torch.nn.functional.logsigmoid,
    "not": torch.logical_not,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "dot": torch.matmul,
    "outer": lambda a, g: a.transpose(0, 1) @ g,
    "detach": Tensor.detach,
    "straight_through": lambda value, origin: _overwritten(origin.clone(), value),
    "embedding": lambda table, index: torch.nn.functional.embedding(index, table),
}


def _overwritten(tensor: Tensor, value: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.copy_(value)


def run(program: Program, inputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The outputs of a program for ``rows`` rows."""
    known = {value: inputs[name] for name, value in program.inputs.items() if name in inputs}
    evaluate(program.outputs.values(), known, rows)
    return {name: known[value] for name, value in program.outputs.items()}


def evaluate(
    values: Iterable[Value], known: dict[Value, Tensor], rows: int, device: torch.device | None = None
) -> None:
    """Compute ``values`` and what they are made of, into ``known``; on the device of what is known, unless said."""
    Line(values, known).run(known, rows, device)


class Line:
    """What is to be computed to get from ``given`` to ``outputs``, found once and done many times."""

    def __init__(self, outputs: Iterable[Value], given: Iterable[Value]):
        self.outputs, self.given = tuple(outputs), given
        self._steps = [(value, _function_of(value), value.inputs) for value in between(given, self.outputs)]

    def run(self, known: dict[Value, Tensor], rows: int, device: torch.device | None = None) -> None:
        """Compute them, into ``known``; on the device of what is known, unless said."""
        calls: dict[Any, Any] = {}
        for value, function, inputs in self._steps:
            operands = [known[operand] for operand in inputs]
            known[value] = function(*operands) if function else _one(value, operands, rows, known, calls, device)


def _function_of(value: Value) -> Callable[..., Tensor] | None:
    """What computes a value of its operands alone; None where more has to be known, such as how many rows there are."""
    match value.op:
        case "cast":
            return lambda operand, dtype=value.dtype: operand.to(dtype)
        case "permute":
            return lambda operand, axes=value.axes: operand.permute(axes)
        case "reshape" if BATCH not in value.shape:
            return lambda operand, shape=value.shape: operand.reshape(shape)
        case "cat":
            return lambda *operands, axis=value.axis: torch.cat(operands, axis)
        case "sum":
            return lambda operand, axes=value.axes: operand.sum(axes, keepdim=True)
        case "amax":
            return lambda operand, axes=value.axes: operand.amax(axes, keepdim=True)
        case _:
            return _FUNCTIONS.get(value.op)


def _one(
    value: Value,
    operands: list[Tensor],
    rows: int,
    known: dict[Value, Tensor],
    calls: dict[Any, Any],
    device: torch.device | None,
) -> Tensor:
    shape = [rows if dim is BATCH else dim for dim in value.shape]
    match value.op:
        case "reshape":
            return operands[0].reshape(shape)
        case "slice":
            axis, start, step = value.slice
            stop = start + step * (shape[axis] - 1) + 1 if shape[axis] else start
            return operands[0][(*[slice(None)] * axis, slice(start, stop, step))]
        case "expand":
            return operands[0].expand(shape)
        case "rowsum":
            return operands[0].sum(value.inputs[0].batch_axis, keepdim=True)
        case "full":
            return torch.full(shape, value.number, dtype=value.dtype, device=device or _device(known))
        case "opaque":
            call, index = value.attributes
            key = (call, tuple(map(id, operands)))
            if key not in calls:
                # It was traced on dense tensors, and PyTorch's own code may count on that. What is filled with random
                # numbers in place may stand for other memory of that size as well.
                own = [operand.clone() if call.fills else _dense(operand) for operand in operands]
                calls[key] = (call(own, rows, device or _device(known)), operands)
            result = calls[key][0]
            return result if isinstance(result, Tensor) else result[index]
    raise KeyError(f"the program reads {value.name!r}, which was not passed" if value.op == "input" else value.op)


def _dense(tensor: Tensor) -> Tensor:
    """Without holes, and with nothing put off, such as a change of signs."""
    return tensor.resolve_conj().resolve_neg().contiguous()


def _device(known: Mapping[Value, Tensor]) -> torch.device:
    first = next(iter(known.values()), None)
    return torch.device("cpu") if first is None or isinstance(first, Traced) else first.device
