"""A section of a plan on the CPU: its kernels, forwards and backwards, as one node of PyTorch's autograd."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.derivative import derive
from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.cpu.contract import outer
from treadle.engines.cpu.kernel import CompiledKernel, compiled
from treadle.engines.cpu.memory import empty
from treadle.engines.cpu.pack import halve_rows
from treadle.engines.cpu.schedule import Kernel
from treadle.engines.cpu.target import host
from treadle.engines.interpreter import run_section
from treadle.engines.layout import Layout

__all__ = ["CompiledSection", "why_not"]

_KNOWN = p.ELEMENTWISE | p.VIEWS | p.REDUCTIONS | {"cat", "dot", "full", "embedding"}


def why_not(section: Section) -> str | None:
    """Why this engine cannot run a section; None if it can."""
    values = [v for v in section.values() if v.has_rows]
    for value in values:
        if value.op not in _KNOWN:
            name = value.attributes[0] if value.op == "opaque" else value.op
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
    """The kernels of one section, made when they are first needed."""

    def __init__(self, section: Section, bfloat16: bool = False):
        section = self.section = section.local()
        self.bfloat16 = bfloat16
        self.dtype = next(
            v.dtype for v in (*section.values(), *section.inputs, *section.old) if v.dtype.is_floating_point
        )
        self.pairs = bfloat16 and self.dtype == torch.float32 and host().bf16_dot
        self.rows_in = tuple(v for v in section.inputs if v.has_rows)
        self._backward: dict[tuple[bool, ...], _Backward] = {}

    def run(
        self, layout: Layout, inputs: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs [N, ...], and of a loop the states after the last step of each row."""
        everything = [*inputs, *starts, *fresh]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in everything):
            results = list(_Node.apply(self, layout, *everything))  # pyright: ignore
        else:
            with torch.no_grad():
                results = self.forward(layout, inputs, starts, fresh)[0]
        count = len(self.section.outputs)
        return results[:count], results[count:]

    @functools.cached_property
    def plain(self) -> "_Part":
        """The forward pass when nothing is kept for a derivative."""
        return _Part(self, self.section.outputs, self._carries())

    def _carries(self) -> tuple[tuple[Value, Value], ...]:
        return tuple(zip(self.section.old, self.section.new, strict=True))

    def backward(self, wanted: tuple[bool, ...]) -> "_Backward":
        """The derivative with respect to some of the inputs."""
        if wanted not in self._backward:
            self._backward[wanted] = _Backward(self, wanted)
        return self._backward[wanted]

    def forward(
        self, layout: Layout, inputs: Sequence[Tensor], starts: Any, fresh: Any, backward: "_Backward | None" = None
    ) -> tuple[list[Tensor], dict[Value, Tensor]]:
        """Run forwards; returns outputs and final states, and what a backward pass may read, by value."""
        part = self.plain if backward is None else backward.forward
        section = self.section
        known = dict(zip(section.inputs, inputs, strict=True))
        starts = [contiguous(t, self.dtype) for t in starts]
        fresh = starts if layout.packed_resets is None else [contiguous(t, self.dtype) for t in fresh]
        given: dict[Value, Tensor] = {}
        storages: dict[Value, Tensor] = {}
        if backward is not None and layout.order is None and layout.packed_resets is None:
            # With the first state in front, the states before each step and those after it are two views of one tensor.
            for old, new, start in zip(section.old, section.new, starts, strict=True):
                if old in backward.keeps and new not in given:
                    storage = empty(layout.batch + layout.rows, *new.row_shape, dtype=self.dtype)
                    storage[: layout.batch] = start
                    storages[old], given[new] = storage[: layout.rows], storage[layout.batch :]
        outputs, _, finals = part.run(layout, known, given, starts, fresh)
        known |= outputs | storages
        if backward is not None:
            for old, new, start, again in zip(section.old, section.new, starts, fresh, strict=True):
                if old in backward.keeps and old not in storages:
                    known[old] = layout.previous(outputs[new], start, again)
        return [outputs[v] for v in section.outputs] + finals, known


class _Part:
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
        self.odd_outputs = [v for v in self.outputs if v.dtype == torch.bool or v.batch_axis > 0]
        self.derived = [v for v in (*shared, *matrices) if v.op != "input"]
        self.kernel = Kernel(
            self.streams, tuple(shared), tuple(carries), self.outputs, tuple(sums), owner.dtype, reverse, owner.bfloat16
        )

    @functools.cached_property
    def compiled(self) -> CompiledKernel:
        return compiled(self.kernel)

    def prepared(self, known: dict[Value, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What all rows share, as the kernel wants it."""
        prelude = known
        if self.derived:
            prelude = dict(known)
            interpreter.evaluate(self.derived, prelude, 0)
        dtype = self.owner.dtype
        return [contiguous(prelude[v], dtype) for v in self.shared], self.compiled.pack(prelude)

    def run(
        self,
        layout: Layout,
        known: dict[Value, Tensor],
        given: dict[Value, Tensor],
        starts: Any = (),
        fresh: Any = (),
        prepared: Any = None,
    ) -> tuple[dict[Value, Tensor], list[Tensor], list[Tensor]]:
        """Outputs by value, sums, and what is carried out at the end; autograd must be off."""
        dtype, rows = self.owner.dtype, layout.rows
        invariants, packed = prepared or self.prepared(known)
        streams = [dense_rows(known[v], v.batch_axis, v.dtype if v in self.indices else dtype) for v in self.streams]
        outputs = {v: given[v] if v in given else empty(rows, *v.row_shape, dtype=dtype) for v in self.outputs}
        # A row without steps ends as it starts.
        finishes = [start.clone() if layout.order is not None else torch.empty_like(start) for start in starts]
        sums = self.compiled.run(layout, streams, invariants, packed, list(outputs.values()), starts, finishes, fresh)
        for value in self.odd_outputs:
            tensor = outputs[value]
            tensor = tensor.bool() if value.dtype == torch.bool else tensor
            outputs[value] = tensor.movedim(0, value.batch_axis)
        return outputs, sums, finishes


def _reach(roots: Sequence[Value], leaves: set[Value]) -> tuple[list[Value], list[Value], list[Value]]:
    """Which of ``leaves`` the roots are made of, and which values without rows: read by all, and right operands."""
    used: dict[Value, None] = {}
    shared: dict[Value, None] = {}
    matrices: dict[Value, None] = {}
    seen: set[Value] = set()
    stack = list(roots)
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in leaves:
            used[value] = None
        elif value.op == "dot":
            matrices[value.inputs[1]] = None
            stack.append(value.inputs[0])
        elif not value.has_rows:
            if value.op != "full":
                shared[value] = None
        else:
            stack.extend(value.inputs)
    return list(used), list(shared), list(matrices)


class _Backward:
    """The backward pass of a section: its own kernel, and the products over all rows after it."""

    def __init__(self, owner: CompiledSection, wanted: tuple[bool, ...]):
        section = owner.section
        self.owner = owner
        self.wanted = [v for v, want in zip(section.inputs, wanted, strict=True) if want]
        d = self.derivative = derive(section, tuple(self.wanted))
        available = {
            *owner.rows_in, *section.old, *section.new, *section.outputs,
            *d.saved, *d.output_cotangents, *d.state_cotangents,
        }  # fmt: skip
        outputs = [g for g in d.gradients if g is not None and g.has_rows and g not in available]
        for contraction in d.contractions:
            if contraction.op == "outer":
                outputs += [v for v in map(_whole, contraction.inputs) if v not in available]
        sums = [c.inputs[0] for c in d.contractions if c.op == "rowsum"]
        carries = tuple(zip(d.state_cotangents, d.state_gradients, strict=True))
        streams = available - set(d.state_cotangents)
        self.part = _Part(owner, outputs, carries, sums, True, streams)
        self.turned = {g: v for v, g in zip(self.wanted, d.gradients, strict=True) if g in d.contractions}
        # What has to stay alive between the passes.
        reads = {*self.part.streams, *(_whole(v) for c in d.contractions if c.op == "outer" for v in c.inputs)}
        reads |= {g for g in d.gradients if g is not None}
        self.keeps = [v for v in (*owner.rows_in, *section.old, *section.new, *section.outputs, *d.saved) if v in reads]

        # The states before each step are those after the one before it.
        before = [new for old, new in owner._carries() if old in reads]
        kept = [*section.outputs, *before, *(v for v in (*section.new, *d.saved) if v in reads)]
        self.forward = _Part(owner, kept, owner._carries())

    def run(
        self, layout: Layout, known: dict[Value, Tensor], from_above: Sequence[Tensor | None], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
        """Gradients of the wanted inputs, of the states before the first step, and of those at resets."""
        section, d, dtype = self.owner.section, self.derivative, self.owner.dtype
        count = len(section.outputs)
        for cotangent, tensor in zip(d.output_cotangents, from_above[:count], strict=True):
            # No gradient from above: one row of zeros that stands for all.
            known[cotangent] = (
                torch.zeros(1, *cotangent.row_shape, dtype=dtype)
                .expand(layout.rows, *cotangent.row_shape)
                .movedim(0, cotangent.batch_axis)
                if tensor is None
                else tensor
            )
        starts = [
            torch.zeros(layout.batch, *c.row_shape, dtype=dtype) if t is None else contiguous(t, dtype)
            for c, t in zip(d.state_cotangents, from_above[count:], strict=True)
        ]
        ended = [torch.zeros_like(start) for start in starts]
        if self.part.outputs or self.part.kernel.sums or starts:
            outputs, sums, finishes = self.part.run(layout, known, {}, starts, ended)
        else:
            outputs, sums, finishes = {}, [], []
        known.update(outputs)
        totals = iter(sums)
        for contraction in d.contractions:
            if contraction.op == "rowsum":
                known[contraction] = next(totals).reshape(contraction.shape).to(contraction.dtype)
            else:
                a, g = (_part_of(v, known) for v in contraction.inputs)
                turned = contraction in self.turned and known[self.turned[contraction]].stride(0) == 1
                # The gradient of a transposed weight is laid out like the weight: nobody has to turn it again.
                known[contraction] = _over_rows(a, g, turned, self.owner.pairs)
        shared = [g for g in d.gradients if g is not None and not g.has_rows]
        interpreter.evaluate(shared, known, layout.rows)
        return [None if g is None else known[g] for g in d.gradients], finishes, ended


_WIDE = 512
"""Features from which the left operand of a product over rows is better the other one: its rows are pages apart."""


def _over_rows(a: Tensor, g: Tensor, turned: bool, pairs: bool) -> Tensor:
    """The product over rows, aᵀ g; if ``turned``, laid out as its transpose is."""
    if pairs:
        a, g = halve_rows(a), halve_rows(g)
    if not turned:
        return outer(a, g, pairs=pairs)
    if g.shape[1] >= _WIDE and a.shape[1] < g.shape[1]:
        return outer(a, g, pairs=pairs).t().contiguous().t()
    return outer(g, a, pairs=pairs).t()


def _whole(value: Value) -> Value:
    """What a slice of features is a part of."""
    while value.op == "slice" and value.has_rows:
        value = value.inputs[0]
    return value


def _part_of(value: Value, known: dict[Value, Tensor]) -> Tensor:
    if value in known:
        return known[value]
    dim, start, step = value.attributes
    whole = _part_of(value.inputs[0], known)
    return whole[(slice(None),) * dim + (slice(start, start + step * value.shape[dim], step),)]


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


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledSection, layout: Layout, *tensors: Tensor) -> tuple[Tensor, ...]:
        section = compiled.section
        count, states = len(section.inputs), len(section.old)
        inputs, starts, fresh = tensors[:count], tensors[count : count + states], tensors[count + states :]
        wanted = tuple(
            needs and tensor.dtype.is_floating_point
            for needs, tensor in zip(ctx.needs_input_grad[2 : 2 + count], inputs, strict=True)
        )
        backward = compiled.backward(wanted)
        results, known = compiled.forward(layout, inputs, starts, fresh, backward)
        ctx.compiled, ctx.layout, ctx.run = compiled, layout, backward
        ctx.wanted = wanted
        ctx.set_materialize_grads(False)
        # Inputs and outputs are saved as such, so that autograd can see to them; the rest is ours.
        kept = [known[v] for v in backward.keeps]
        ctx.save_for_backward(*tensors, *kept)
        ctx.given = len(tensors)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *from_above: Tensor | None) -> tuple[Any, ...]:
        compiled, layout = ctx.compiled, ctx.layout
        section = compiled.section
        count, states = len(section.inputs), len(section.old)
        tensors, kept = ctx.saved_tensors[: ctx.given], ctx.saved_tensors[ctx.given :]
        if torch.is_grad_enabled():
            return (None, None, *_by_interpreter(section, layout, tensors, ctx.needs_input_grad[2:], from_above))
        known = dict(zip(section.inputs, tensors[:count], strict=True))
        known.update(zip(ctx.run.keeps, kept, strict=True))
        found, to_starts, to_fresh = ctx.run.run(layout, known, from_above, tensors[count + states :])
        gradients = iter(found)
        inputs = [next(gradients) if want else None for want in ctx.wanted]
        inputs = [
            g if g is None or g.dtype == t.dtype else g.to(t.dtype) for g, t in zip(inputs, tensors, strict=False)
        ]
        reset = layout.packed_resets is not None
        return (None, None, *inputs, *to_starts, *(to_fresh if reset else [None] * states))


def _by_interpreter(section: Section, layout: Layout, tensors: Any, needs: Any, from_above: Any) -> list[Tensor | None]:
    """The gradient as something that has a derivative itself."""
    count, states = len(section.inputs), len(section.old)
    with torch.enable_grad():
        # Stand-ins: the gradient of one must not take in what reaches it through another that is made of it.
        tensors = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        inputs, starts, fresh = tensors[:count], tensors[count : count + states], tensors[count + states :]
        outputs, finals = run_section(section, layout, inputs, starts, fresh)
        pairs = [
            (o, g) for o, g in zip([*outputs, *finals], from_above, strict=True) if g is not None and o.requires_grad
        ]
        wanted = [t for t, need in zip(tensors, needs, strict=True) if need]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
            )
        )
    return [next(found) if need else None for need in needs]
