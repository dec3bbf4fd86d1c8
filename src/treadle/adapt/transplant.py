"""Transplanting: initialise a network with the weights of another one of other shapes."""

import collections
import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from treadle.adapt.patterns import close_to, names_it, stands_for
from treadle.adapt.places import STARTS
from treadle.adapt.rules import Copy, Crop, Fresh, Rule, Step, Widen, advice, followed
from treadle.adapt.table import table
from treadle.adapt.weights import tensors_by_name
from treadle.errors import AdaptError


@dataclasses.dataclass(frozen=True)
class Transplanted:
    """How one tensor was initialised: a row of a `TransplantReport`.

    Args:
        name: the tensor, in the network.
        action: ``"copied"``, ``"widened"``, ``"cropped"``, ``"fresh"`` (a rule left it as it was), ``"missing"``
            (nothing was given for it, so it is as it was), ``"tied"`` (it is one with another tensor) or ``"unused"``
            (it is among the given weights alone).
        source: its name among the given weights.
        source_shape: the shape that was given.
        shape: the shape that it has in the network.
        detail: further information, in words.
    """

    name: str
    action: str
    source: str | None
    source_shape: tuple[int, ...] | None
    shape: tuple[int, ...] | None
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class TransplantReport:
    """How every tensor was initialised, and which given weights were not used; it prints as a table.

    Args:
        rows: a `Transplanted` for each.
    """

    rows: tuple[Transplanted, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors there are of each action."""
        return dict(collections.Counter(row.action for row in self.rows))

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


M = TypeVar("M", bound=nn.Module)


def transplant(
    model: M, state_dict: Mapping[str, Tensor] | nn.Module, rules: Mapping[str, Rule] | None = None
) -> tuple[M, TransplantReport]:
    """A copy of a network, initialised with the weights of another one whose names or shapes may differ.

    A tensor with the same name and shape is copied. Whatever differs needs a rule: by pattern, for the names of the
    network's own tensors, the first that names a tensor counts. Nothing happens silently: the report has a row for
    every tensor of both. If anything does not fit, there is no new network.

    Args:
        model: the network to fill. It stays as it was.
        state_dict: the weights: tensors by name, or the network that has them.
        rules: what to do with the tensors that a pattern names: `Copy`, `Widen`, `Crop`, `Fresh`, or several of the
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
    plan = _Plan(given, asked)
    for name, tensor in own.items():
        plan.add(name, tensor)
    plan.check(list(own))
    filled = copy.deepcopy(model)
    targets = filled.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in plan.values.items():
            targets[name].copy_(value)
    return filled, plan.report()


class _Plan:
    """What every tensor gets, decided one by one; ``asked`` has pattern and steps of each that has a rule."""

    def __init__(self, given: dict[str, Tensor], asked: dict[str, tuple[str, tuple[Step, ...]]]):
        self.given, self.asked = given, asked
        self.values: dict[str, Tensor] = {}
        self.rows: dict[str, Transplanted] = {}
        self.unfit: list[str] = []
        self._names: dict[int, str] = {}  # of tensors that may come again under another name, the one that counts

    def add(self, name: str, tensor: Tensor) -> None:
        """Decide what a tensor gets, or under which other name it got it."""
        pattern, steps = self.asked.get(name, ("", ()))
        source = _source(name, pattern, steps)
        found = self.given.get(source)
        first = self._names.get(id(tensor))
        row = None if first is None else self.rows.get(first)
        if first is not None and (found is None or (row is not None and row.action != "missing")):
            taken = None if row is None or row.action == "fresh" else self.given.get(row.source or "")
            other = found is not None and (taken is None or not _equal(found, taken))
            detail = f"one with {first}" + (", so what was given here has no place" if other else "")
            self._note(name, "tied", tensor, None if found is None else source, detail)
            return
        self._names[id(tensor)] = name
        if row is not None:  # nothing was given under the first name
            self.rows[row.name] = dataclasses.replace(row, action="tied", detail=f"one with {name}")
        if steps == (Fresh(),):
            self._note(name, "fresh", tensor, source if found is not None else None)
        elif found is not None:
            self._fill(name, tensor, pattern, steps, source, found)
        elif steps:
            raise AdaptError(
                f"the rule for {pattern!r} wants {source!r} for {name} {list(tensor.shape)}, but the given weights have"
                f" no such tensor{close_to(source, self.given)}: write the name in source=, or Fresh() to leave {name}"
                " as it is"
            )
        else:
            self._note(name, "missing", tensor, None, "nothing was given: as it was")

    def _fill(
        self, name: str, tensor: Tensor, pattern: str, steps: tuple[Step, ...], source: str, found: Tensor
    ) -> None:
        if not steps and found.shape != tensor.shape:
            self.unfit.append(advice(name, found, tensor))
            return
        self.values[name], action, detail = followed(name, pattern, steps, found, tensor)
        if found.dtype != tensor.dtype:
            detail = ", ".join(filter(None, [detail, f"{_word(found.dtype)} to {_word(tensor.dtype)}"]))
        self._note(name, action, tensor, source, detail)

    def _note(self, name: str, action: str, tensor: Tensor, source: str | None, detail: str = "") -> None:
        shape = None if source is None else tuple(self.given[source].shape)
        self.rows[name] = Transplanted(name, action, source, shape, tuple(tensor.shape), detail)

    def check(self, own: list[str]) -> None:
        """Refuse what does not fit, and the weights of another architecture."""
        if not self.values and not self.unfit and any(row.action == "missing" for row in self.rows.values()):
            such = f", such as {next(iter(self.given))!r}" if self.given else ""
            raise AdaptError(
                f"these are the weights of another architecture: of {len(own)} tensors of the network, such as"
                f" {own[0]!r}, none is among the {len(self.given)} that were given{such}; where only names differ,"
                " write a rule such as {'*': td.adapt.Copy('model.*')}"
            )
        if self.unfit:
            more = f" (and {len(self.unfit) - 1} more)" if len(self.unfit) > 1 else ""
            raise AdaptError(f"{self.unfit[0]}{more}")

    def report(self) -> TransplantReport:
        """What became of every tensor, and which of the given weights were not used."""
        used = {row.source for row in self.rows.values()}
        unused = [
            Transplanted(name, "unused", name, tuple(tensor.shape), None, "not in the network")
            for name, tensor in self.given.items()
            if name not in used
        ]
        return TransplantReport((*self.rows.values(), *unused))


def _assigned(rules: dict[str, Any], names: list[str]) -> dict[str, tuple[str, tuple[Step, ...]]]:
    """The pattern and the steps that each tensor gets."""
    asked: dict[str, tuple[str, tuple[Step, ...]]] = {}
    for pattern, rule in rules.items():
        if not isinstance(pattern, str):
            raise AdaptError(f"a pattern is a text such as 'head' or '*.bias', but {pattern!r:.60} was passed")
        steps: tuple[Any, ...] = tuple(rule) if isinstance(rule, Sequence) and not isinstance(rule, str) else (rule,)
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
                " and the first counts; write special rules before general ones"
            )
        asked |= dict.fromkeys(left, (pattern, steps))
    return asked


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.to(b.device, b.dtype), b))


def _source(name: str, pattern: str, steps: tuple[Step, ...]) -> str:
    written = next((step.source for step in steps if not isinstance(step, Fresh) and step.source), None)
    if written is None:
        return name
    groups = list(stands_for(pattern, name) or ())
    stars = written.count("*")
    if len(groups) > pattern.count("*") and stars < len(groups):
        written, stars = written + "*", stars + 1  # a part was named: what is in it goes by its own name
    if stars > len(groups):
        raise AdaptError(
            f"source={written!r} has more * than the pattern {pattern!r}, so it is not known what they stand for"
        )
    for group in groups[:stars]:
        written = written.replace("*", group, 1)
    return written


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
