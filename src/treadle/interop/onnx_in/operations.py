"""The nodes around recurrent ones, as PyTorch does them: what classifiers, taggers and speech models have."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class NodeCall:
    """A node and what it is given.

    Args:
        inputs: None where an input is left out.
        attributes: those of the node.
        opset: the version of the operators; some are said otherwise in old ones.
    """

    inputs: list[Any]
    attributes: Mapping[str, Any]
    opset: int

    def __getitem__(self, n: int) -> Any:
        return self.inputs[n] if n < len(self.inputs) else None

    def numbers(self, name: str, n: int) -> list[int] | None:
        """Whole numbers that are an attribute in old files and the n-th input in new ones."""
        if self[n] is not None:
            return [int(number) for number in self[n].reshape(-1).tolist()]
        given = self.attributes.get(name)
        return None if given is None else list(given)

    def axis(self, usual: int) -> int:
        """The attribute ``axis``."""
        return self.attributes.get("axis", usual)


TYPES = {1: torch.float32, 11: torch.float64, 7: torch.int64, 6: torch.int32, 9: torch.bool, 2: torch.uint8}
TYPES |= {3: torch.int8, 5: torch.int16, 10: torch.float16, 16: torch.bfloat16}
"""The types of tensors, by ONNX's numbers."""


NUMBERS = {
    "Squeeze": {1: "axes"}, "Unsqueeze": {1: "axes"}, "Reshape": {1: "shape"}, "Expand": {1: "shape"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"}, "Split": {1: "split"},
    **{f"Reduce{kind}": {1: "axes"} for kind in ("Mean", "Sum", "Max", "Min")},
}  # fmt: skip
"""Inputs that are whole numbers about shapes: where they are constants, they are attributes here, as in old files."""


def _unsqueeze(call: NodeCall) -> Tensor:
    x, axes = call[0], call.numbers("axes", 1) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(call: NodeCall) -> Tensor:
    axes = call.numbers("axes", 1)
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


def _reshape(call: NodeCall) -> Tensor:
    x, sizes = call[0], call.numbers("shape", 1) or []
    if not call.attributes.get("allowzero", 0):
        sizes = [x.shape[n] if size == 0 else size for n, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(call: NodeCall) -> Tensor:
    axis = call.axis(1) % (call[0].ndim + 1)
    return call[0].reshape(int(np.prod(call[0].shape[:axis])), -1)


def _slice(call: NodeCall) -> Tensor:
    x = call[0]
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = range(x.shape[axis])[slice(start, end, step)]
        if step < 0 and end < -x.shape[axis]:
            chosen = range(x.shape[axis])[slice(start, None, step)]
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(chosen.start, chosen.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.long, device=x.device))
    return x


def _split(call: NodeCall) -> tuple[Tensor, ...]:
    x, axis = call[0], call.axis(0)
    sizes = call.numbers("split", 1)
    if sizes is None:
        count = call.attributes["num_outputs"]
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - each * n) for n in range(count)]
    return x.split(sizes, axis)


def _softmax(call: NodeCall, function: Callable[..., Tensor]) -> Tensor:
    x = call[0]
    if call.opset >= 13:
        return function(x, call.axis(-1))
    axis = call.axis(1) % x.ndim  # of old, over all axes from this one on
    return function(x.reshape([*x.shape[:axis], -1]), -1).reshape(x.shape)


def _product(a: Tensor, b: Tensor) -> Tensor:
    # With a matrix on its right-hand side it is a linear layer, whose rows do not meet, wherever they lie.
    return F.linear(a, b.T) if a.ndim > 2 and b.ndim == 2 else a @ b


def _gemm(call: NodeCall) -> Tensor:
    a, b, of = call[0], call[1], call.attributes
    a, b = (a.T if of.get("transA", 0) else a), (b.T if of.get("transB", 0) else b)
    product = of.get("alpha", 1.0) * (a @ b)
    return product if call[2] is None else product + of.get("beta", 1.0) * call[2]


def _reduce(call: NodeCall, function: Callable[..., Tensor]) -> Tensor:
    axes, keep = call.numbers("axes", 1), bool(call.attributes.get("keepdims", 1))
    if axes is None or not axes:
        if call.attributes.get("noop_with_empty_axes", 0):
            return call[0]
        axes = list(range(call[0].ndim))
    return function(call[0], tuple(axes), keep)


def _clip(call: NodeCall) -> Tensor:
    low = call.attributes.get("min") if call[1] is None else call[1]
    high = call.attributes.get("max") if call[2] is None else call[2]
    return call[0] if low is None and high is None else torch.clamp(call[0], low, high)


def _gather(call: NodeCall) -> Tensor:
    x, axis = call[0], call.axis(0)
    if call[1] is None:  # one that is a constant
        return x.select(axis, call.attributes["index"])
    index = call[1].long()
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return F.embedding(torch.where(index < 0, index + len(x), index), x)
    index = torch.where(index < 0, index + x.shape[axis], index)
    found = x.index_select(axis, index.reshape(-1))
    axis %= x.ndim
    return found.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])  # which may be empty


def _expand(call: NodeCall) -> Tensor:
    shape = torch.broadcast_shapes(call[0].shape, call.numbers("shape", 1) or ())
    return call[0].expand(shape)


def _shape(call: NodeCall) -> Tensor:
    sizes = list(call[0].shape)[call.attributes.get("start", 0) : call.attributes.get("end", None)]
    return torch.tensor(sizes, dtype=torch.long)


def _constant_of_shape(call: NodeCall) -> Tensor:
    value = torch.zeros(1) if call[1] is None else call[1]
    return torch.full(call.numbers("", 0) or [], value.item(), dtype=value.dtype)


def _layer_norm(call: NodeCall) -> Tensor:
    axis = call.axis(-1) % call[0].ndim
    return F.layer_norm(call[0], call[0].shape[axis:], call[1], call[2], call.attributes.get("epsilon", 1e-5))


def _batch_norm(call: NodeCall) -> Tensor:
    return F.batch_norm(call[0], call[3], call[4], call[1], call[2], eps=call.attributes.get("epsilon", 1e-5))


def _convolution(call: NodeCall) -> Tensor:
    x, of = call[0], call.attributes
    count = x.ndim - 2
    pads = list(of.get("pads", [0] * 2 * count))
    if of.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError(f"auto_pad={of['auto_pad']}")
    if any(pads):
        x = F.pad(x, [pads[place + axis] for axis in reversed(range(count)) for place in (0, count)])
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[count]
    strides, dilations = of.get("strides", [1] * count), of.get("dilations", [1] * count)
    return function(x, call[1], call[2], tuple(strides), 0, tuple(dilations), of.get("group", 1))


def _cast(call: NodeCall) -> Tensor:
    return call[0].to(TYPES[call.attributes["to"]])


def _divided(call: NodeCall) -> Tensor:
    a, b = call[0], call[1]
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _prelu(call: NodeCall) -> Tensor:
    return torch.where(call[0] >= 0, call[0], call[1] * call[0])


def _arg_max(call: NodeCall) -> Tensor:
    return call[0].argmax(call.axis(0), keepdim=bool(call.attributes.get("keepdims", 1)))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[NodeCall], Tensor]:
    def of_all(call: NodeCall) -> Tensor:
        found = call[0]
        for other in call.inputs[1:]:
            found = function(found, other)
        return found

    return of_all


def _pairs(**functions: Callable[..., Any]) -> dict[str, Callable[[NodeCall], Any]]:
    return {name: lambda call, function=function: function(call[0], call[1]) for name, function in functions.items()}


def _singles(**functions: Callable[..., Any]) -> dict[str, Callable[[NodeCall], Any]]:
    return {name: lambda call, function=function: function(call[0]) for name, function in functions.items()}


OPERATIONS: dict[str, Callable[[NodeCall], Any]] = {
    **_singles(
        Identity=lambda x: x, Dropout=lambda x: x, Relu=torch.relu, Tanh=torch.tanh, Sigmoid=torch.sigmoid,
        Exp=torch.exp, Log=torch.log, Sqrt=torch.sqrt, Neg=torch.neg, Abs=torch.abs, Floor=torch.floor, Ceil=torch.ceil,
        Erf=torch.erf, Reciprocal=torch.reciprocal, Sign=torch.sign, Not=torch.logical_not, Softplus=F.softplus,
        Softsign=F.softsign, Sin=torch.sin, Cos=torch.cos, Round=torch.round,
    ),
    **_pairs(
        Add=torch.add, Sub=torch.sub, Mul=torch.mul, Pow=torch.pow, MatMul=_product, Equal=torch.eq, Less=torch.lt,
        LessOrEqual=torch.le, Greater=torch.gt, GreaterOrEqual=torch.ge, And=torch.logical_and, Or=torch.logical_or,
    ),
    "Div": _divided,
    "Min": _folded(torch.minimum),
    "Max": _folded(torch.maximum),
    "Sum": _folded(torch.add),
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda call: call[0].permute(call.attributes.get("perm") or list(range(call[0].ndim))[::-1]),
    "Concat": lambda call: torch.cat(call.inputs, call.attributes["axis"]),
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
    "Range": lambda call: torch.arange(*(n.item() for n in call.inputs), dtype=call[0].dtype),
    "Cast": _cast,
    "Clip": _clip,
    "Gemm": _gemm,
    "Softmax": lambda call: _softmax(call, torch.softmax),
    "LogSoftmax": lambda call: _softmax(call, torch.log_softmax),
    "LeakyRelu": lambda call: F.leaky_relu(call[0], call.attributes.get("alpha", 0.01)),
    "Elu": lambda call: F.elu(call[0], call.attributes.get("alpha", 1.0)),
    "HardSigmoid": lambda call: (call.attributes.get("alpha", 0.2) * call[0] + call.attributes.get("beta", 0.5)).clamp(
        0, 1
    ),
    "Gelu": lambda call: F.gelu(call[0], approximate=call.attributes.get("approximate", "none")),
    "PRelu": _prelu,
    "ReduceMean": lambda call: _reduce(call, torch.mean),
    "ReduceSum": lambda call: _reduce(call, torch.sum),
    "ReduceMax": lambda call: _reduce(call, torch.amax),
    "ReduceMin": lambda call: _reduce(call, torch.amin),
    "ArgMax": _arg_max,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
}  # fmt: skip
"""By the operator's name."""
