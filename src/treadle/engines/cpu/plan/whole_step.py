"""A network's step as one section, and whether that can be a kernel."""

import torch

from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.compiler.program import Value
from treadle.engines.cpu.plan.section import why_not
from treadle.engines.network import Network


def whole_step(network: Network) -> Section:
    """A network's step as one section, in which every state is carried."""
    program = network.plan(False).program
    names = tuple(name for name in program.inputs if name.startswith("state/"))
    inputs = tuple(value for name, value in program.inputs.items() if name not in names)
    outputs = (program.outputs["y"], *(program.outputs[n] for n in names))
    # Live there is no derivative, which is what makes an embedding more than a look into a table.
    looks = {v: p.embedding(*v.inputs) for v in p.ordered(outputs) if _is_embedding(v)}
    lines = dict(program.lines)
    built = p.rebuild(outputs, looks, lines)
    y, *new = (built[v] for v in outputs)
    return Section(Kind.LOOP, inputs, (y,), names, tuple(program.inputs[n] for n in names), tuple(new), lines)


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
