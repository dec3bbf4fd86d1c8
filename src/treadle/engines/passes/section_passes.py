"""The passes of a section over its rows, forwards and backwards: what a kernel computes, whoever compiles it."""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from treadle.caches import kept_property
from treadle.compiler import program as p
from treadle.compiler.derivative import derive
from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.compiler.walk import preorder
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Precision

Compiled = TypeVar("Compiled")
"""An engine's form of a kernel."""


class SectionPasses(Generic[Compiled]):
    """The passes of one section, made when they are first needed; an engine's own subclass compiles their kernels.

    Attributes:
        dtype: of its numbers.
        precision: in which it computes.
        int8: the right operands of products that are kept as int8.
    """

    precision: Precision
    int8: frozenset[Value] = frozenset()

    def __init__(self, section: Section):
        section = self.section = section.local()
        values = (*section.values(), *section.inputs, *section.old)
        self.dtype = next(v.dtype for v in values if v.dtype.is_floating_point)
        self.rows_in = tuple(v for v in section.inputs if v.has_rows)
        self.carries = tuple(zip(section.old, section.new, strict=True))
        self._derivatives: dict[tuple[bool, ...], DerivedPasses[Compiled]] = {}

    def compiled(self, kernel: Kernel) -> Compiled:
        """The engine's form of a kernel."""
        raise NotImplementedError

    @kept_property
    def plain(self) -> "Pass[Compiled]":
        """The forward pass when nothing is kept for a derivative."""
        return Pass(self, self.section.outputs, self.carries)

    def kept(self, wanted: tuple[bool, ...]) -> list[Value]:
        """The values that stay in memory for the backward pass, if gradients of these inputs are wanted."""
        return self.derivative(wanted).keeps

    def derivative(self, wanted: tuple[bool, ...]) -> "DerivedPasses[Compiled]":
        """The derivative with respect to some of the inputs."""
        if wanted not in self._derivatives:
            self._derivatives[wanted] = DerivedPasses(self, wanted)
        return self._derivatives[wanted]


class Pass(Generic[Compiled]):
    """One pass over all rows of a section: a kernel, and the values that its arguments are.

    Args:
        outputs: what it writes, row by row.
        carries: the states before a step and after it.
        sums: what it adds up over all rows.
        available: values with rows that are in memory beside the section's inputs and states.

    Attributes:
        streams: the values with rows that it reads, beside the states.
        shared: those that all rows read.
        matrices: the right operands of its products.
        indices: the streams that are looked up in an embedding.
    """

    def __init__(
        self,
        owner: SectionPasses[Compiled],
        outputs: Iterable[Value],
        carries: Sequence[tuple[Value, Value]],
        sums: Sequence[Value] = (),
        reverse: bool = False,
        available: Iterable[Value] = (),
    ):
        self.owner, self.outputs = owner, tuple(dict.fromkeys(outputs))
        old, computed = {before for before, _ in carries}, [*self.outputs, *(after for _, after in carries)]
        used, shared, self.matrices = _reach([*computed, *sums], {*owner.rows_in, *available, *old})
        self.streams = tuple(v for v in used if v not in old)
        self.shared = shared
        self.indices = {v.inputs[1] for v in p.ordered(computed) if v.op == "embedding"}
        self.kernel = Kernel(
            self.streams,
            tuple(shared),
            tuple(carries),
            self.outputs,
            tuple(sums),
            owner.precision,
            reverse,
            owner.int8.intersection(self.matrices),
        )

    @kept_property
    def compiled(self) -> Compiled:
        return self.owner.compiled(self.kernel)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.kernel.outputs or self.kernel.sums or self.kernel.carries)


def _reach(roots: Sequence[Value], leaves: set[Value]) -> tuple[list[Value], list[Value], list[Value]]:
    """Which of ``leaves`` the roots are made of, and which values without rows: read by all, and right operands."""
    used: list[Value] = []
    shared: list[Value] = []
    matrices: dict[Value, None] = {}

    def operands(value: Value) -> tuple[Value, ...]:
        if value in leaves or not (value.has_rows or value.op == "dot"):
            return ()
        return value.inputs[:1] if value.op == "dot" else value.inputs[::-1]

    for value in preorder(reversed(roots), operands):
        if value in leaves:
            used.append(value)
        elif value.op == "dot":
            matrices[value.inputs[1]] = None
        elif not value.has_rows and value.op != "full":
            shared.append(value)
    return used, shared, list(matrices)


class DerivedPasses(Generic[Compiled]):
    """A section with its derivative: a forward pass that keeps what is needed, a backward pass, products after it.

    Attributes:
        wanted: the inputs whose gradients are wanted.
        program: what the gradients are.
        forward, backward: the passes.
        keeps: what has to stay alive between them.
        read_by_torch: what with rows PyTorch makes gradients of that are no sums of products, such as an embedding's.
        contracted: the gradients that are contractions as they stand.
    """

    def __init__(self, owner: SectionPasses[Compiled], wanted: tuple[bool, ...]):
        section = owner.section
        self.wanted = [v for v, want in zip(section.inputs, wanted, strict=True) if want]
        d = self.program = derive(section, tuple(self.wanted))
        gradients = [g for g in d.gradients if g is not None]
        factors = [part_of(v)[0] for c in d.contractions if c.op == "outer" for v in c.inputs]
        self.read_by_torch = _rows_read(gradients, d.contractions)
        self.contracted = {*gradients}.intersection(d.contractions)
        known = (*owner.rows_in, *section.old, *section.new, *section.outputs, *d.saved)
        available = {*known, *d.output_cotangents}
        outputs = [g for g in gradients if g.has_rows]
        self.backward = Pass(
            owner,
            [v for v in (*outputs, *factors, *self.read_by_torch) if v not in available],
            tuple(zip(d.state_cotangents, d.state_gradients, strict=True)),
            [c.inputs[0] for c in d.contractions if c.op == "rowsum"],
            reverse=True,
            available=available,
        )
        reads = {*self.backward.streams, *factors, *gradients, *self.read_by_torch}
        self.keeps = [v for v in known if v in reads]
        # The states before each step are those after the one before it.
        before = [new for old, new in owner.carries if old in reads]
        kept = [*section.outputs, *before, *(v for v in (*section.new, *d.saved) if v in reads)]
        self.forward = Pass(owner, kept, owner.carries)


def part_of(value: Value) -> tuple[Value, int]:
    """What a run of features is a part of, and where it begins there."""
    start = 0
    while value.op == "slice" and value.has_rows and value.slice.axis == 1 and value.slice.step == 1:
        start += value.slice.start
        (value,) = value.inputs
    return value, start


def _rows_read(gradients: Iterable[Value], contractions: Iterable[Value]) -> list[Value]:
    """The values with rows that gradients without rows are made of, unless by a contraction."""
    roots = [g for g in gradients if not g.has_rows]
    met = preorder(reversed(roots), lambda value: () if value.has_rows else value.inputs[::-1], contractions)
    return [value for value in met if value.has_rows]
