"""A network's step as one section, and whether that can be a kernel."""

import torch

from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.compiler.program import Program, Value
from treadle.engines.network import Network
from treadle.engines.passes.support import why_not


def whole_step(network: Network) -> Section:
    """A network's step as one section, in which every state is carried."""
    program = live_program(network)
    names = tuple(name for name in program.inputs if name.startswith("state/"))
    inputs = tuple(value for name, value in program.inputs.items() if name not in names)
    old, new = (tuple(values[name] for name in names) for values in (program.inputs, program.outputs))
    return Section(Kind.LOOP, inputs, (program.outputs["y"],), names, old, new, program.lines)


def live_program(network: Network) -> Program:
    """A network's step as it is live.

    There is no derivative then, which is what makes an embedding more than a look into a table.
    """
    program = network.plan(False).program
    looks = {v: p.embedding(*v.inputs) for v in program.values() if _is_embedding(v)}
    lines = dict(program.lines)
    built = p.rebuild(program.outputs.values(), looks, lines)
    outputs = {name: built[value] for name, value in program.outputs.items()}
    return Program(program.inputs, outputs, lines, program.unread)


def _is_embedding(value: Value) -> bool:
    return value.op == "opaque" and value.call.function is torch.ops.aten.embedding.default


def reason_against(network: Network) -> str | None:
    """Why a network's step cannot be one kernel; None if it can."""
    if network.plan(False).random:
        return "it draws random numbers"
    section = whole_step(network)
    if not section.old:
        return "it has no state"
    x = network.program.inputs["x"]
    read = x in section.new or any(x in v.inputs and v.op != "embedding" for v in section.values())
    if read and not x.dtype.is_floating_point:
        return "it reads whole numbers, and not for an embedding alone"
    return why_not(section)
