"""The plan: which networks, for how many steps. It never looks at a clock, so equal commands give equal plans."""

import dataclasses
import itertools
import os
import re
from collections.abc import Sequence

from treadle.errors import ShapeError
from treadle.training.language_model import ROWS, match_hidden_size
from treadle.training.text import ROW_BYTES

EVALUATIONS = 8
"""How often every network is measured on the held-out text: the points of its learning curve."""

STEP_SECONDS = {
    "lstm": 0.25e-3,
    "gru": 0.27e-3,
    "rnn": 0.11e-3,
    "peephole": 0.34e-3,
    "layernorm": 0.40e-3,
    "zoneout": 0.34e-3,
    "coupled": 0.25e-3,
    "minimal": 0.23e-3,
    "slstm": 0.55e-3,
    "indrnn": 0.11e-3,
    "highway": 0.50e-3,
    "mingru": 0.11e-3,
    "minlstm": 0.15e-3,
    "rglru": 0.20e-3,
    "cfc": 0.45e-3,
}
"""The part of the time of one layer's step, forward and back, that does not depend on sizes; by cell.

All these constants are from two cores of a common server (AMD EPYC, 2024), rounded up by a tenth.
"""

FIXED_SECONDS = 0.05e-3
"""The same of embedding, scores and loss."""

FLOPS = 55e9
"""Floating-point operations a second on one core, in products of the sizes that occur here."""

SHARE = 0.4
"""How much of a budget in seconds is planned to be used: the rest is for slower and busier machines than ours."""

START_SECONDS = 5.0
"""Importing PyTorch in the worker processes, and the first, slow steps."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Length of training: seconds for everything, or steps for every network."""

    seconds: float | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """``90s``, ``2m``, ``1h`` or ``300steps``.

        Raises:
            ValueError: anything else, or nothing at all.

        Example:
            >>> Budget.parse("2m"), Budget.parse("300steps")
            (Budget(seconds=120.0, steps=None), Budget(seconds=None, steps=300))
        """
        match = re.fullmatch(r"(\d+|\d+\.\d+) ?(s|m|h|steps?)", text.strip(), re.ASCII)
        if not match or not 0 < float(match[1]) < 1e9:
            raise ValueError(
                f"a budget is a time such as 90s, 2m or 1h, or a number of steps such as 300steps, but is {text!r}"
            )
        number, unit = match.groups()
        if unit.startswith("step"):
            if not number.isdigit():
                raise ValueError(f"a number of steps is whole, but the budget is {text!r}")
            return cls(steps=int(number))
        return cls(seconds=float(number) * {"s": 1, "m": 60, "h": 3600}[unit])

    def __str__(self) -> str:
        return f"{self.steps}steps" if self.steps else f"{self.seconds:g}s"


@dataclasses.dataclass(frozen=True)
class Contender:
    """A kind of network in the comparison."""

    wiring: str
    cell: str
    layers: int
    hidden_size: int
    parameters: int

    @property
    def name(self) -> str:
        """Unique in a comparison: ``skip/lstm``."""
        return f"{self.wiring}/{self.cell}"

    def step_seconds(self, window: int) -> float:
        """About how long a training step takes on one core, from constants."""
        products = 6 * self.parameters * ROWS / FLOPS  # a product and its two gradients, each 2 operations a weight
        return window * (FIXED_SECONDS + self.layers * STEP_SECONDS[self.cell] + products)

    def evaluation_seconds(self) -> float:
        """About how long it takes to measure it on the held-out text: forward only, but more rows."""
        return 0.5 * self.step_seconds(ROW_BYTES)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole experiment.

    Attributes:
        contenders: the kinds of network.
        seeds: random seeds; each contender is trained once with each.
        steps: how many training steps each network gets.
        window: bytes in a window.
        shares: which runs (see `runs`) each worker process trains.
    """

    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...]
    steps: int
    window: int
    shares: tuple[tuple[int, ...], ...]

    @property
    def runs(self) -> list[tuple[Contender, int]]:
        """Every contender with every seed; a run is known by its place in this list."""
        return list(itertools.product(self.contenders, self.seeds))

    @property
    def evaluate_at(self) -> list[int]:
        """The steps after which all are measured, the last included."""
        points = min(EVALUATIONS, self.steps)
        return [round(self.steps * (i + 1) / points) for i in range(points)]


def make_plan(
    wirings: Sequence[str],
    cells: Sequence[str],
    *,
    layers: int,
    parameters: int,
    seeds: Sequence[int],
    budget: Budget,
    window: int,
    workers: int,
) -> Plan:
    """Plan a comparison: match hidden sizes, spread the runs over workers, and turn the budget into steps.

    Steps from a budget in seconds follow from constants that were measured on a common machine, never from the speed of
    this one at this moment: the same command trains the same number of steps again.

    Raises:
        ValueError: there is no such wiring or cell.
        ShapeError: a hidden size cannot match, or the budget is too short for a single evaluation.
    """
    contenders = []
    for wiring, cell in itertools.product(wirings, cells):
        hidden_size, total = match_hidden_size(cell, wiring, layers, parameters)
        contenders.append(Contender(wiring, cell, layers, hidden_size, total))
    runs = [contender for contender, _ in itertools.product(contenders, seeds)]
    costs = [contender.step_seconds(window) for contender in runs]
    shares = spread(costs, workers)
    steps = budget.steps
    if steps is None:
        assert budget.seconds is not None
        evaluation = [EVALUATIONS * contender.evaluation_seconds() for contender in runs]
        fixed = START_SECONDS + max(sum(evaluation[i] for i in share) for share in shares)
        per_step = max(sum(costs[i] for i in share) for share in shares)
        steps = int((SHARE * budget.seconds - fixed) / per_step)
        if steps < EVALUATIONS:
            least = (fixed + EVALUATIONS * per_step) / SHARE
            raise ShapeError(
                f"{budget} is too short for {len(costs)} networks ({len(contenders)} kinds x {len(seeds)} seeds): give"
                f" at least {least + 1:.0f}s, or compare fewer"
            )
    return Plan(tuple(contenders), tuple(seeds), steps, window, shares)


def spread(costs: Sequence[float], workers: int) -> tuple[tuple[int, ...], ...]:
    """Spread jobs over workers, the most expensive first, each to the worker that has least to do.

    Example:
        >>> spread([3, 2, 2], workers=2)
        ((0,), (1, 2))
    """
    shares: list[list[int]] = [[] for _ in range(min(workers, len(costs)))]
    for job in sorted(range(len(costs)), key=lambda job: -costs[job]):
        min(shares, key=lambda share: sum(costs[i] for i in share)).append(job)
    return tuple(tuple(sorted(share)) for share in shares)


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
