"""What a kernel computes, and the loop nests that do it."""

import dataclasses

from treadle.caches import kept_property
from treadle.compiler.program import Value
from treadle.engines.passes.precision import Precision


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a kernel computes.

    Args:
        streams: values with rows that are read from memory; whole numbers only as indices of embeddings.
        invariants: values without rows that are read from memory.
        carries: (before, after): what goes from step to step; none in a kernel that takes all rows at once.
        outputs: values written to memory, row by row.
        sums: values summed over all rows and steps.
        precision: what products multiply, and the type of everything else.
        reverse: whether time runs backwards.
        int8: the right operands of products that are kept as int8, each column with a factor; sums are multiplied by
            these. The others are as the precision says.
    """

    streams: tuple[Value, ...]
    invariants: tuple[Value, ...]
    carries: tuple[tuple[Value, Value], ...]
    outputs: tuple[Value, ...]
    sums: tuple[Value, ...]
    precision: Precision
    reverse: bool = False
    int8: frozenset[Value] = frozenset()

    @kept_property
    def memory(self) -> set[Value]:
        """What can be loaded at any time."""
        return {*self.streams, *self.invariants, *(old for old, _ in self.carries)}


@dataclasses.dataclass(frozen=True)
class _Numbered:
    number: int


class Output(_Numbered):
    """The memory of an output, by its place among the kernel's outputs."""


class Carry(_Numbered):
    """A state after the step, by its place among the kernel's carries."""


class Sum(_Numbered):
    """What is added up over all rows, by its place among the kernel's sums."""


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Scratch that holds a value until it is read."""

    value: Value


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where a root goes: into which memory, and where in its row."""

    to: Output | Carry | Sum | Buffer
    offset: int
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Root:
    """A value that is stored."""

    value: Value
    sinks: tuple[Sink, ...]


@dataclasses.dataclass(frozen=True)
class Fused:
    """A product inside a nest: column ``slots[g] + j`` of the product is slot g of unit j."""

    product: Value
    slots: tuple[int, ...]


@dataclasses.dataclass
class Nest:
    """A loop over features: all roots of one shape and one level.

    ``domain`` are the extents of the loop variables, the last one the vectorised. Of a reduction, ``reduced`` says
    which of them it sums over.
    """

    level: int
    domain: tuple[int, ...]
    reduced: tuple[int, ...]
    roots: list[Root]
    fused: list[Fused] = dataclasses.field(default_factory=list)


Phase = Value | Nest | tuple[Nest, ...]
"""What is done for all rows before the next begins: a product, a nest with products in it, or nests without."""


_TOGETHER = 12
"""How many nests without products are taken together at most."""


@dataclasses.dataclass
class Schedule:
    """The order in which a kernel computes: products (``Value``), and nests."""

    kernel: Kernel
    phases: list[Value | Nest]
    buffers: dict[Value, int]
    """Values with a row of memory of their own, and how many numbers it has."""
    products: dict[Value, Fused]
    """Every product; those that are not fused have one slot."""
    stored: set[Value]
    """What nests read from buffers, once it is there."""
    ready: dict[Value, int]
    """The first level of nests in which that is so; of other values, in which they can be computed."""

    def is_loaded(self, value: Value, nest: Nest) -> bool:
        """Whether a nest reads a value from memory, rather than computing it."""
        return value in self.kernel.memory or (value in self.stored and self.ready[value] <= nest.level)

    @kept_property
    def grouped(self) -> list[Phase]:
        """The phases, those that need not wait for each other's rows taken together."""
        found: list[Phase] = []
        for phase in self.phases:
            if isinstance(phase, Value) or phase.fused:
                found.append(phase)
            elif found and isinstance(found[-1], tuple) and len(found[-1]) < _TOGETHER:
                found[-1] = (*found[-1], phase)
            else:
                found.append((phase,))
        return found
