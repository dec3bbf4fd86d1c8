"""The form of a call: how its rows lie, and how final states are given back."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from treadle.compiler.program import Value
from treadle.engines.layout import Layout


class CallForm(NamedTuple):
    """The form of a call.

    Whoever brings rows or states into another form outside of a node of autograd adds nodes of PyTorch's own, and each
    of these takes longer than many a kernel.

    Args:
        layout: how rows lie.
        by_step: whether they are passed as [T, B, ...], which of rows that have all steps is the same as [N, ...].
        groups: which final states are given back as one tensor, [L, B, ...]; empty where each is by itself.
    """

    layout: Layout
    by_step: bool = False
    groups: tuple[tuple[int, ...], ...] = ()

    def flat(self, tensors: Sequence[Any], values: Sequence[Value]) -> list[Any]:
        """Tensors as [N, ...], where the value has rows; None stays."""
        if not self.by_step:
            return list(tensors)
        pairs = zip(tensors, values, strict=True)
        return [t.flatten(0, 1) if t is not None and value.has_rows else t for t, value in pairs]

    def as_passed(self, tensors: Sequence[Any], values: Sequence[Value]) -> list[Any]:
        """The inverse of `flat`."""
        if not self.by_step:
            return list(tensors)
        pairs, shape = zip(tensors, values, strict=True), (self.layout.steps, self.layout.batch)
        return [t.unflatten(0, shape) if t is not None and value.has_rows else t for t, value in pairs]

    def grouped(self, ends: Sequence[Any]) -> list[Any]:
        """Final states as they are given back."""
        return [torch.stack([ends[k] for k in group]) for group in self.groups] if self.groups else list(ends)

    def each(self, groups: Sequence[Any], states: int) -> list[Any]:
        """The inverse of `grouped`, of so many states; what is None is so for all of a group."""
        if not self.groups:
            return list(groups)
        found: list[Any] = [None] * states
        for k, group, part, _ in self.places():
            whole = groups[group]
            found[k] = None if whole is None else whole[part]
        return found

    def places(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each state in a group: which state it is, the group, which part of that, and how many there are."""
        for number, group in enumerate(self.groups):
            for part, k in enumerate(group):
                yield k, number, part, len(group)
