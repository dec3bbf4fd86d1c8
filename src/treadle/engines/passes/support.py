"""Which sections can be compiled, by any engine that does; and why another cannot."""

import collections
from collections.abc import Mapping, Sequence

import torch

from treadle.compiler import program as p
from treadle.compiler.fission import Section
from treadle.compiler.program import Value

_MOST, _SLOW = 4_000, 10
"""Operations that are compiled at most, in seconds; a product or a reduction takes as long as so many others."""
_KNOWN = p.ELEMENTWISE | p.VIEWS | p.REDUCTIONS | {"cat", "dot", "full", "embedding"}


def why_not(section: Section) -> str | None:
    """Why no engine has machine code for a section; None if one may."""
    values = [v for v in section.values() if v.has_rows]
    reason = next(filter(None, (why_unknown(value, section.lines) for value in values)), None)
    if reason is not None:
        return reason
    kept = [*values, *section.old, *section.new]
    types = {v.dtype for v in (*kept, *(v for v in section.inputs if v.dtype.is_floating_point))} - {torch.bool}
    if len(types) != 1 or not types <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        return f"it computes in {names}, not in one of float32, float64"
    if any(v.dtype == torch.bool for v in section.new):
        return "a state is boolean"
    return _too_long(values, section.lines)


def why_unknown(value: Value, lines: Mapping[Value, str]) -> str | None:
    """Why there is no machine code for an operation with rows, whatever it is a part of; None if there is."""
    line = lines.get(value) or "a step"
    if value.op not in _KNOWN:
        return f"{line}: {value.call.function if value.op == 'opaque' else value.op} has no machine code here"
    if value.op == "embedding" and (value.inputs[1].op != "input" or len(value.inputs[1].shape) != 1):
        return f"{line}: an embedding looks up what is not the input itself"
    if value.op in ("eq", "ne") and value.inputs[0].dtype == torch.bool:
        return f"{line}: booleans are compared with each other"
    if value.op == "dot" and (len(value.shape) != 2 or value.batch_axis != 0):
        return f"{line}: a product has more than two axes"
    return None


def _too_long(values: Sequence[Value], lines: Mapping[Value, str]) -> str | None:
    """Why so many operations are not compiled, if they are too many."""
    counted = [v for v in values if v.op not in p.VIEWS and v.op != "full"]
    if sum(_SLOW if v.op == "dot" or v.op in p.REDUCTIONS else 1 for v in counted) <= _MOST:
        return None
    ((line, _),) = collections.Counter(lines.get(v) or "a step" for v in counted).most_common(1)
    return (
        f"{line}: a step has {len(counted):,} operations, and to compile so many takes minutes: write fewer, such as an"
        " inner loop of fewer steps, or let the sequence have more steps instead"
    )
