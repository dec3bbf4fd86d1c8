"""A pass of a chain bound to where its parameters lie: of a further call, only rows, states and results are elsewhere.

Numbers alone are kept, no tensors: whoever lets go of a parameter frees its memory.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from treadle.engines.cpu.machine.alignment import LINE_BYTES, address, whole_lines
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import Recipe, numbers_of, place_of
from treadle.engines.cpu.plan.call_form import CallForm
from treadle.engines.cpu.plan.invariants import Invariants
from treadle.engines.cpu.plan.rows import Role, TensorKey, dense_rows
from treadle.engines.cpu.plan.supply import Supply
from treadle.engines.passes.rows import contiguous, with_signs

T = TypeVar("T")

_MOST_BOUND, _MOST_TIMES = 8, 16
"""Of calls with as many steps and rows; and how often one is bound again."""

_STAYS = frozenset({Role.COUNTS, Role.OFFSETS, Role.RUN_OFFSETS, Role.ZEROS})
_PARAMETERS, _ROWS = frozenset({Role.MATRIX, Role.SHARED}), frozenset({Role.ROWS, Role.INDICES})


class Passed(NamedTuple):
    """What is passed beside the arguments.

    Args:
        number: which of the tensors that are passed.
        axis: along which it has rows, if it has any.
        part, parts: which part of it, of how many.
    """

    number: int
    axis: int | None = None
    part: int = 0
    parts: int = 1


class Form(NamedTuple):
    """The form in which new memory is given back."""

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    """None if it is contiguous."""

    def new(self, dtype: torch.dtype) -> Tensor:
        """Memory of that form."""
        tensor = empty(*self.shape, dtype=dtype)
        return tensor if self.strides is None else tensor.as_strided(self.shape, self.strides)


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


class BoundPass:
    """A pass over one layout; its arguments are those of a call that was made.

    Args:
        supply: what the pass is supplied with.
        tensors: those of the call, by key.
        passed: of each tensor that is passed beside the arguments, which one it is.
        wanted: of each new tensor that is given back, its form, and what is in it, part after part.
    """

    def __init__(
        self,
        supply: Supply,
        invariants: Invariants,
        form: CallForm,
        arguments: Sequence[Tensor],
        tensors: Mapping[TensorKey, Tensor],
        passed: Mapping[TensorKey, Passed],
        wanted: Sequence[tuple[Form, Sequence[TensorKey]]],
    ):
        self._by_step, layout = form.by_step, form.layout
        self.recipe, self.invariants, self.dtype = supply.recipe, invariants, supply.links.dtype
        self._numbers = self.recipe.numbers(tensors, layout)
        # The numbers of these stay right for as long as they live.
        self._held = layout, [tensor for key, tensor in tensors.items() if key.role in _STAYS]
        self._rows: list[_Rows] = []
        self._made: list[tuple[int, bool, TensorKey]] = []
        self._passed_rows: list[tuple[int, bool, int, int]] = []
        self._passed: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        self._unread: list[tuple[int, int]] = []
        self._unread_size = 0
        self.lies: dict[int, _Lay] = {}
        places = dict.fromkeys((key for _, keys in wanted for key in keys), 0)
        for i, (key, strided) in enumerate(given(self.recipe)):
            place = place_of(i)
            if key in passed:
                number, axis, part, parts = passed[key]
                if axis is None:
                    self._passed.setdefault(number, (parts, []))[1].append((place, part))
                else:
                    self._passed_rows.append((place, strided, number, axis))
            elif key in places:
                places[key] = place
            elif key in supply.written:
                self._unread.append((place, self._unread_size))
                self._unread_size += whole_lines(tensors[key].nbytes)
            elif key.role not in _STAYS:
                self._read(place, strided, key, arguments, supply)
        self._wanted = [(new, [(places[key], part) for part, key in enumerate(keys)]) for new, keys in wanted]

    def _read(self, place: int, strided: bool, key: TensorKey, arguments: Sequence[Tensor], supply: Supply) -> None:
        """Note down what is read of an argument, or of what is made of arguments."""
        argument = self.invariants.lies_in[key.number]
        if key.role in _ROWS:
            assert argument is not None
            self._rows.append(_Rows(place, strided, argument, *supply.how_rows_are_read(key)))
        elif argument is None:
            self._made.append((place, strided, key))
        else:
            tensor = arguments[argument]
            self.lies[argument] = _Lay(argument, address(tensor), tensor.stride())

    @staticmethod
    def can_be(supply: Supply, passed: Mapping[TensorKey, Passed]) -> bool:
        """Whether all that a pass reads are arguments, what is made of them alone, what is passed, and what stays."""
        known = _STAYS | _PARAMETERS | _ROWS
        keys = (key for key, _ in given(supply.recipe))
        return not supply.makes_operands and all(
            key.role in known or key in passed or (key in supply.written and key.role is not Role.READ_BY_TORCH)
            for key in keys
        )

    def reads_no_copies(self) -> bool:
        """Whether parameters are read where they lie."""
        for i, (key, _) in enumerate(given(self.recipe)):
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

    def run(
        self, arguments: Sequence[Tensor], passed: Sequence[Tensor], made: Sequence[Tensor], kept: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Run, with what is ``made`` of the arguments; returns what is wanted, and the memory that is kept."""
        numbers, dtype, held = self._numbers.copy(), self.dtype, []
        for place, strided, i, axis, kind in self._rows:
            held.append(self._give_rows(numbers, place, strided, arguments[i], axis, kind))
        for place, strided, key in self._made:
            tensor = made[self.invariants.made_in[key.number]]
            tensor = with_signs(tensor) if key.role is Role.MATRIX else contiguous(tensor, dtype)
            numbers[place : place + 3] = numbers_of(tensor, strided)
            held.append(tensor)
        for place, strided, i, axis in self._passed_rows:
            held.append(self._give_rows(numbers, place, strided, passed[i], axis, dtype))
        for i, (parts, places) in self._passed.items():
            tensor = contiguous(passed[i], dtype)
            start, size = address(tensor), tensor.nbytes // parts
            for place, part in places:
                numbers[place] = start + part * size
            held.append(tensor)
        if self._unread:
            block = empty(self._unread_size + LINE_BYTES, dtype=torch.uint8)
            start = block.data_ptr()
            start += -start % LINE_BYTES
            for place, offset in self._unread:
                numbers[place] = start + offset
        results = []
        for form, places in self._wanted:
            tensor = form.new(dtype)
            start, size = tensor.data_ptr(), tensor.nbytes // len(places)
            for place, part in places:
                numbers[place] = start + part * size
            results.append(tensor)
        return results, self.recipe.run(numbers, kept)

    def _give_rows(
        self, numbers: list[int], place: int, strided: bool, rows: Tensor, axis: int, dtype: torch.dtype
    ) -> Tensor:
        """Put down where rows are; returns the tensor that they are in."""
        if self._by_step:
            if rows.dtype == dtype and rows.is_contiguous() and not rows.is_neg():
                numbers[place] = address(rows)
                # Strides are no help: those of an axis of one are anything.
                numbers[place + 1], numbers[place + 2] = math.prod(rows.shape[2:]), math.prod(rows.shape[3:])
                return rows
            rows = rows.flatten(0, 1)
        rows = dense_rows(rows, axis, dtype)
        numbers[place : place + 3] = numbers_of(rows, strided)
        return rows


class Bindings(Generic[T]):
    """Bound passes, by the form of calls, and how often the parameters of each were elsewhere.

    Where these are new tensors in every call, it is of no use to bind a pass.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[T | None, int]] = {}

    def find(self, form: CallForm) -> T | None:
        """The one for calls of a form, if there is one."""
        layout, by_step, groups = form
        if layout.order is not None or layout.packed_resets is not None:
            return None
        return self._found.get((layout.steps, layout.batch, by_step, groups), (None, 0))[0]

    def bind(self, form: CallForm, make: Callable[[], T | None]) -> T | None:
        """Make one for a form that was seen before, unless that was done too often."""
        layout, by_step, groups = form
        if layout.order is not None or layout.packed_resets is not None:
            return None
        key = layout.steps, layout.batch, by_step, groups
        before = self._found.get(key)
        if before is None:
            if len(self._found) >= _MOST_BOUND:
                self._found.pop(next(iter(self._found)), None)
            self._found[key] = None, 0
            return None
        times = before[1]
        if times > _MOST_TIMES:
            return None
        found = make()
        self._found[key] = found, times + 1
        return found


def given(recipe: Recipe) -> list[tuple[TensorKey, bool]]:
    """The tensors of a call in the order of their numbers, and whether any of their strides is read."""
    return cast(list[tuple[TensorKey, bool]], recipe.given)
