"""A network's step in pieces, where it cannot be one kernel: which of its operations have machine code."""

import torch

from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.compiler.pieces import Pieces, pieces
from treadle.compiler.program import Program, Value
from treadle.engines.engine import Refusal
from treadle.engines.network import Network
from treadle.engines.passes.support import why_not, why_unknown
from treadle.engines.whole_step import live_program

_TYPES = (torch.float32, torch.float64)


def step_pieces(network: Network) -> Pieces | Refusal:
    """A network's step in pieces; or why there are none, or none that has machine code."""
    program, random = live_program(network), network.plan(False).random
    dtype = _dtype_of(program)
    if dtype is None:
        return Refusal("it computes in none of float32, float64")
    found = pieces(
        program, lambda value: _why_left_out(value, dtype, program) != "", lambda v: v.dtype != dtype, random
    )
    compiled = [section for section in found.sections if section.kind is not Kind.OPAQUE]
    if not any(_computes(section) for section in compiled):
        return Refusal(why_in_pieces(network))
    return next((Refusal(reason) for section in compiled if (reason := why_not(section))), found)


def why_in_pieces(network: Network) -> str:
    """Why PyTorch computes a part of a network's step: of the first such part; empty if it computes nothing."""
    if network.plan(False).random:
        return "it draws random numbers"
    program = live_program(network)
    dtype = _dtype_of(program)
    values = [value for value in program.values() if value.has_rows and value.op not in (p.VIEWS | {"input"})]
    reasons = [_why_left_out(value, dtype, program) for value in values]
    for name, value in program.outputs.items():
        what = "the output" if name == "y" else name.replace("/", " ", 1)
        reasons.append("" if value.dtype == dtype else f"{what} is {_word(value.dtype)}")
    return next(filter(None, reasons), "")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _why_left_out(value: Value, dtype: torch.dtype | None, program: Program) -> str:
    """Why PyTorch computes a value with rows; empty if there is machine code for it."""
    reason = why_unknown(value, program.lines)
    if reason is not None:
        return reason
    read = [operand for operand in value.inputs if operand.has_rows or operand.dtype.is_floating_point]
    others = {v.dtype for v in (value, *read)} - {dtype, torch.bool}
    if value.op == "embedding":
        others.discard(value.inputs[1].dtype)
    if others:
        line = program.lines.get(value) or "a step"
        return f"{line}: it computes in {', '.join(sorted(map(_word, others)))}"
    return ""


def _dtype_of(program: Program) -> torch.dtype | None:
    """In which type there is machine code for a step: that of the input, or of what it gives."""
    values = (program.inputs["x"], *program.outputs.values())
    return next((value.dtype for value in values if value.dtype in _TYPES), None)


def _computes(section: Section) -> bool:
    """Whether a section is more than views and copies."""
    return any(value.has_rows and value.op not in (p.VIEWS | {"input"}) for value in section.values())
