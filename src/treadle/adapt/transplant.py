"""The weights of one network in another that has other shapes."""

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from treadle.adapt.patterns import close_to, names_it, stands_for
from treadle.adapt.table import table
from treadle.adapt.weights import tensors_by_name
from treadle.errors import AdaptError

M = TypeVar("M", bound=nn.Module)

Start: TypeAlias = Literal["zeros", "xavier", "mean", "fresh"]
"""How new weights start: at zero, uniform as Glorot and Bengio drew them for the fan of the tensor, as the mean of the
old ones along the axis, or as the network that is filled had them."""

STARTS = ("zeros", "xavier", "mean", "fresh")


@dataclasses.dataclass(frozen=True)
class Copy:
    """Copy a tensor that has another name, or another shape of as many numbers.

    Args:
        source: its name among the given weights; a ``*`` in it stands for what the ``*`` of the pattern stood for. The
            same name by default.
        reshape: whether to take the numbers in their order into the shape that is wanted, as a linear layer over a
            flattened image becomes a convolution of the image's size.
    """

    source: str | None = None
    reshape: bool = False


@dataclasses.dataclass(frozen=True)
class Widen:
    """Keep a tensor as it is at the beginning of an axis, and start the rest of that axis anew.

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
    """Take the beginning of an axis and leave the rest.

    Args:
        axis: which axis is shorter.
        source: as in `Copy`.
    """

    axis: int
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Fresh:
    """Leave a tensor as the network that is filled has it, whatever the given weights have under its name."""


Rule: TypeAlias = Copy | Widen | Crop | Fresh | Sequence[Copy | Widen | Crop]
"""What becomes of a tensor; several one after another where more than one axis differs."""


@dataclasses.dataclass(frozen=True)
class Transplanted:
    """What became of one tensor: a row of a `TransplantReport`.

    Args:
        name: the tensor, in the network.
        action: ``"copied"``, ``"widened"``, ``"cropped"``, ``"fresh"`` (a rule left it as it was), ``"missing"``
            (nothing was given for it, so it is as it was), ``"tied"`` (it is one with another tensor) or ``"unused"``
            (it is among the given weights alone).
        source: its name among the given weights.
        source_shape: the shape that was given.
        shape: the shape that it has in the network.
        detail: what else there is to say, in words.
    """

    name: str
    action: str
    source: str | None
    source_shape: tuple[int, ...] | None
    shape: tuple[int, ...] | None
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class TransplantReport:
    """What became of every tensor, in a network and among the weights that were given; it prints as a table.

    Args:
        rows: a `Transplanted` for each.
    """

    rows: tuple[Transplanted, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors there are of each action."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.action] = found.get(row.action, 0) + 1
        return found

    def names(self, action: str) -> list[str]:
        """The tensors with which this was done: ``report.names("missing")``."""
        return [row.name for row in self.rows if row.action == action]

    def __getitem__(self, name: str) -> Transplanted:
        for row in self.rows:
            if row.name == name and row.action != "unused":
                return row
        raise KeyError(name)

    def __iter__(self) -> Iterator[Transplanted]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        def shaped(shape: tuple[int, ...] | None) -> str:
            return "" if shape is None else str(list(shape))

        rows = [
            (
                row.name,
                row.action,
                "" if row.source in (None, row.name) else str(row.source),
                shaped(row.source_shape),
                shaped(row.shape),
                row.detail,
            )
            for row in self.rows
        ]
        counts = ", ".join(f"{count} {action}" for action, count in self.counts.items())
        return f"{table(('tensor', 'action', 'from', 'given', 'network', ''), rows)}\n{counts}"

    __repr__ = __str__


def transplant(
    model: M, state_dict: Mapping[str, Tensor] | nn.Module, rules: Mapping[str, Rule] | None = None
) -> tuple[M, TransplantReport]:
    """A copy of a network with the weights of another one, of which some tensors have other names or shapes.

    A tensor with the same name and shape is copied. Whatever differs needs a rule: by pattern, for the names of the
    network's own tensors, the first that names a tensor counts. Nothing happens silently: the report has a row for
    every tensor of both. And nothing happens by halves: if anything does not fit, there is no new network.

    Args:
        model: the network to fill. It stays as it was.
        state_dict: the weights: tensors by name, or the network that has them.
        rules: what becomes of the tensors that a pattern names: `Copy`, `Widen`, `Crop`, `Fresh`, or several of the
            first three, one after another. A pattern is a name with ``*`` for anything; the name of a part of the
            network names all that is in it.

    Returns:
        The new network, on the device and in the precision of ``model``, and a `TransplantReport`. What nothing was
        given for is ``"missing"`` in it and starts as it did in ``model``.

    Raises:
        AdaptError: shapes differ and no rule says what to do, a rule does not fit or names nothing, or nothing at all
            fits because the weights are those of another architecture.
        TypeError: ``state_dict`` holds something else than tensors, such as a whole checkpoint.

    Example:
        A convolution that was trained on three channels, now for five:

        >>> import torch, treadle as td
        >>> def network(channels, classes):
        ...     return torch.nn.Sequential(
        ...         torch.nn.Conv2d(channels, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, classes, 1)
        ...     )
        >>> trained = network(3, 21)
        >>> rules = {"0.weight": td.adapt.Widen(axis=1, start="zeros"), "2": td.adapt.Fresh()}
        >>> model, report = td.adapt.transplant(network(5, 2), trained.state_dict(), rules)
        >>> print(report)
        tensor    action   from  given          network
        0.weight  widened        [8, 3, 3, 3]   [8, 5, 3, 3]  axis 1: 3 to 5, new part zeros
        0.bias    copied         [8]            [8]
        2.weight  fresh          [21, 8, 1, 1]  [2, 8, 1, 1]
        2.bias    fresh          [21]           [2]
        1 widened, 1 copied, 2 fresh
        >>> torch.equal(model[0].weight[:, :3], trained[0].weight)
        True
    """
    if isinstance(state_dict, str | os.PathLike):
        raise TypeError(
            f"transplant takes tensors by name, but was given a {type(state_dict).__name__}: read a file first, with"
            " torch.load(path, weights_only=True) or safetensors.torch.load_file(path)"
        )
    given = tensors_by_name(state_dict, "transplant")
    wanted = model.state_dict(keep_vars=True)
    own = {name: tensor for name, tensor in wanted.items() if isinstance(tensor, Tensor)}
    asked = _assigned(dict(rules or {}), list(own))
    plan: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    left: set[str] = set()
    rows: list[Transplanted] = []
    unfit: list[str] = []
    first_names: dict[int, str] = {}
    for name, tensor in own.items():
        shape = tuple(tensor.shape)
        pattern, steps = asked.get(name, ("", ()))
        source = _source(name, pattern, steps)
        found = given.get(source)
        found_shape = None if found is None else tuple(found.shape)
        first = first_names.get(id(tensor))
        if first is not None and (first in plan or first in left or found is None):
            took = given.get(sources.get(first, ""))
            other = found is not None and (took is None or not _equal(found, took))
            detail = f"one with {first}" + (", so what was given here has no place" if other else "")
            rows.append(Transplanted(name, "tied", None if found is None else source, found_shape, shape, detail))
            continue
        first_names[id(tensor)] = name
        if first is not None:  # nothing was given under the first name
            place = next(i for i, row in enumerate(rows) if row.name == first)
            rows[place] = dataclasses.replace(rows[place], action="tied", detail=f"one with {name}")
        if steps == (Fresh(),):
            left.add(name)
            rows.append(Transplanted(name, "fresh", source if found is not None else None, found_shape, shape))
        elif found is None and steps:
            raise AdaptError(
                f"the rule for {pattern!r} wants {source!r} for {name} {list(shape)}, but the given weights have no"
                f" such tensor{close_to(source, given)}: write the name in source=, or Fresh() to leave {name} as it is"
            )
        elif found is None:
            rows.append(Transplanted(name, "missing", None, None, shape, "nothing was given: as it was"))
        elif not steps and found_shape != shape:
            unfit.append(_advice(name, found, tensor))
        else:
            value, action, detail = _made(name, pattern, steps, found, tensor)
            if found.dtype != tensor.dtype:
                detail = ", ".join(filter(None, [detail, f"{_word(found.dtype)} to {_word(tensor.dtype)}"]))
            plan[name], sources[name] = value, source
            rows.append(Transplanted(name, action, source, found_shape, shape, detail))
    if not plan and not unfit and any(row.action == "missing" for row in rows):
        such = f", such as {next(iter(given))!r}" if given else ""
        raise AdaptError(
            f"these are the weights of another architecture: of {len(own)} tensors of the network, such as"
            f" {next(iter(own))!r}, none is among the {len(given)} that were given{such}; where only names differ,"
            " write a rule such as {'*': td.adapt.Copy('model.*')}"
        )
    if unfit:
        more = f" (and {len(unfit) - 1} more)" if len(unfit) > 1 else ""
        raise AdaptError(f"{unfit[0]}{more}")
    used = {row.source for row in rows if row.source is not None}
    for name, tensor in given.items():
        if name not in used:
            rows.append(Transplanted(name, "unused", name, tuple(tensor.shape), None, "not in the network"))
    filled = copy.deepcopy(model)
    targets = filled.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in plan.items():
            targets[name].copy_(value)
    return filled, TransplantReport(tuple(rows))


def _assigned(rules: dict[str, Any], names: list[str]) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """The pattern and the steps that each tensor gets."""
    asked: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for pattern, rule in rules.items():
        if not isinstance(pattern, str):
            raise AdaptError(f"a pattern is a text such as 'head' or '*.bias', but {pattern!r:.60} was passed")
        steps = tuple(rule) if isinstance(rule, Sequence) and not isinstance(rule, str) else (rule,)
        kinds = (Copy, Widen, Crop) if len(steps) > 1 else (Copy, Widen, Crop, Fresh)
        if not steps or not all(isinstance(step, kinds) for step in steps):
            raise AdaptError(
                f"the rule for {pattern!r} is {rule!r:.80}: pass td.adapt.Copy(), Widen(axis), Crop(axis) or Fresh(),"
                " or a list of the first three"
            )
        for step in steps:
            if not isinstance(source := getattr(step, "source", None), str | None):
                raise AdaptError(f"the rule for {pattern!r} has source={source!r:.60}, which is no name of a tensor")
            if isinstance(step, Widen) and step.start not in STARTS:
                raise AdaptError(
                    f"the rule for {pattern!r} starts its new part as {step.start!r}: write one of {', '.join(STARTS)}"
                )
        named = [name for name in names if names_it(pattern, name)]
        if not named:
            raise AdaptError(f"the rule for {pattern!r} names no tensor of the network{close_to(pattern, names)}")
        left = [name for name in named if name not in asked]
        if not left:
            raise AdaptError(
                f"the rule for {pattern!r} comes too late: {named[0]} has the rule for {asked[named[0]][0]!r} already,"
                " and the first counts; write what is special before what is general"
            )
        asked |= dict.fromkeys(left, (pattern, steps))
    return asked


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.to(b.device, b.dtype), b))


def _source(name: str, pattern: str, steps: tuple[Any, ...]) -> str:
    written = next((step.source for step in steps if getattr(step, "source", None)), None)
    if written is None:
        return name
    groups = list(stands_for(pattern, name) or ())
    stars = written.count("*")
    if len(groups) > pattern.count("*") and stars < len(groups):
        written, stars = written + "*", stars + 1  # a part was named: what is in it goes by its own name
    if stars > len(groups):
        raise AdaptError(
            f"source={written!r} has more * than the pattern {pattern!r}, so nobody can say what they stand for"
        )
    for group in groups[:stars]:
        written = written.replace("*", group, 1)
    return written


def _advice(name: str, found: Tensor, tensor: Tensor) -> str:
    has, wants = list(found.shape), list(tensor.shape)
    steps = []
    if len(has) == len(wants):
        for axis, (old, new) in enumerate(zip(has, wants, strict=True)):
            if old != new:
                steps.append(f"td.adapt.{'Widen' if new > old else 'Crop'}(axis={axis})")
    elif math.prod(has) == math.prod(wants):
        steps.append("td.adapt.Copy(reshape=True)")
    rule = steps[0] if len(steps) == 1 else f"[{', '.join(steps)}]" if steps else "td.adapt.Fresh()"
    leave = "" if not steps else ", or td.adapt.Fresh() to leave it as it is"
    return (
        f"{name} is {has} in the given weights and {wants} in the network, and no rule says what to do: write"
        f" {{{name!r}: {rule}}}{leave}"
    )


def _made(name: str, pattern: str, steps: tuple[Any, ...], found: Tensor, tensor: Tensor) -> tuple[Tensor, str, str]:
    """The new value of a tensor, what was done, and how."""
    value, actions, details = found.detach().to(tensor.device, tensor.dtype), [], []
    wants = tuple(tensor.shape)
    for step in steps:
        value, action, detail = _APPLY[type(step)](step, value, tensor.detach(), _Where(name, pattern))
        actions.append(action)
        details.append(detail)
    if tuple(value.shape) != wants:
        raise AdaptError(
            f"the rule for {pattern!r} makes {list(value.shape)} of {name}, which is {list(found.shape)} in the given"
            f" weights, but the network wants {list(wants)}: {_advice(name, value, tensor).split(': ', 1)[1]}"
        )
    action = next((a for a in ("cropped", "widened") if a in actions), "copied")
    return value, action, "; ".join(filter(None, details))


@dataclasses.dataclass(frozen=True)
class _Where:
    name: str
    pattern: str

    def refuse(self, value: Tensor, tensor: Tensor, why: str) -> AdaptError:
        return AdaptError(
            f"the rule for {self.pattern!r} does not fit {self.name}, which is {list(value.shape)} in the given weights"
            f" and {list(tensor.shape)} in the network: {why}"
        )


def _copied(step: Copy, value: Tensor, tensor: Tensor, where: _Where) -> tuple[Tensor, str, str]:
    if value.shape == tensor.shape:
        return value, "copied", ""
    if not step.reshape:
        raise where.refuse(value, tensor, f"Copy needs equal shapes; write {_rule_of(where.name, value, tensor)}")
    if value.numel() != tensor.numel():
        raise where.refuse(value, tensor, f"{value.numel():,} numbers cannot be laid out as {tensor.numel():,}")
    return value.reshape(tensor.shape), "copied", "reshaped"


def _rule_of(name: str, value: Tensor, tensor: Tensor) -> str:
    return _advice(name, value, tensor).split("write ", 1)[1]


def _axis(step: Any, value: Tensor, tensor: Tensor, where: _Where) -> int:
    if value.ndim != tensor.ndim or not isinstance(step.axis, int) or not -value.ndim <= step.axis < value.ndim:
        raise where.refuse(value, tensor, f"there is no axis {step.axis} that both have; {_or(where, value, tensor)}")
    return step.axis % value.ndim


def _or(where: _Where, value: Tensor, tensor: Tensor) -> str:
    same = value.shape == tensor.shape
    return "leave the rule out" if same else f"write {_rule_of(where.name, value, tensor)}"


def _widened(step: Widen, value: Tensor, tensor: Tensor, where: _Where) -> tuple[Tensor, str, str]:
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


def _cropped(step: Crop, value: Tensor, tensor: Tensor, where: _Where) -> tuple[Tensor, str, str]:
    axis = _axis(step, value, tensor, where)
    old, new = value.shape[axis], tensor.shape[axis]
    if new >= old:
        raise where.refuse(value, tensor, f"axis {axis} is not shorter there; {_or(where, value, tensor)}")
    return value.narrow(axis, 0, new), "cropped", f"axis {axis}: {old} to {new}"


def _left(step: Fresh, value: Tensor, tensor: Tensor, where: _Where) -> tuple[Tensor, str, str]:
    return tensor, "fresh", ""


_APPLY: dict[type, Callable[..., tuple[Tensor, str, str]]] = {
    Copy: _copied,
    Widen: _widened,
    Crop: _cropped,
    Fresh: _left,
}


def _xavier(value: Tensor, tensor: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    bound = math.sqrt(6 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
    return value.new_empty(shape).uniform_(-bound, bound)


STARTED: dict[str, Callable[[Tensor, Tensor, tuple[int, ...], int], Tensor]] = {
    "zeros": lambda value, tensor, shape, axis: value.new_zeros(shape),
    "xavier": _xavier,
    "mean": lambda value, tensor, shape, axis: value.mean(axis, keepdim=True).expand(shape).clone(),
    "fresh": lambda value, tensor, shape, axis: tensor.clone(),
}


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
