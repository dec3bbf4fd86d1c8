"""The gradients of what all rows share: sums and products over rows, and what PyTorch makes of them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from treadle.compiler.program import Value
from treadle.engines.cpu.machine.arena import Word
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.plan.kernel import Rows, Sums
from treadle.engines.cpu.plan.links import Link, Links, SharedValues
from treadle.engines.cpu.plan.rows import Role, TensorKey
from treadle.engines.cpu.plan.slots import Draft, Slot
from treadle.engines.cpu.routines import copies
from treadle.engines.cpu.routines.row_products import outer
from treadle.engines.cpu.routines.weight_panels import halve_rows
from treadle.engines.passes.precision import Operands
from treadle.engines.passes.rows import with_rows_in_place
from treadle.engines.passes.section_passes import DerivedPasses, part_of

_NARROW, _WIDE = 256, 512
"""Features: where the right operand of a product over rows is wide and the left one narrow, it is computed as it is."""


@dataclasses.dataclass(frozen=True)
class Computed:
    """A value that machine code has computed, a sum over rows or rows: it or its transpose is the tensor ``key``."""

    value: Value
    key: TensorKey
    transposed: bool = False

    def of(self, tensors: Mapping[TensorKey, Tensor]) -> Tensor:
        """The value, from the tensors of a call."""
        tensor = tensors[self.key]
        if self.value.has_rows:
            return with_rows_in_place(tensor, self.value).to(self.value.dtype)
        return tensor.t() if self.transposed else tensor


class SharedGradients:
    """The gradients that a link gives of inputs without rows, from what machine code has ``computed`` for them."""

    def __init__(self, links: Links, link: Link, derivative: DerivedPasses, computed: Sequence[Computed]):
        self.computed = computed
        gradients = link.gradients(derivative)
        self.gradients = [(links.index[v], g) for v, g in gradients if g is not None and not g.has_rows]
        known = {one.value for one in computed}
        missing = [g for _, g in self.gradients if g not in known]
        self.rest = SharedValues(links, link, missing, known) if missing else None

    def add(
        self, gradients: list[Tensor | None], tensors: Mapping[TensorKey, Tensor], inputs: Sequence[Tensor], rows: int
    ) -> None:
        """Add them to the gradients of the chain's inputs, from the tensors of a call on N rows."""
        known = {one.value: one.of(tensors) for one in self.computed}
        if self.rest is not None:
            self.rest.compute(inputs, known, rows)
        for i, gradient in self.gradients:
            before = gradients[i]
            gradients[i] = known[gradient] if before is None else before + known[gradient]


class _Factor(NamedTuple):
    """An operand of a product over rows: some of the features of the rows in a slot."""

    slot: Slot
    first: int
    width: int

    def at(self, draft: Draft) -> Rows:
        """Where it is."""
        address, stride = self.slot.at(draft.recipe)
        return Rows(address + self.first * draft.itemsize, stride)


def write_contractions(
    draft: Draft,
    link: Link,
    derivative: DerivedPasses,
    slots: Mapping[Value, Slot],
    sums: Sums | None,
    numbers: Iterator[int],
) -> list[Computed]:
    """Write the contractions of a link's derivative down.

    The memory of ``sums``, which the backward pass has left, is free afterwards. Each total gets a number of its own.
    """
    recipe, pairs = draft.recipe, link.compiled.precision.left is Operands.PAIRS
    contractions = derivative.program.contractions
    products = [c for c in contractions if c.op == "outer"]
    totals = []
    if sums is not None:
        terms = [c for c in contractions if c.op == "rowsum"]
        for c, begin in zip(terms, sums.begins, strict=True):
            totals.append(_add_up(draft, c, sums, begin, TensorKey(Role.TOTAL, next(numbers))))
    factors = {v: _factor_of(v, slots) for product in products for v in product.inputs}
    halves = _in_pairs(draft, factors.values()) if pairs else {}
    if halves:
        recipe.barrier()
    if sums is not None and sums.begins:
        recipe.scratch.leave(sums.address, sums.stride * sums.terms)
    for product in products:
        left, right = (factors[v] for v in product.inputs)
        swapped = _is_swapped(left.width, right.width, product in derivative.contracted, host().lanes(draft.itemsize))
        total = Computed(product, TensorKey(Role.TOTAL, next(numbers)), swapped)
        _multiply(draft, total.key, *((right, left) if swapped else (left, right)), halves)
        totals.append(total)
    for factor, rows in halves.items():
        recipe.scratch.leave(rows, 4 * draft.rows.halves().most * factor.width)
    return totals


def _add_up(draft: Draft, contraction: Value, sums: Sums, begin: int, key: TensorKey) -> Computed:
    """Add up what each thread has summed over its rows."""
    count = contraction.inputs[0].row_numel
    source, stride = sums.address + begin * draft.itemsize, sums.stride // draft.itemsize
    to = draft.supply.new(key, *contraction.shape)  # pyright: ignore
    copies.add_up(draft.recipe, to, source, count, stride, sums.terms, draft.links.dtype)
    return Computed(contraction, key)


def _factor_of(value: Value, slots: Mapping[Value, Slot]) -> _Factor:
    whole, first = part_of(value)
    return _Factor(slots[whole], first, value.shape[1])  # pyright: ignore


def _in_pairs(draft: Draft, factors: Iterable[_Factor]) -> dict[_Factor, Word]:
    """Round factors to bfloat16, two rows in one: where each is then."""
    rows = draft.rows
    return {
        factor: halve_rows(draft.recipe, factor.at(draft), rows, factor.width, host())
        for factor in dict.fromkeys(factors)
    }


def _multiply(draft: Draft, key: TensorKey, left: _Factor, right: _Factor, halves: Mapping[_Factor, Word]) -> None:
    """The product over rows of two factors, [K, N] times [N, M]; of those in pairs if they are."""
    to = draft.supply.new(key, left.width, right.width)
    count = draft.rows.halves() if halves else draft.rows
    a, g = (Rows(halves[f], f.width) if halves else f.at(draft) for f in (left, right))
    if left.width and right.width:
        size = count, left.width, right.width
        outer(draft.recipe, a, g, to, size, draft.links.dtype, pairs=bool(halves))


def _is_swapped(k: int, m: int, wanted: bool, lanes: int) -> bool:
    """Whether a product over rows [K, M] is better computed as its transpose.

    It is if that is ``wanted`` anyway, as the gradient of a transposed weight is laid out like the weight then, and
    PyTorch need not transpose it to add it to a weight's ``grad``; unless that is done sooner than what the product
    then takes longer. It is, too, where a vector is not filled.
    """
    if wanted and (m < _WIDE or k >= _NARROW):
        return not (k < lanes and k < m)
    return m < lanes and m < k
