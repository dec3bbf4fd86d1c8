"""Sections in plain PyTorch, step by step: what every other way of running them has to agree with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.fission import Kind, Section
from treadle.engines.engine import Engine
from treadle.engines.layout import Layout
from treadle.state import where


class Interpreter(Engine):
    """The engine that leaves every section to PyTorch."""

    name = "interpreter"


def run_section(
    section: Section, layout: Layout, inputs: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a section, of any kind but a shift, over a sequence: see `Runner.run`; states are those of a loop."""
    known = dict(zip(section.inputs, inputs, strict=True))
    if section.kind is not Kind.LOOP:
        interpreter.evaluate(section.outputs, known, layout.rows)
        return [known[v] for v in section.outputs], []
    state = list(starts)
    moments: list[list[Tensor]] = []
    finals: list[list[Tensor]] = [[] for _ in state]
    counts, offsets = [count for count in layout.counts.tolist() if count], layout.offsets.tolist()
    # All of them at once: of each taken by itself, the backward pass would be as large as the sequence.
    with_rows = {v: tensor.split(counts, v.batch_axis) for v, tensor in known.items() if v.has_rows}
    for t, rows in enumerate(counts):
        for i, ended in enumerate(state):
            if len(ended) > rows:
                finals[i].insert(0, ended[rows:])
                state[i] = ended[:rows]
        at = slice(offsets[t], offsets[t] + rows)
        if layout.packed_resets is not None:
            again = layout.packed_resets[at].bool()
            state = [where(again, f[:rows], s) for s, f in zip(state, fresh, strict=True)]
        now = {**known, **{v: rows_of_steps[t] for v, rows_of_steps in with_rows.items()}}
        now.update(zip(section.old, state, strict=True))
        interpreter.evaluate([*section.outputs, *section.new], now, rows)
        moments.append([now[v] for v in section.outputs])
        state = [now[v] for v in section.new]
    for i, ended in enumerate(state):
        finals[i].insert(0, ended)
    axes = [v.batch_axis for v in section.outputs]
    outputs = [torch.cat(parts, axis) for parts, axis in zip(zip(*moments, strict=True), axes, strict=True)]
    return outputs, [torch.cat(parts) for parts in finals]
