"""What changed between two networks."""

import collections
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from treadle.adapt.table import table
from treadle.adapt.weights import read_weights, tensors_by_name
from treadle.errors import AdaptError


@dataclasses.dataclass(frozen=True)
class TensorDifference:
    """What changed in one tensor.

    Args:
        name: the tensor.
        change: ``"same"``; ``"changed"``; ``"shape"``; ``"added"``, if the second alone has it; or ``"removed"``.
        before: the shape in the first; None if it is not there.
        after: the shape in the second; None if it is not there.
        distance: the norm of the difference, relative to that of the first; None where shapes differ.
    """

    name: str
    change: str
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    distance: float | None

    @property
    def layer(self) -> str:
        """The part of the network that it belongs to."""
        return self.name.rpartition(".")[0]


@dataclasses.dataclass(frozen=True)
class Difference:
    """What changed between two networks, tensor by tensor; it prints as a table of layers.

    Args:
        tensors: a `TensorDifference` for every tensor of either.
    """

    tensors: tuple[TensorDifference, ...]

    @property
    def layers(self) -> dict[str, tuple[TensorDifference, ...]]:
        """The tensors by the layer that they belong to."""
        found: dict[str, list[TensorDifference]] = {}
        for tensor in self.tensors:
            found.setdefault(tensor.layer, []).append(tensor)
        return {layer: tuple(tensors) for layer, tensors in found.items()}

    @property
    def changed(self) -> list[str]:
        """The layers in which anything is not the same."""
        return [layer for layer, tensors in self.layers.items() if any(tensor.change != "same" for tensor in tensors)]

    def __bool__(self) -> bool:
        return bool(self.changed)

    def __iter__(self) -> Iterator[TensorDifference]:
        return iter(self.tensors)

    def __getitem__(self, name: str) -> TensorDifference:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def __str__(self) -> str:
        rows = []
        for layer, tensors in self.layers.items():
            counts = collections.Counter(tensor.change for tensor in tensors)
            distances = [tensor.distance for tensor in tensors if tensor.distance is not None]
            words = [_words(t) for t in tensors if t.change in ("shape", "added", "removed")]
            said = ", ".join(change if len(counts) == 1 else f"{n} {change}" for change, n in counts.items())
            rows.append((layer or "(itself)", said, f"{max(distances):.3g}" if distances else "", ", ".join(words)))
        return table(("layer", "", "by at most", ""), rows, right=(2,))

    __repr__ = __str__


def diff(a: Any, b: Any) -> Difference:
    """What changed between two networks, or what was saved of them, layer by layer.

    Args:
        a: the first: a network, its tensors by name, or the path of a file: one of `treadle.save`, a checkpoint of a
            training, another safetensors file, or a state dict that `torch.save` wrote. Nothing in it is run.
        b: the second, likewise.

    Returns:
        A `Difference`: false if nothing changed. Numbers are compared whatever their precision; NaN equals NaN.

    Raises:
        AdaptError: they have no tensor in common.
        TypeError: it is none of these.
        ModelFileError: a file is damaged or something else.
        OSError: a file cannot be read.

    Example:
        >>> import torch, treadle as td
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        >>> tuned = td.adapt.freeze(model, except_="2")
        >>> tuned(torch.ones(1, 3)).sum().backward()
        >>> torch.optim.SGD(tuned.parameters(), lr=0.1).step()
        >>> td.adapt.diff(model, tuned).changed
        ['2']
    """
    before, after = _tensors(a), _tensors(b)
    if before and after and not before.keys() & after.keys():
        raise AdaptError(
            f"the two have no tensor in common: the first has such as {next(iter(before))!r}, the second such as"
            f" {next(iter(after))!r}"
        )
    # Files list tensors by the size of their numbers, networks in their own order.
    first, second = (after, before) if isinstance(b, nn.Module) else (before, after)
    names = [*first, *(name for name in second if name not in first)]
    return Difference(tuple(_compared(name, before.get(name), after.get(name)) for name in names))


def _tensors(source: Any) -> dict[str, Tensor]:
    if isinstance(source, str | os.PathLike):
        return tensors_by_name(read_weights(source), f"diff: {source}")
    return tensors_by_name(source, "diff", "networks, tensors by name or the path of a file of them")


def _compared(name: str, before: Tensor | None, after: Tensor | None) -> TensorDifference:
    shapes = (None if before is None else tuple(before.shape), None if after is None else tuple(after.shape))
    if before is None or after is None:
        return TensorDifference(name, "added" if before is None else "removed", *shapes, None)
    if before.shape != after.shape:
        return TensorDifference(name, "shape", *shapes, None)
    wide = torch.complex128 if before.is_complex() or after.is_complex() else torch.float64
    first, second = before.to("cpu", wide), after.to("cpu", wide)
    same = (first == second) | (first.isnan() & second.isnan())
    if not (before.is_floating_point() or before.is_complex() or after.is_floating_point() or after.is_complex()):
        same = before.cpu() == after.cpu()  # whole numbers may have more digits than a float
    if same.all():
        return TensorDifference(name, "same", *shapes, 0.0)
    size = first.norm().item()
    distance = (second - first).norm().item()
    return TensorDifference(name, "changed", *shapes, distance / size if size else float("inf"))


def _words(tensor: TensorDifference) -> str:
    own = tensor.name.rpartition(".")[2]
    if tensor.before is None or tensor.after is None:
        return f"{own} {tensor.change}"
    return f"{own} {list(tensor.before)} to {list(tensor.after)}"
