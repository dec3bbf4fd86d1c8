"""A section of a plan on the CPU: what its kernels compute, forwards and backwards."""

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from treadle.compiler import program as p
from treadle.compiler.derivative import derive
from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.compiler.walk import preorder
from treadle.engines.cpu.lower.precision import Precision
from treadle.engines.cpu.lower.schedule import Kernel
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.plan.kernel import CompiledKernel, compiled

__all__ = ["Backward", "CompiledSection", "Part", "contiguous", "dense_rows", "part_of", "why_not"]

_KNOWN = p.ELEMENTWISE | p.VIEWS | p.REDUCTIONS | {"cat", "dot", "full", "embedding"}


def why_not(section: Section) -> str | None:
    """Why this engine cannot run a section; None if it can."""
    values = [v for v in section.values() if v.has_rows]
    for value in values:
        if value.op not in _KNOWN:
            name = value.call.function if value.op == "opaque" else value.op
            return f"{value.source}: {name} has no machine code here"
        if value.op == "embedding" and (value.inputs[1].op != "input" or len(value.inputs[1].shape) != 1):
            return f"{value.source}: an embedding looks up what is not the input itself"
        if value.op in ("eq", "ne") and value.inputs[0].dtype == torch.bool:
            return f"{value.source}: booleans are compared with each other"
    kept = [*values, *section.old, *section.new]
    types = {v.dtype for v in (*kept, *(v for v in section.inputs if v.dtype.is_floating_point))} - {torch.bool}
    if len(types) != 1 or not types <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        return f"it computes in {names}, not in one of float32, float64"
    if any(v.dtype == torch.bool for v in section.new):
        return "a state is boolean"
    if any(len(v.shape) != 2 or v.batch_axis != 0 for v in values if v.op == "dot"):
        return "a product has more than two axes"
    return None


class CompiledSection:
    """The kernels of one section, made when they are first needed.

    Args:
        section: what they compute.
        bfloat16: whether right operands of products are rounded to bfloat16; sums stay float32.
        memory_bound: whether they are read so seldom that their bytes count, as in a single step.
    """

    def __init__(self, section: Section, bfloat16: bool = False, memory_bound: bool = False):
        section = self.section = section.local()
        values = (*section.values(), *section.inputs, *section.old)
        self.dtype = next(v.dtype for v in values if v.dtype.is_floating_point)
        self.precision = Precision.decide(self.dtype, bfloat16, memory_bound, host())
        self.rows_in = tuple(v for v in section.inputs if v.has_rows)
        self._backward: dict[tuple[bool, ...], Backward] = {}

    @functools.cached_property
    def plain(self) -> "Part":
        """The forward pass when nothing is kept for a derivative."""
        return Part(self, self.section.outputs, self.carries)

    @property
    def carries(self) -> tuple[tuple[Value, Value], ...]:
        """The states before a step and after it."""
        return tuple(zip(self.section.old, self.section.new, strict=True))

    def backward(self, wanted: tuple[bool, ...]) -> "Backward":
        """The derivative with respect to some of the inputs."""
        if wanted not in self._backward:
            self._backward[wanted] = Backward(self, wanted)
        return self._backward[wanted]


class Part:
    """A kernel, and what it reads that has no rows."""

    def __init__(
        self,
        owner: CompiledSection,
        outputs: Sequence[Value],
        carries: Sequence[tuple[Value, Value]],
        sums: Sequence[Value] = (),
        reverse: bool = False,
        streams: Iterable[Value] = (),
    ):
        self.owner, self.outputs = owner, tuple(dict.fromkeys(outputs))
        leaves = {*owner.rows_in, *streams, *(old for old, _ in carries)}
        used, shared, matrices = _reach([*self.outputs, *(new for _, new in carries), *sums], leaves)
        old = {before for before, _ in carries}
        self.streams = tuple(v for v in used if v not in old)
        self.shared, self.matrices = shared, matrices
        looked_up = p.ordered([*self.outputs, *(new for _, new in carries)])
        self.indices = {v.inputs[1] for v in looked_up if v.op == "embedding"}
        self.derived = [v for v in (*shared, *matrices) if v.op != "input"]
        self.kernel = Kernel(
            self.streams, tuple(shared), tuple(carries), self.outputs, tuple(sums), owner.precision, reverse
        )

    @functools.cached_property
    def compiled(self) -> CompiledKernel:
        return compiled(self.kernel)


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


class Backward:
    """The backward pass of a section: its own kernel, and the products over all rows after it."""

    def __init__(self, owner: CompiledSection, wanted: tuple[bool, ...]):
        section = owner.section
        self.owner = owner
        self.wanted = [v for v, want in zip(section.inputs, wanted, strict=True) if want]
        """The inputs whose gradients are wanted."""
        d = self.derivative = derive(section, tuple(self.wanted))
        available = {
            *owner.rows_in, *section.old, *section.new, *section.outputs,
            *d.saved, *d.output_cotangents,
        }  # fmt: skip
        outputs = [g for g in d.gradients if g is not None and g.has_rows and g not in available]
        for contraction in d.contractions:
            if contraction.op == "outer":
                outputs += [whole for whole, _ in map(part_of, contraction.inputs) if whole not in available]
        # Gradients of what all rows share that are no sums of products, such as that of an embedding: PyTorch's.
        self.looked_at = _rows_read(d.gradients, d.contractions)
        outputs += [v for v in self.looked_at if v not in available]
        sums = [c.inputs[0] for c in d.contractions if c.op == "rowsum"]
        carries = tuple(zip(d.state_cotangents, d.state_gradients, strict=True))
        self.part = Part(owner, outputs, carries, sums, True, available)
        self.turned = {g: v for v, g in zip(self.wanted, d.gradients, strict=True) if g in d.contractions}
        # What has to stay alive between the passes.
        reads = {*self.part.streams, *(part_of(v)[0] for c in d.contractions if c.op == "outer" for v in c.inputs)}
        reads |= {g for g in d.gradients if g is not None} | set(self.looked_at)
        self.keeps = [v for v in (*owner.rows_in, *section.old, *section.new, *section.outputs, *d.saved) if v in reads]

        # The states before each step are those after the one before it.
        before = [new for old, new in owner.carries if old in reads]
        kept = [*section.outputs, *before, *(v for v in (*section.new, *d.saved) if v in reads)]
        self.forward = Part(owner, kept, owner.carries)


def part_of(value: Value) -> tuple[Value, int]:
    """What a run of features is a part of, and where it begins there."""
    start = 0
    while value.op == "slice" and value.has_rows and value.slice.axis == 1 and value.slice.step == 1:
        start += value.slice.start
        (value,) = value.inputs
    return value, start


def _rows_read(gradients: Iterable[Value | None], contractions: Iterable[Value]) -> list[Value]:
    """The values with rows that gradients without rows are made of, unless by a contraction."""
    roots = [g for g in gradients if g is not None and not g.has_rows]
    met = preorder(reversed(roots), lambda value: () if value.has_rows else value.inputs[::-1], contractions)
    return [value for value in met if value.has_rows]


def contiguous(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Dense, in the type of the kernel."""
    return tensor if tensor.dtype == dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()


def dense_rows(tensor: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """[N, ...] with the rows first, each of them dense, at any distance from each other."""
    if axis == 0 and tensor.dtype == dtype and tensor.is_contiguous():
        return tensor
    tensor = tensor.movedim(axis, 0) if axis > 0 else tensor
    tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    stride = 1
    for size, have in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if size != 1 and have != stride:
            return tensor.contiguous()
        stride *= size
    return tensor
