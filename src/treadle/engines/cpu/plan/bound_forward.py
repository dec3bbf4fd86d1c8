"""A forward pass bound to where its parameters lie: of a further call, only rows, states and results are elsewhere.

Numbers alone are kept, no tensors: whoever lets go of a parameter frees its memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import numbers_of, place_of
from treadle.engines.cpu.plan.forward import ForwardRecipe
from treadle.engines.cpu.plan.invariants import Invariants
from treadle.engines.cpu.plan.rows import Role, TensorKey, dense_rows
from treadle.engines.layout import Layout
from treadle.engines.passes.rows import contiguous, with_signs

_OF_LAYOUT = frozenset({Role.COUNTS, Role.OFFSETS, Role.RUN_OFFSETS})
_PARAMETERS, _ROWS = frozenset({Role.MATRIX, Role.SHARED}), frozenset({Role.ROWS, Role.INDICES})
_RESULTS = frozenset({Role.OUTPUT, Role.END})
_ALL = _OF_LAYOUT | _PARAMETERS | _ROWS | _RESULTS | {Role.START}


class _Lay(NamedTuple):
    """Where a parameter lay, and which argument it was."""

    argument: int
    address: int
    strides: tuple[int, ...]


class _Rows(NamedTuple):
    """An argument with rows: where its numbers belong, which one it is, and how a kernel reads it."""

    place: int
    strided: bool
    argument: int
    axis: int
    dtype: torch.dtype


class BoundForward:
    """A forward pass over one layout, without a derivative; its arguments are those of a call that was made.

    Attributes:
        lies: the parameters that it reads where they lie.
    """

    def __init__(
        self,
        forward: ForwardRecipe,
        invariants: Invariants,
        layout: Layout,
        arguments: Sequence[Tensor],
        starts: Sequence[Tensor],
    ):
        recipe, supply = forward.recipe, forward.supply
        self.forward, self.invariants, self.dtype = forward, invariants, forward.links.dtype
        tensors = forward.tensors(layout, invariants.inputs(arguments), starts, starts)
        self._numbers = recipe.numbers(tensors, layout)
        # The numbers of these stay right for as long as they live.
        self._held = layout, [tensor for key, tensor in tensors.items() if key.role in _OF_LAYOUT]
        self._rows: list[_Rows] = []
        self._made: list[tuple[int, bool, TensorKey]] = []
        self._starts: list[tuple[int, int]] = []
        written: dict[TensorKey, tuple[int, tuple[int, ...]]] = {}
        self.lies: dict[int, _Lay] = {}
        for i, (key, strided) in enumerate(forward.given):
            place = place_of(i)
            if key.role is Role.START:
                self._starts.append((place, key.number))
            elif key.role in _RESULTS:
                written[key] = place, tuple(tensors[key].shape)
            elif key.role in _ROWS:
                argument = invariants.lies_in[key.number]
                assert argument is not None
                self._rows.append(_Rows(place, strided, argument, *supply.how_rows_are_read(key)))
            elif key.role in _PARAMETERS:
                argument = invariants.lies_in[key.number]
                if argument is None:
                    self._made.append((place, strided, key))
                else:
                    tensor = arguments[argument]
                    self.lies[argument] = _Lay(argument, address(tensor), tensor.stride())
        self._written = [written[key] for key in forward.results]

    @staticmethod
    def of(
        forward: ForwardRecipe,
        invariants: Invariants,
        layout: Layout,
        arguments: Sequence[Tensor],
        starts: Sequence[Tensor],
    ) -> "BoundForward | None":
        """The pass, bound to these arguments; None where it reads copies of parameters, or what PyTorch makes of them.

        So it is where rows lack steps or are reset.
        """
        supply = forward.supply
        roles = {key.role for key, _ in forward.given}
        if supply.makes_operands or not roles <= _ALL or layout.order is not None or layout.packed_resets is not None:
            return None
        found = BoundForward(forward, invariants, layout, arguments, starts)
        return found if found._reads_no_copies() else None

    def _reads_no_copies(self) -> bool:
        for i, (key, _) in enumerate(self.forward.given):
            argument = self.invariants.lies_in[key.number] if key.role in _PARAMETERS else None
            if argument is not None and self._numbers[place_of(i)] != self.lies[argument].address:
                return False
        return True

    def fits(self, arguments: Sequence[Tensor]) -> bool:
        """Whether all parameters are where they were."""
        for i, start, strides in self.lies.values():
            tensor = arguments[i]
            if tensor.data_ptr() != start or tensor.stride() != strides or tensor.is_neg() or not tensor.is_cpu:
                return False
        return True

    def run(self, arguments: Sequence[Tensor], starts: Sequence[Tensor]) -> list[Tensor]:
        """Outputs and final states."""
        numbers, dtype, held = self._numbers.copy(), self.dtype, []
        for place, strided, i, axis, kind in self._rows:
            tensor = dense_rows(arguments[i], axis, kind)
            numbers[place : place + 3] = numbers_of(tensor, strided)
            held.append(tensor)
        if self._made:
            made = self.invariants.made(arguments)
            for place, strided, key in self._made:
                tensor = made[key.number]
                tensor = with_signs(tensor) if key.role is Role.MATRIX else contiguous(tensor, dtype)
                numbers[place : place + 3] = numbers_of(tensor, strided)
                held.append(tensor)
        for place, i in self._starts:
            tensor = contiguous(starts[i], dtype)
            numbers[place] = address(tensor)
            held.append(tensor)
        results = []
        for place, shape in self._written:
            tensor = empty(*shape, dtype=dtype)
            numbers[place] = tensor.data_ptr()
            results.append(tensor)
        self.forward.recipe.run(numbers)
        return self.forward.given_back(results)
