"""The gate of a cell that draws at random: the reference makes the choices that another run has made."""

import copy
from typing import Any

import torch
from torch import Tensor

import treadle as td
from benchmarks.gates import Check, compare
from benchmarks.training import Training
from treadle.state import named_tensors


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
        # after + (before - after) is before to within two roundings of the larger of the two.
        rounding = 2 * torch.finfo(recorded.dtype).eps * torch.maximum(previous.abs(), after.abs())
        kept = (now - previous).abs() <= rounding
        self.kept[field].append(kept)
        return torch.where(kept, before, after)

    def shares(self) -> dict[str, tuple[float, float, int]]:
        """Of each field: the share of units that were kept, its probability, and how many there are."""
        probabilities = {"h": self.zoneout_hidden, "c": self.zoneout_cell}
        counted = {}
        for (field, probability), kept in zip(probabilities.items(), self.masks(), strict=True):
            counted[field] = (kept.double().mean().item(), probability, kept.numel())
        return counted

    def masks(self) -> list[Tensor]:
        """What was kept of h and of c, [T, B, H] each."""
        return [torch.stack(kept) for kept in self.kept]


def check_random(name: str, training: Training) -> tuple[list[Check], Training]:
    """Run once at random, let the float64 reference follow, compare all values and gradients, and count.

    Returns the checks and the reference, which has the masks.
    """
    states: dict[str, Tensor] = {}

    def forward(module: Any, x: Tensor) -> dict[str, Tensor]:
        ys, state, every = module(x, return_states=True)
        states.update((key, tensor.detach()) for key, tensor in named_tensors(every))
        return {"ys": ys, **dict(named_tensors(state))}

    recorded = Training(training.module, forward, training.x, training.cotangents).values()
    reference = training.double(reference_of(training.module))
    cells = reference.module.cell.cells  # pyright: ignore[reportAttributeAccessIssue]
    for i, cell in enumerate(cells):
        cell.follow(states[f"layer{i}/h"], states[f"layer{i}/c"])
    checks = [compare(name, recorded, reference.values())]
    for i, cell in enumerate(cells):
        for field, (share, probability, count) in cell.shares().items():
            five_sigma = 5 * (probability * (1 - probability) / count) ** 0.5
            checks.append(Check(name, abs(share - probability), five_sigma, f"share kept of layer{i}/{field}"))
    return checks, reference


def reference_of(module: Any) -> td.Recurrent:
    """The same network on the reference engine, with cells that follow."""
    cells = []
    for cell in module.cell.cells:
        following = copy.copy(cell)
        following.__class__ = FollowingZoneoutLSTMCell
        cells.append(following)
    return td.Recurrent(td.Stack(cells), batch_first=False, engine="reference")
