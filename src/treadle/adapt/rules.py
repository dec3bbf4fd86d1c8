"""Rules for tensors whose name or shape differs from that of the network to initialise."""

import dataclasses
import math
import typing
from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from treadle.adapt.layouts import (
    Gates,
    Made,
    MergeBiases,
    Part,
    Transpose,
    Where,
    fitting_axes,
    gates_in_order,
    part,
    transposed,
)
from treadle.adapt.places import STARTED, Start
from treadle.errors import AdaptError


@dataclasses.dataclass(frozen=True)
class Copy:
    """Copy a tensor that has another name, or another shape of as many numbers.

    Args:
        source: its name among the given weights; the same name by default. As many ``*`` as the pattern has stand for
            what those stood for, in their order. In another order, or only some of them, by number: ``{1}`` is the
            first, so ``"weight_{2}_l{1}"`` goes with the pattern ``"layer*.weight_*"``.
        reshape: whether to take the numbers in their order into the shape that is wanted, as a linear layer over a
            flattened image becomes a convolution of the image's size.
    """

    source: str | None = None
    reshape: bool = False


@dataclasses.dataclass(frozen=True)
class Widen:
    """Keep a tensor as it is at the beginning of an axis, and initialise the rest of that axis again.

    Args:
        axis: which axis is longer.
        start: how the new part starts; see `Start`. With zeros a network does at first what it did before, whatever the
            new inputs are.
        source: as in `Copy`.
        blocks: of how many equal blocks the axis is made, each of which grows: 4 for the gates of an LSTM.
    """

    axis: int
    start: Start = "zeros"
    source: str | None = None
    blocks: int = 1


@dataclasses.dataclass(frozen=True)
class Crop:
    """Keep the beginning of an axis and drop the rest.

    Args:
        axis: which axis is shorter.
        source: as in `Copy`.
    """

    axis: int
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Fresh:
    """Keep a tensor of the network as it is, whatever the given weights have under its name."""


Changing: TypeAlias = Copy | Widen | Crop | Transpose | Gates | Part | MergeBiases
CHANGING: tuple[type, ...] = typing.get_args(Changing)
Step: TypeAlias = Changing | Fresh
Rule: TypeAlias = Step | Sequence[Changing]
"""What becomes of a tensor; several one after another where more is to be changed than one rule changes."""


def advice(name: str, found: Tensor, tensor: Tensor) -> str:
    """What to write where a tensor has another shape than the one given, and no rule fits."""
    has, wants = list(found.shape), list(tensor.shape)
    steps = _steps(has, wants)
    rule = steps[0] if len(steps) == 1 else f"[{', '.join(steps)}]" if steps else "td.adapt.Fresh()"
    leave = "" if not steps else ", or td.adapt.Fresh() to leave it as it is"
    return (
        f"{name} is {has} in the given weights and {wants} in the network, and no rule says what to do: write"
        f" {{{name!r}: {rule}}}{leave}"
    )


def suggests_transposing(found: Tensor, tensor: Tensor) -> bool:
    """Whether the advice about two shapes begins with a transposition."""
    return any("Transpose" in step for step in _steps(list(found.shape), list(tensor.shape)))


def _steps(has: list[int], wants: list[int]) -> list[str]:
    """The rules that make one shape of another, as they are written."""
    if len(has) == len(wants):
        axes = fitting_axes(has, wants)
        if axes is not None and has != wants:
            return [f"td.adapt.Transpose({'' if len(has) == 2 else axes})"]
        turned = has[::-1]
        if len(has) == 2 and _agreement(turned, wants) > _agreement(has, wants):
            return ["td.adapt.Transpose()", *_resizing(turned, wants)]
        return _resizing(has, wants)
    return ["td.adapt.Copy(reshape=True)"] if math.prod(has) == math.prod(wants) else []


def _agreement(has: list[int], wants: list[int]) -> int:
    return sum(old == new for old, new in zip(has, wants, strict=True))


def _resizing(has: list[int], wants: list[int]) -> list[str]:
    sizes = enumerate(zip(has, wants, strict=True))
    return [f"td.adapt.{'Widen' if new > old else 'Crop'}(axis={axis})" for axis, (old, new) in sizes if old != new]


def followed(
    name: str, pattern: str, steps: tuple[Step, ...], found: Tensor, tensor: Tensor
) -> tuple[Tensor, str, str]:
    """What the steps of a rule make of a tensor that was found: its new value, what was done, and how."""
    value, actions, details = found.detach().to(tensor.device, tensor.dtype), [], []
    wants = tuple(tensor.shape)
    for step in steps:
        value, action, detail = _APPLY[type(step)](step, value, tensor.detach(), Where(name, pattern))
        actions.append(action)
        details.append(detail)
    if tuple(value.shape) != wants:
        raise AdaptError(
            f"the rule for {pattern!r} makes {list(value.shape)} of {name}, which is {list(found.shape)} in the given"
            f" weights, but the network wants {list(wants)}: {advice(name, value, tensor).split(': ', 1)[1]}"
        )
    action = next((a for a in ("cropped", "widened") if a in actions), "copied")
    return value, action, "; ".join(filter(None, details))


def _copied(step: Copy, value: Tensor, tensor: Tensor, where: Where) -> Made:
    if value.shape == tensor.shape:
        return value, "copied", ""
    if not step.reshape:
        raise where.refuse(value, tensor, f"Copy needs equal shapes; write {_rule_of(where.name, value, tensor)}")
    if value.numel() != tensor.numel():
        raise where.refuse(value, tensor, f"{value.numel():,} numbers cannot be laid out as {tensor.numel():,}")
    return value.reshape(tensor.shape), "copied", "reshaped"


def _rule_of(name: str, value: Tensor, tensor: Tensor) -> str:
    return advice(name, value, tensor).split("write ", 1)[1]


def _axis(step: Widen | Crop, value: Tensor, tensor: Tensor, where: Where) -> int:
    if value.ndim != tensor.ndim or not isinstance(step.axis, int) or not -value.ndim <= step.axis < value.ndim:
        raise where.refuse(value, tensor, f"there is no axis {step.axis} that both have; {_or(where, value, tensor)}")
    return step.axis % value.ndim


def _or(where: Where, value: Tensor, tensor: Tensor) -> str:
    same = value.shape == tensor.shape
    return "leave the rule out" if same else f"write {_rule_of(where.name, value, tensor)}"


def _widened(step: Widen, value: Tensor, tensor: Tensor, where: Where) -> Made:
    axis = _axis(step, value, tensor, where)
    old, new, blocks = value.shape[axis], tensor.shape[axis], step.blocks
    if new <= old:
        raise where.refuse(value, tensor, f"axis {axis} is not longer there; {_or(where, value, tensor)}")
    if not isinstance(blocks, int) or blocks < 1 or old % blocks or new % blocks:
        raise where.refuse(value, tensor, f"axis {axis} is not made of {blocks} equal blocks")
    shape = (*value.shape[:axis], new, *value.shape[axis + 1 :])
    if step.start == "xavier" and len(shape) < 2:
        raise where.refuse(value, tensor, "Xavier needs a fan in and a fan out: write start='zeros' or 'fresh'")
    if step.start == "fresh" and tuple(tensor.shape) != shape:
        raise where.refuse(value, tensor, "'fresh' takes the new part from the network, whose other axes differ too")
    made = STARTED[step.start](value, tensor, shape, axis)
    by_block = made.unflatten(axis, (blocks, new // blocks))
    by_block.narrow(axis + 1, 0, old // blocks).copy_(value.unflatten(axis, (blocks, old // blocks)))
    inside = f" in {blocks} blocks" if blocks > 1 else ""
    return by_block.flatten(axis, axis + 1), "widened", f"axis {axis}: {old} to {new}{inside}, new part {step.start}"


def _cropped(step: Crop, value: Tensor, tensor: Tensor, where: Where) -> Made:
    axis = _axis(step, value, tensor, where)
    old, new = value.shape[axis], tensor.shape[axis]
    if new >= old:
        raise where.refuse(value, tensor, f"axis {axis} is not shorter there; {_or(where, value, tensor)}")
    return value.narrow(axis, 0, new), "cropped", f"axis {axis}: {old} to {new}"


_APPLY: dict[type, Callable[..., Made]] = {
    Copy: _copied,
    Widen: _widened,
    Crop: _cropped,
    Transpose: transposed,
    Gates: gates_in_order,
    Part: part,
    MergeBiases: lambda step, value, tensor, where: (value, "copied", ""),  # whose sum it is
    Fresh: lambda step, value, tensor, where: (tensor, "fresh", ""),
}
