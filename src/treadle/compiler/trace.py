"""From Python to a program: a step is run once, on tensors that hold no numbers, and every operation is noted.

A step is run twice, with another batch size: what then comes out otherwise depends on what no program can hold.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from treadle.compiler import program as p
from treadle.compiler.guards import Guards
from treadle.compiler.module_contents import Contents, tensors_of
from treadle.compiler.neutral import neutral
from treadle.compiler.program import BATCH, Program, Value
from treadle.compiler.reads import Reads
from treadle.compiler.source_lines import failed_line, first_line
from treadle.compiler.tracer import AboveAutograd, Traced, Tracer
from treadle.compiler.walk import preorder
from treadle.compiler.watch import Watch
from treadle.errors import CellError, TraceError
from treadle.torch_internals import function_of


@dataclasses.dataclass(frozen=True)
class Trace:
    """What became of tracing a step.

    Args:
        program: the step; None if it cannot be turned into a program.
        lifted: the real tensors that it reads besides its inputs, by name.
        error: why there is no program: the user's line, the operation and what to write instead.
        guards: whether the step would be traced alike; None if that cannot be told.
        codes: the code that ran.
    """

    program: Program | None
    lifted: Mapping[str, Tensor]
    error: str
    guards: Guards | None
    codes: frozenset[CodeType]


Step: TypeAlias = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

_CPU = torch.device("cpu")


def trace_step(
    cell: nn.Module,
    inputs: Mapping[str, Value],
    step: Step,
    watch: Watch | None = None,
    device: torch.device = _CPU,
) -> Trace:
    """Trace a step of a cell.

    The step takes a tensor for each of ``inputs`` and returns outputs by name; the tensors of the cell become inputs
    ``"parameter/PATH"``. Whoever watches sees both runs. A step that asks where
    its tensors are is told ``device``.
    """
    reads = Reads()
    program, lifted, error, guards = None, {}, "", None
    with neutral():
        generator = torch.get_rng_state()
        try:
            program, lifted = _trace_twice(cell, inputs, step, reads, watch, device)
        except TraceError as refused:
            error = str(refused)
        torch.set_rng_state(generator)  # a step may have set it
        try:
            guards = Guards(cell, reads)
        except TraceError as refused:
            program, error = None, error or str(refused)
    return Trace(program, lifted, error, guards, frozenset(reads.codes))


def _trace_twice(
    cell: nn.Module,
    inputs: Mapping[str, Value],
    step: Step,
    reads: Reads,
    watch: Watch | None,
    device: torch.device,
) -> tuple[Program, dict[str, Tensor]]:
    program, lifted, rows = _trace_once(cell, inputs, step, set(), reads, watch, device)
    again, others, _ = _trace_once(cell, inputs, step, {rows}, reads, watch, device)
    for value, other in itertools.zip_longest(program.values(), again.values()):
        if value is not other:
            line = program.lines.get(value) or again.lines.get(other) or "a step"
            raise TraceError(
                f"{line}: the step differs with another batch size, or from call to call: a step may compute neither"
                " with the number of rows nor with numbers from outside, such as Python's random numbers or a"
                " counter; what changes belongs into the state"
            )
    for name, tensor in lifted.items():
        if tensor is not others[name] and not torch.equal(tensor, others[name]):
            line = program.lines.get(program.inputs[name]) or "a step"
            raise TraceError(f"{line}: a tensor that is made of numbers from outside differs from call to call")
    return program, lifted


def _trace_once(
    cell: nn.Module,
    inputs: Mapping[str, Value],
    step: Step,
    avoid: set[Any],
    reads: Reads,
    watch: Watch | None,
    device: torch.device,
) -> tuple[Program, dict[str, Tensor], int]:
    held = tensors_of(cell)
    names = {id(tensor): f"parameter/{path}" for path, tensor in reversed(held.items())}
    sizes = {size for tensor in held.values() for size in tensor.shape}
    sizes |= {dim for v in inputs.values() for dim in v.shape if dim is not BATCH}
    tracer = Tracer(names, avoid | sizes, device)
    kept = Contents(cell)
    try:
        with tracer, AboveAutograd(tracer):
            given = {name: tracer.tensor(value, requires_grad=True) for name, value in inputs.items()}
            seen = contextlib.nullcontext() if watch is None else watch.watching(tracer)
            with reads.listening(kept.meet), seen:
                results = step(given)
        if tracer.failure is not None:  # the step may have caught it
            raise tracer.failure
        if reads.reason:
            raise TraceError(reads.reason)
        kept.check()
        _refuse_own_derivatives(results)
    except (TraceError, CellError):
        raise
    except Exception as error:
        if tracer.failure is not None:
            raise tracer.failure from None
        if reads.reason:  # the step has made another error of it
            raise TraceError(reads.reason) from None
        raise TraceError(
            f"{failed_line(error)}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    finally:
        reads.numbers = [one for one in tracer.numbers if one[0]() is not None]
        kept.restore()
    outputs = {name: t.value if isinstance(t, Traced) else tracer._lift(t) for name, t in results.items()}
    needed = {value.draw for value in p.ordered(outputs.values())}
    unread = tuple(value for value in tracer.drawn if value.draw not in needed)
    values = p.ordered((*outputs.values(), *unread))
    for value in values:
        line = tracer.lines.get(value) or "a step"
        if value.op in p.CONTRACTIONS:
            what = "a sum" if value.op == "rowsum" else "a product"
            raise TraceError(f"{line}: rows of the batch must not meet, but {what} goes over the batch axis")
        if value.draw is not None:
            if any(operand.op not in ("full", "input") or operand.name in inputs for operand in value.inputs):
                raise TraceError(
                    f"{line}: random numbers are drawn from a distribution that depends on the input: draw from"
                    " one that does not, and compute with what was drawn"
                )
            if not value.has_rows:
                raise TraceError(f"{line}: random numbers are drawn that all rows share: draw some for each row")
    used = {value.name for value in values if value.op == "input"}
    lifted = {name: tensor for name, tensor in tracer.lifted.items() if name in used}
    placeholders = {name: p.placeholder(name, tensor.shape, tensor.dtype) for name, tensor in lifted.items()}
    return Program({**inputs, **placeholders}, outputs, tracer.lines, unread), lifted, tracer.rows


def _refuse_own_derivatives(results: Mapping[str, Tensor]) -> None:
    """A custom autograd.Function has a derivative that a trace of the forward pass cannot know."""
    roots = [t.grad_fn for t in results.values() if isinstance(t, Tensor) and t.grad_fn is not None]
    for node in preorder(roots, lambda node: [after for after, _ in node.next_functions if after is not None]):
        function = function_of(node)
        if function is not None:
            raise TraceError(
                f"{first_line(function.forward.__code__)}: {function.__name__} is a function with a"
                " derivative of its own, which the compiler does not look into: write its forward in the step"
            )
