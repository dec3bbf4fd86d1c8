"""The gate of a cell that draws at random: the reference makes the choices that another run has made."""

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import treadle as td
from benchmarks.gates import Check, compare
from benchmarks.training import Training
from treadle.state import named_tensors

TRIES = 3


class FollowingZoneoutLSTMCell(td.ZoneoutLSTMCell):
    """A zoneout LSTM that keeps the units which are seen to be kept in a recorded run."""

    def follow(self, hidden: Tensor, cells: Tensor) -> None:
        """Take the recorded states [T, B, H] of a run from the initial state as the ones to come to."""
        self.recorded = [hidden, cells]
        self.kept: list[list[Tensor]] = [[], []]

    def _keep(self, before: Tensor, after: Tensor, probability: float) -> Tensor:
        field = 0 if probability == self.zoneout_hidden else 1  # they are called for h and for c
        t, recorded = len(self.kept[field]), self.recorded[field]
        now, previous = recorded[t], recorded[t - 1] if t else torch.zeros_like(recorded[0])
        # after + (before - after) is before but for the rounding of the difference and of the sum.
        rounding = torch.finfo(recorded.dtype).eps / 2 * ((previous - after).abs() + previous.abs())
        kept = (now - previous).abs() <= 1.01 * rounding
        self.kept[field].append(kept)
        return torch.where(kept, before, after)

    def masks(self) -> list[Tensor]:
        """What was kept of h and of c, [T, B, H] each."""
        return [torch.stack(kept) for kept in self.kept]


class Followed(NamedTuple):
    """What came of following a run: whether it was right, what it had to compute, and what each layer kept."""

    checks: list[Check]
    values: dict[str, Tensor]
    masks: list[list[Tensor]]


def follow(side: str, training: Training) -> Followed:
    """Run at random, let the float64 reference follow, compare all values and gradients, and count.

    A unit that comes to where it was looks kept. Among millions that happens, and spoils the gradients, about once in
    twenty runs, so a run that is not right gets two more chances; what is wrong never comes out right.
    """
    for _ in range(TRIES):
        followed = _follow(side, training)
        if all(check.ok for check in followed.checks):
            break
    return followed


def _follow(side: str, training: Training) -> Followed:
    states: dict[str, Tensor] = {}

    def recording(module: Any, x: Tensor) -> dict[str, Tensor]:
        ys, state, every = module(x, return_states=True)
        states.update((name, tensor.detach()) for name, tensor in named_tensors(every))
        return {"ys": ys, **dict(named_tensors(state))}

    recorded = replace(training, forward=recording).values()
    reference = training.double(reference_of(training.module))
    cells: Any = reference.module.cell.cells
    for i, cell in enumerate(cells):
        cell.follow(states[f"layer{i}/h"], states[f"layer{i}/c"])
    values = reference.values()
    checks = [compare(side, recorded, values)]
    for i, cell in enumerate(cells):
        for field, kept, probability in zip("hc", cell.masks(), (cell.zoneout_hidden, cell.zoneout_cell), strict=True):
            off = abs(kept.double().mean().item() - probability)
            five_sigma = 5 * (probability * (1 - probability) / kept.numel()) ** 0.5
            checks.append(Check(side, off, five_sigma, f"share kept of layer{i}/{field}"))
    return Followed(checks, values, [cell.masks() for cell in cells])


def reference_of(module: Any) -> td.Recurrent:
    """The same network on the reference engine, with cells that follow."""
    cells = []
    for cell in module.cell.cells:
        following = copy.copy(cell)
        following.__class__ = FollowingZoneoutLSTMCell
        cells.append(following)
    return td.Recurrent(td.Stack(cells), batch_first=False, engine="reference")
