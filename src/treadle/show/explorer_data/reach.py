"""How strongly every step's states and inputs matter to the outputs, by the interpreter's own derivative."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.insight.replay import Replay
from treadle.show.explorer_data.arrays import array

MOST_OUTPUTS, LEAST_OUTPUTS, OUTPUTS_TIMES_STEPS = 128, 16, 25_000
"""How many outputs are followed back: all of them up to 128 steps; of longer sequences some, or it takes minutes."""
_NUMBERS = 30_000_000
"""How many numbers one pass keeps at most."""


def reach_data(replay: Replay, rows: dict[str, str], kept: int) -> dict[str, Any]:
    """Norms of gradients [outputs, rows, T]: of an output along a fixed random direction, with respect to each value.

    Args:
        replay: a sequence of one row.
        rows: by name, what of the program is followed: ``"x"``, or a component of the state, after the step.
        kept: how many numbers a step computes.
    """
    steps = len(replay.xs)
    most = min(MOST_OUTPUTS, max(LEAST_OUTPUTS, OUTPUTS_TIMES_STEPS // steps))
    outputs = np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(int)).tolist()
    group = max(1, _NUMBERS // max(1, kept * steps))
    groups = [outputs[first : first + group] for first in range(0, len(outputs), group)]
    norms = torch.cat([_norms(replay.copies(len(some)), some, list(rows.values())) for some in groups])
    return {"outputs": outputs, "rows": list(rows), "norms": array(norms)}


def _norms(replay: Replay, outputs: list[int], rows: list[str]) -> Tensor:
    """[outputs, rows, T], of which each row of the sequence follows one output, all of them in one backward pass."""
    y, steps = replay.program.outputs["y"], len(replay.xs)
    read = [x.detach().requires_grad_(x.is_floating_point()) for x in replay.xs]
    replay.xs = read
    with torch.enable_grad():
        moments = list(replay.each([y]))
        followed = [moments[t].values[y][place] for place, t in enumerate(outputs)]
        total = torch.stack([(one * _direction(one, t)).sum() for one, t in zip(followed, outputs, strict=True)]).sum()
    wanted = [read[t] if row == "x" else moments[t].after[row] for row in rows for t in range(steps)]
    norms = torch.zeros(len(wanted), len(outputs))
    differentiable = [place for place, tensor in enumerate(wanted) if tensor.requires_grad]
    if total.requires_grad and differentiable:
        found = torch.autograd.grad(total, [wanted[place] for place in differentiable], allow_unused=True)
        for place, gradient in zip(differentiable, found, strict=True):
            if gradient is not None:
                norms[place] = gradient.flatten(1).norm(dim=1)
    return norms.T.reshape(len(outputs), len(rows), steps).contiguous()


def _direction(y: Tensor, step: int) -> Tensor:
    """A fixed random direction of length one."""
    random = torch.Generator().manual_seed(step)
    drawn = torch.randn(y.shape, generator=random, dtype=torch.float64)
    return (drawn / drawn.norm().clamp(min=1e-30)).to(y)
