"""A loop over a sequence as one node of PyTorch's autograd."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.autograd import gradients_again
from treadle.engines.engine import Refusal
from treadle.engines.gpu.device import Gpu, gpu_of
from treadle.engines.gpu.plan.section import GpuSection, KernelOfPass, run_pass
from treadle.engines.layout import Layout
from treadle.engines.passes.rows import contiguous, rows_first, with_rows_in_place
from treadle.engines.passes.section_passes import DerivedPasses, part_of
from treadle.engines.step_by_step import run_section
from treadle.torch_internals import is_batched

Wanted = tuple[bool, ...]


class Loop:
    """A loop, ready to run.

    Args:
        section: as it is in the plan.
        own: its kernels.
        visible: which values are read outside.
    """

    def __init__(self, section: Section, own: GpuSection, visible: Iterable[Value]):
        self.section, self.own = own.section, own
        self.given = section.inputs
        seen = set(visible)
        self.outputs = tuple(v for v in section.outputs if v in seen)
        pairs = zip(section.outputs, own.section.outputs, strict=True)
        self._visible = [mine for value, mine in pairs if value in seen]

    def run(
        self, layout: Layout, given: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs [N, ...], and the states after the last step of each row."""
        everything = [*given, *starts, *fresh]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in everything):
            results = list(_Node.apply(self, layout, *everything))  # pyright: ignore
        else:
            with torch.no_grad():
                results, _ = self.forward(layout, everything, None)
        return results[: len(self.outputs)], results[len(self.outputs) :]

    def divided(self, everything: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """What belongs to inputs, to states before the first step, and to those at resets."""
        count, states = len(self.section.inputs), len(self.section.old)
        return everything[:count], everything[count : count + states], everything[count + states :]

    def derivative(self, needs: Sequence[bool]) -> DerivedPasses[KernelOfPass]:
        """The derivative, where gradients of these inputs and states are wanted."""
        inputs, _, _ = self.divided(needs)
        pairs = zip(inputs, self.section.inputs, strict=True)
        return self.own.derivative(tuple(bool(need) and v.dtype.is_floating_point for need, v in pairs))

    def forward(
        self, layout: Layout, everything: Sequence[Tensor], derivative: DerivedPasses[KernelOfPass] | None
    ) -> tuple[list[Tensor], dict[Value, Tensor]]:
        """What is visible and the states after the last step; and the rows that the backward pass reads besides."""
        section, dtype = self.section, self.own.dtype
        inputs, starts, fresh = self.divided(everything)
        known = dict(zip(section.inputs, inputs, strict=True))
        one = self.own.plain if derivative is None else derivative.forward
        fresh = [contiguous(tensor, dtype) for tensor in fresh]
        done = run_pass(one, _gpu(starts[0]), layout, rows_of(known), without_rows(known), starts, fresh)
        kept: dict[Value, Tensor] = {}
        if derivative is not None:
            states = zip(section.old, section.new, starts, fresh, strict=True)
            for old, new, start, again in states:
                if old in derivative.keeps and old not in done.outputs:
                    kept[old] = layout.previous(done.outputs[new], start.to(dtype), again)
            kept |= {v: t for v, t in done.outputs.items() if v in derivative.keeps}
        results: list[Tensor] = []
        for value in self._visible:
            tensor = done.outputs[value].to(value.dtype)
            tensor = tensor.clone() if value in kept else tensor  # callers may write into what they get
            results.append(with_rows_in_place(tensor, value))
        return [*results, *done.ends], kept

    def backward(
        self,
        layout: Layout,
        derivative: DerivedPasses[KernelOfPass],
        everything: Sequence[Tensor],
        kept: dict[Value, Tensor],
        from_above: Sequence[Tensor | None],
    ) -> list[Tensor | None]:
        """The gradients of inputs, of states before the first step, and of those at resets."""
        section, program, dtype = self.section, derivative.program, self.own.dtype
        inputs, starts, _ = self.divided(everything)
        known = dict(zip(section.inputs, inputs, strict=True))
        some, count = starts[0], len(self._visible)
        above = dict(zip(self._visible, from_above[:count], strict=True))
        rows = rows_of(known) | kept
        for value, cotangent in zip(section.outputs, program.output_cotangents, strict=True):
            gradient = above.get(value)
            zeros = some.new_zeros((1, *value.row_shape), dtype=dtype).expand(layout.rows, *value.row_shape)
            rows[cotangent] = zeros if gradient is None else rows_first(gradient, value)
        ends = [
            torch.zeros_like(start, dtype=dtype) if gradient is None else gradient
            for start, gradient in zip(starts, from_above[count:], strict=True)
        ]
        fresh = [torch.zeros_like(end, dtype=dtype, memory_format=torch.contiguous_format) for end in ends]
        shared = without_rows(known)
        done = run_pass(derivative.backward, _gpu(some), layout, rows, shared, ends, fresh)
        rows |= done.outputs
        found = shared | self._contracted(derivative, rows, done.sums)
        for value in derivative.read_by_torch:
            found[value] = with_rows_in_place(rows[value], value).to(value.dtype)
        gradients = dict(zip(derivative.wanted, program.gradients, strict=True))
        without = [g for g in gradients.values() if g is not None and not g.has_rows]
        interpreter.evaluate(without, found, layout.rows, some.device)
        of_inputs: list[Tensor | None] = []
        for value, tensor in zip(section.inputs, inputs, strict=True):
            gradient = gradients.get(value)
            if gradient is None:
                of_inputs.append(None)
            else:
                result = with_rows_in_place(rows[gradient], gradient) if gradient.has_rows else found[gradient]
                of_inputs.append(result.to(tensor.dtype))
        return [*of_inputs, *done.ends, *fresh]

    def interpreted(self, layout: Layout, everything: Sequence[Tensor]) -> list[Tensor]:
        """The same results as those of `forward`, by PyTorch."""
        outputs, ends = run_section(self.section, layout, *self.divided(everything))
        known = dict(zip(self.section.outputs, outputs, strict=True))
        return [*(known[value] for value in self._visible), *ends]

    @staticmethod
    def _contracted(
        derivative: DerivedPasses[KernelOfPass], rows: dict[Value, Tensor], sums: Sequence[Tensor]
    ) -> dict[Value, Tensor]:
        """Sums and products over all rows and steps, each product one operation of PyTorch's."""
        found: dict[Value, Tensor] = {}
        left = iter(sums)
        for contraction in derivative.program.contractions:
            if contraction.op == "rowsum":
                found[contraction] = next(left).view(contraction.shape)  # pyright: ignore
                continue
            factors = []
            for value in contraction.inputs:
                whole, start = part_of(value)
                flat = rows[whole].reshape(len(rows[whole]), -1)
                factors.append(flat[:, start : start + value.shape[1]])  # pyright: ignore
            found[contraction] = factors[0].t() @ factors[1]
        return found


def rows_of(known: dict[Value, Tensor]) -> dict[Value, Tensor]:
    """Values with rows, the rows first."""
    return {v: rows_first(t, v) for v, t in known.items() if v.has_rows}


def without_rows(known: dict[Value, Tensor]) -> dict[Value, Tensor]:
    """Values without rows."""
    return {v: t for v, t in known.items() if not v.has_rows}


def _gpu(tensor: Tensor) -> Gpu:
    gpu = gpu_of(tensor.device)
    assert not isinstance(gpu, Refusal), gpu
    return gpu


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loop: Loop, layout: Layout, *everything: Tensor) -> tuple[Tensor, ...]:
        derivative = loop.derivative(ctx.needs_input_grad[2:])
        results, kept = loop.forward(layout, everything, derivative)
        ctx.loop, ctx.layout, ctx.derivative, ctx.kept = loop, layout, derivative, tuple(kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*everything, *kept.values())
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *from_above: Tensor | None) -> tuple[Any, ...]:
        loop, layout, needs, saved = ctx.loop, ctx.layout, ctx.needs_input_grad[2:], ctx.saved_tensors
        count = len(needs)
        everything, kept = saved[:count], dict(zip(ctx.kept, saved[count:], strict=True))
        if torch.is_grad_enabled() or any(g is not None and is_batched(g) for g in from_above):

            def run(tensors: Sequence[Tensor]) -> list[Tensor]:
                return loop.interpreted(layout, tensors)

            return (None, None, *gradients_again(run, everything, needs, from_above))
        found = loop.backward(layout, ctx.derivative, everything, kept, from_above)
        return (None, None, *(g if need else None for g, need in zip(found, needs, strict=True)))
