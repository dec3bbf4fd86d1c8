"""What the recipes of a chain read, and where it is: tensors, blocks of memory, packed matrices."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.program import Value
from treadle.engines.cpu.lower.precision import Operands
from treadle.engines.cpu.machine.arena import Number, Word
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.section import Part, contiguous, dense_rows
from treadle.engines.layout import Layout, Split

if TYPE_CHECKING:
    from treadle.engines.cpu.plan.chain import Chain

__all__ = ["Packed", "Reads", "Slot", "of_layout", "split_rows"]

_NEAR = 8192
"""Bytes of a state in a thread's rows from which on other threads are far enough away, and copying costs more."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where rows are: in a block of memory or in a tensor, and how many numbers they are apart (None: the tensor's)."""

    key: Any
    offset: int = 0
    stride: int | None = None

    def at(self, recipe: Recipe) -> tuple[Number, Number]:
        """The address and the distance of rows, for a recipe."""
        if self.key == "kept":
            address: Word = recipe.kept.address + self.offset
            stride: Number = self.stride or 0
        elif self.key == "scratch":
            address, stride = recipe.scratch.address + self.offset, self.stride or 0
        else:
            address, own, _ = recipe.tensor(self.key)
            address, stride = address + self.offset, own if self.stride is None else self.stride
        return address, stride


class Reads:
    """The tensors that a recipe reads, as they have to be for machine code."""

    def __init__(self, chain: "Chain", recipe: Recipe):
        self.chain, self.recipe = chain, recipe
        self.index = {value: i for i, value in enumerate(chain.inputs)}
        self.rows: dict[Any, tuple[int, int, torch.dtype]] = {}
        self.alike: dict[Any, int] = {}
        self.derived: dict[int, dict[Value, None]] = {}

    def row_slot(self, value: Value, indices: bool) -> Slot:
        """Rows of an input of the chain."""
        i, dtype = self.index[value], value.dtype if indices else self.chain.dtype
        key = ("rows", i, dtype)
        self.rows[key] = i, value.batch_axis, dtype
        return Slot(key)

    def matrix(self, number: int, value: Value) -> tuple[Number, Number, Number]:
        """A right operand of a link, with any strides."""
        return self.recipe.tensor(self._key("matrix", number, value))

    def shared(self, number: int, value: Value) -> Number:
        """What all rows of a link read, dense."""
        return self.recipe.tensor(self._key("shared", number, value))[0]

    def _key(self, kind: str, number: int, value: Value) -> Any:
        if value.op == "input":
            key = (kind, self.index[self.chain.values_of(number)[value]])
            self.alike[key] = key[1]
            return key
        self.derived.setdefault(number, {})[value] = None
        return (kind, number, value)

    def supply(self, inputs: Sequence[Tensor], tensors: dict[Any, Tensor]) -> None:
        """Add what is read to ``tensors``, by key."""
        dtype = self.chain.dtype
        for key, (i, axis, wanted) in self.rows.items():
            tensors[key] = dense_rows(inputs[i], axis, wanted)
        for key, i in self.alike.items():
            tensors[key] = contiguous(inputs[i], dtype) if key[0] == "shared" else inputs[i]
        for number, values, sources, line in self._derived:
            known = {local: inputs[i] for local, i in sources}
            line.run(known, 0)
            for value in values:
                tensors["matrix", number, value] = known[value]
                tensors["shared", number, value] = contiguous(known[value], dtype)

    @functools.cached_property
    def _derived(self) -> list[tuple[int, list[Value], list[tuple[Value, int]], interpreter.Line]]:
        """Of each link: what is made of inputs, of which ones, and how."""
        found = []
        for number, values in self.derived.items():
            sources = self.chain.shared_by(number)
            line = interpreter.Line(values, [local for local, _ in sources])
            found.append((number, list(values), [(local, self.index[value]) for local, value in sources], line))
        return found


class Packed:
    """The right operands of the products of several kernels, packed before any of them runs."""

    def __init__(self, reads: Reads, parts: Mapping[int, Part]):
        recipe = reads.recipe
        packed = {}
        for number, part in parts.items():
            matrices = [reads.matrix(number, w) for w, _ in part.compiled.operands]
            packed[number] = part.compiled.pack(recipe, matrices)
        if any(part.kernel.precision.right is Operands.PAIRS for part in parts.values()):
            recipe.barrier()
        self.of = {number: part.compiled.pair_up(recipe, packed[number]) for number, part in parts.items()}
        recipe.barrier()


def split_rows(parts: Iterable[Part], layout: Layout) -> list[tuple[int, int]] | None:
    """The runs of rows that lie apart from each other, one for each thread; None if all are in one place."""
    if layout.order is not None:
        return None
    loops = [part for part in parts if part.kernel.carries]
    shares = max((part.compiled.shares(layout) for part in loops), key=len, default=[])
    if len(shares) < 2:
        return None
    widest = max(
        old.row_numel * part.kernel.precision.dtype.itemsize for part in loops for old, _ in part.kernel.carries
    )
    return shares if widest * max(last - first for first, last in shares) <= _NEAR else None


def of_layout(layout: Layout, recipe: Recipe, shares: list[tuple[int, int]] | None) -> dict[Any, Tensor]:
    """The tensors that say how rows lie, by key; ``shares`` if they lie apart."""
    tensors: dict[Any, Tensor] = {"counts": layout.counts, "offsets": layout.offsets}
    order: Layout | Split = layout
    if shares is not None:
        order = Split(layout, shares)
        tensors.update({("offsets", i): offsets for i, offsets in enumerate(order.offsets)})
    if order.packed_resets is not None:
        tensors["resets"] = order.packed_resets
    if "origins" in recipe.tensors:
        tensors["origins"] = order.origins
    return tensors
