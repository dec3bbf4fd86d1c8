"""How strongly every step's states and inputs matter to the outputs, by the interpreter's own derivative."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.compiler.program import Value
from treadle.insight.replay import Replay
from treadle.show.explorer_data.arrays import array

MOST_OUTPUTS = 128
"""How many outputs are followed back; of a longer sequence, so many of its steps."""
_NUMBERS = 30_000_000
"""How many numbers one pass keeps at most."""


def reach_data(replay: Replay, rows: dict[str, Value], kept: int) -> dict[str, Any]:
    """Norms of gradients [outputs, rows, T]: of an output along a fixed random direction, with respect to each value.

    Args:
        replay: a sequence of one row.
        rows: the values, by name; ``"x"`` is left out where it is no float.
        kept: how many numbers a step computes.
    """
    steps = len(replay.xs)
    outputs = np.unique(np.linspace(0, steps - 1, min(steps, MOST_OUTPUTS)).round().astype(int)).tolist()
    group = max(1, _NUMBERS // max(1, kept * steps))
    groups = [outputs[first : first + group] for first in range(0, len(outputs), group)]
    norms = torch.cat([_norms(replay, some, rows) for some in groups])
    return {"outputs": outputs, "rows": list(rows), "norms": array(norms.float())}


def _norms(replay: Replay, outputs: list[int], rows: dict[str, Value]) -> Tensor:
    """[outputs, rows, T]: a copy of the sequence for each output, all of them in one backward pass."""
    many, y = replay.copies(len(outputs)), replay.program.outputs["y"]
    reads_floats = many.xs.is_floating_point()
    read = [x.requires_grad_(reads_floats) for x in many.xs.detach().unbind(0)]
    many.xs = read  # pyright: ignore[reportAttributeAccessIssue]
    values = {name: value for name, value in rows.items() if name != "x"}
    with torch.enable_grad():
        moments = list(many.each(dict.fromkeys([y, *values.values()])))
        total = sum((moments[t][y][place] * _direction(moments[t][y][place], t)).sum() for place, t in enumerate(outputs))  # noqa: E501
    found = {"x": read} | {name: [now[value] for now in moments] for name, value in values.items()}
    wanted = [tensor for name in rows for tensor in found[name]]
    if not isinstance(total, Tensor) or not total.requires_grad:
        return torch.zeros(len(outputs), len(rows), len(read))
    followed = [tensor for tensor in wanted if tensor.requires_grad]
    gradients = dict(zip(map(id, followed), torch.autograd.grad(total, followed, allow_unused=True), strict=True))
    return torch.stack([_norm(tensor, gradients.get(id(tensor))) for tensor in wanted], 1).reshape(
        len(outputs), len(rows), len(read)
    )


def _norm(tensor: Tensor, gradient: Tensor | None) -> Tensor:
    return torch.zeros(len(tensor)) if gradient is None else gradient.flatten(1).norm(dim=1).float()


def _direction(y: Tensor, step: int) -> Tensor:
    """A fixed random direction of length one."""
    random = torch.Generator().manual_seed(step)
    drawn = torch.randn(y.shape, generator=random, dtype=torch.float64)
    return (drawn / drawn.norm().clamp(min=1e-30)).to(y)
