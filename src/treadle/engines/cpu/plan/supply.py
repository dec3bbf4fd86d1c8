"""The tensors that a recipe is followed with: what it reads, as machine code reads it, and memory for results."""

from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.compiler.program import Value
from treadle.engines.cpu.machine.arena import Number
from treadle.engines.cpu.machine.memory_pool import empty
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.frame import Axis
from treadle.engines.cpu.plan.links import Link, Links, SharedValues
from treadle.engines.cpu.plan.rows import Role, TensorKey, dense_rows, tensors_of_layout
from treadle.engines.layout import Layout
from treadle.engines.passes.rows import contiguous, with_signs


class Supply:
    """Which tensors a recipe is followed with; ``written`` is the shape of each one that it writes."""

    def __init__(self, links: Links, recipe: Recipe, runs: int):
        self.links, self.recipe, self.runs = links, recipe, runs
        self._rows: dict[TensorKey, tuple[int, torch.dtype]] = {}
        self.written: dict[TensorKey, tuple[Axis | None, tuple[int, ...]]] = {}
        # Operands without rows: the inputs are numbered first, and after them what links make of them.
        self._strided: dict[TensorKey, None] = {}
        self._dense: dict[TensorKey, None] = {}
        self._derived: dict[tuple[Link, Value], int] = {}

    def rows_of(self, value: Value, as_indices: bool) -> TensorKey:
        """Rows of an input of the chain: whole numbers to be looked up, or numbers to compute with."""
        return self.read(TensorKey(Role.INDICES if as_indices else Role.ROWS, self.links.index[value]))

    def read(self, key: TensorKey) -> TensorKey:
        """The same, by the key that another recipe has for these rows."""
        self._rows[key] = self.links.inputs[key.number].batch_axis, self.dtype(key)
        return key

    def dtype(self, key: TensorKey) -> torch.dtype:
        """The type of rows that are read."""
        return self.links.inputs[key.number].dtype if key.role is Role.INDICES else self.links.dtype

    def how_rows_are_read(self, key: TensorKey) -> tuple[int, torch.dtype]:
        """Along which axis the rows of an input lie, and in which type."""
        return self._rows[key]

    @property
    def makes_operands(self) -> bool:
        """Whether PyTorch makes operands without rows of the chain's inputs."""
        return bool(self._derived)

    def matrix(self, link: Link, value: Value) -> tuple[Number, Number, Number]:
        """The right operand of a product: its address and its strides; those of a transposed input change places."""
        if value.op == "permute" and value.axes == (1, 0) and value.inputs[0].op == "input":
            address, rows, columns = self.matrix(link, value.inputs[0])
            return address, columns, rows
        key = TensorKey(Role.MATRIX, self._number(link, value))
        self._strided[key] = None
        return self.recipe.tensor(key)

    def shared(self, link: Link, value: Value) -> Number:
        """The address of what all rows read, dense."""
        key = TensorKey(Role.SHARED, self._number(link, value))
        self._dense[key] = None
        return self.recipe.tensor(key)[0]

    def _number(self, link: Link, value: Value) -> int:
        if value.op == "input":
            return self.links.index[link.inputs[value]]
        return self._derived.setdefault((link, value), len(self.links.inputs) + len(self._derived))

    def new(self, key: TensorKey, *shape: int, axis: Axis | None = None) -> Number:
        """The address of a new tensor that is written, with another ``axis`` in front if one is named."""
        self.written[key] = axis, shape
        return self.recipe.tensor(key)[0]

    def tensors(self, layout: Layout, inputs: Sequence[Tensor]) -> dict[TensorKey, Tensor]:
        """The tensors for a call: of the layout, of the chain's inputs, and new memory for what is written."""
        dtype = self.links.dtype
        tensors = tensors_of_layout(layout, self.recipe.tensors, self.runs)
        for key, (axis, wanted) in self._rows.items():
            tensors[key] = dense_rows(inputs[key.number], axis, wanted)
        operands = [*inputs, *self._compute_derived(inputs)] if self._derived else inputs
        for key in self._dense:
            tensors[key] = contiguous(operands[key.number], dtype)
        for key in self._strided:
            tensors[key] = with_signs(operands[key.number])
        for key, (axis, shape) in self.written.items():
            tensors[key] = empty(*shape, dtype=dtype) if axis is None else empty(axis.size(layout), *shape, dtype=dtype)
        return tensors

    def _compute_derived(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        found: dict[tuple[Link, Value], Tensor] = {}
        for link, values, computation in self._computations:
            known: dict[Value, Tensor] = {}
            computation.compute(inputs, known)
            found |= {(link, value): known[value] for value in values}
        return [found[key] for key in self._derived]

    @kept_property
    def _computations(self) -> list[tuple[Link, list[Value], SharedValues]]:
        """Of each link: what it makes of inputs without rows, and how."""
        values: dict[Link, list[Value]] = {}
        for link, value in self._derived:
            values.setdefault(link, []).append(value)
        return [(link, wanted, SharedValues(self.links, link, wanted)) for link, wanted in values.items()]
