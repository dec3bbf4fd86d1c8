"""Transplanting: initialise a network with the weights of another one of other shapes."""

import collections
import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from treadle.adapt.layouts import MergeBiases, Transpose, merged
from treadle.adapt.patterns import close_to, names_it
from treadle.adapt.places import STARTS
from treadle.adapt.rules import CHANGING, Fresh, Rule, Step, Widen, advice, followed, suggests_transposing
from treadle.adapt.source_names import meant, source_name
from treadle.adapt.table import table
from treadle.adapt.trainable import trainable
from treadle.adapt.weights import tensors_by_name
from treadle.errors import AdaptError


@dataclasses.dataclass(frozen=True)
class Transplanted:
    """How one tensor was initialised: a row of a `TransplantReport`.

    Args:
        name: the tensor, in the network.
        action: ``"copied"``, ``"widened"``, ``"cropped"``, ``"merged"`` (a sum of two biases), ``"zeroed"`` (another
            bias has all of it), ``"fresh"`` (a rule left it as it was), ``"missing"`` (nothing was given for it, so it
            is as it was), ``"tied"`` (it is one with another tensor) or ``"unused"`` (it is among the given weights
            alone).
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


@trainable
def transplant(
    model: M, state_dict: Mapping[str, Tensor | np.ndarray] | nn.Module, rules: Mapping[str, Rule] | None = None
) -> tuple[M, TransplantReport]:
    """A copy of a network, initialised with the weights of another one whose names or shapes may differ.

    A tensor with the same name and shape is copied. Whatever differs needs a rule: by pattern, for the names of the
    network's own tensors, the first that names a tensor counts. Nothing happens silently: the report has a row for
    every tensor of both. If anything does not fit, there is no new network.

    Args:
        model: the network to fill. It stays as it was.
        state_dict: the weights: tensors or NumPy arrays by name, or the network that has them.
        rules: what to do with the tensors that a pattern names: `Copy`, `Widen`, `Crop`, `Transpose`, `Gates`, `Part`,
            `MergeBiases`, or several of these, one after another; or `Fresh`. A pattern is a name with ``*`` for
            anything, the first as long as it can be; the name of a part of the network names all that is in it.

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

        An LSTM of Keras, whose arrays are transposed and whose one bias stands for both:

        >>> import numpy as np
        >>> arrays = {"kernel": np.ones((3, 20)), "recurrent_kernel": np.ones((5, 20)), "bias": np.zeros(20)}
        >>> rules = {
        ...     "weight_ih": td.adapt.Transpose(source="kernel"),
        ...     "weight_hh": td.adapt.Transpose(source="recurrent_kernel"),
        ...     "bias_*": td.adapt.MergeBiases("bias"),
        ... }
        >>> cell, report = td.adapt.transplant(td.LSTMCell(3, 5), arrays, rules)
        >>> [f"{row.name}: {row.action} {row.detail}" for row in report][2:]
        ['bias_ih: copied float64 to float32', 'bias_hh: zeroed bias_ih has all of it']
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
    plan.check(own)
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
        self._also_used: set[str] = set()
        self._halves: dict[tuple[str, str], list[str]] = {}  # of one bias for two, by pattern and source, who gets it

    def add(self, name: str, tensor: Tensor) -> None:
        """Decide what a tensor gets, or under which other name it got it."""
        pattern, steps = self.asked.get(name, ("", ()))
        written = next((step.source for step in steps if not isinstance(step, Fresh) and step.source), None)
        source = source_name(name, pattern, written)
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
                f" no such tensor{meant(source, name, pattern, written, self.given)}: write the name in source=, or"
                f" Fresh() to leave {name} as it is"
            )
        else:
            self._note(name, "missing", tensor, None, "nothing was given: as it was")

    def _fill(
        self, name: str, tensor: Tensor, pattern: str, steps: tuple[Step, ...], source: str, found: Tensor
    ) -> None:
        if not steps and found.shape != tensor.shape:
            self.unfit.append(name)
            return
        merging = steps[0] if steps and isinstance(steps[0], MergeBiases) else None
        if merging is not None and merging.second is None:
            halves = self._halves.setdefault((pattern, source), [])
            halves.append(name)
            if len(halves) > 1:
                self.values[name] = torch.zeros_like(tensor)
                self._note(name, "zeroed", tensor, source, f"{halves[0]} has all of it")
                return
        second = "" if merging is None or merging.second is None else source_name(name, pattern, merging.second)
        if merging is not None and second:
            self._also_used.add(second)
            found = merged(merging, pattern, source, second, self.given)
        self.values[name], action, detail = followed(name, pattern, steps, found, tensor)
        if second:
            action, detail = "merged", ", ".join(filter(None, [f"with {second}", detail]))
        if found.dtype != tensor.dtype:
            detail = ", ".join(filter(None, [detail, f"{_word(found.dtype)} to {_word(tensor.dtype)}"]))
        self._note(name, action, tensor, source, detail)

    def _note(self, name: str, action: str, tensor: Tensor, source: str | None, detail: str = "") -> None:
        shape = None if source is None else tuple(self.given[source].shape)
        self.rows[name] = Transplanted(name, action, source, shape, tuple(tensor.shape), detail)

    def check(self, own: dict[str, Tensor]) -> None:
        """Refuse what does not fit, and the weights of another architecture."""
        if not self.values and not self.unfit and any(row.action == "missing" for row in self.rows.values()):
            such = f", such as {next(iter(self.given))!r}" if self.given else ""
            raise AdaptError(
                f"these are the weights of another architecture: of {len(own)} tensors of the network, such as"
                f" {next(iter(own))!r}, none is among the {len(self.given)} that were given{such}; where only names"
                " differ, write a rule such as {'*': td.adapt.Copy('model.*')}"
            )
        if self.unfit:
            first, more = self.unfit[0], f" (and {len(self.unfit) - 1} more)" if len(self.unfit) > 1 else ""
            turned = any(suggests_transposing(self.given[name], own[name]) for name in self.unfit)
            raise AdaptError(f"{advice(first, self.given[first], own[first])}{more}{self._square() if turned else ''}")
        for (pattern, source), halves in self._halves.items():
            if len(halves) != 2:
                raise AdaptError(
                    f"the rule for {pattern!r} turns one bias, {source!r}, into two, but names {', '.join(halves)}:"
                    " write a pattern that names two tensors, such as 'bias_*', or td.adapt.Copy()"
                )

    def _square(self) -> str:
        """A warning of square matrices that are copied as they are, where others are transposed."""
        square = [name for name, row in self.rows.items() if _is_square(row) and name not in self.asked]
        if not square:
            return ""
        which = f"{square[0]} {list(self.rows[square[0]].shape or ())}"
        return (
            f"; a square matrix such as {which} fits either way, so no shape shows whether it is to be transposed too"
        )

    def report(self) -> TransplantReport:
        """What became of every tensor, and which of the given weights were not used."""
        used = {row.source for row in self.rows.values()} | self._also_used
        if any(isinstance(step, Transpose) for _, steps in self.asked.values() for step in steps):
            for name, row in self.rows.items():
                if _is_square(row) and name not in self.asked:
                    detail = ", ".join(filter(None, [row.detail, "square: no shape shows if it is to be transposed"]))
                    self.rows[name] = dataclasses.replace(row, detail=detail)
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
        kinds = CHANGING if len(steps) > 1 else (*CHANGING, Fresh)
        if not steps or not all(isinstance(step, kinds) for step in steps):
            raise AdaptError(
                f"the rule for {pattern!r} is {rule!r:.80}: pass td.adapt.Copy(), Widen(axis), Crop(axis), Transpose(),"
                " Gates(given, wanted), Part(number, of), MergeBiases(source, second), or a list of these, or Fresh()"
            )
        if any(isinstance(step, MergeBiases) for step in steps[1:]):
            raise AdaptError(f"the rule for {pattern!r} merges biases late: write MergeBiases first")
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


def _is_square(row: Transplanted) -> bool:
    shape = row.shape or ()
    return row.action == "copied" and len(shape) == 2 and shape[0] == shape[1] > 1


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
