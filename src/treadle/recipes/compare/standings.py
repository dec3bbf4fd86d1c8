"""Ranking of networks, and which differences are more than chance."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from treadle.recipes.compare.plan import Contender, Plan
from treadle.recipes.compare.runs import Evaluated, GivenUp
from treadle.running.recurrent import Recurrent
from treadle.training.language_model import language_model
from treadle.training.text import Text


class Outcome:
    """The results of a comparison so far.

    Networks are ranked at the last evaluation point that *every* run has reached, so none wins by longer training. Runs
    that were given up do not hold up the others: their networks come after those that were not, by how far they got.
    Weights of earlier points are dropped.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self._reached: list[list[Evaluated]] = [[] for _ in plan.runs]
        self._given_up: set[int] = set()

    def add(self, event: Evaluated | GivenUp) -> None:
        """Take note that a run reached an evaluation point, or was given up."""
        if isinstance(event, GivenUp):
            self._given_up.add(event.run)
            return
        self._reached[event.run].append(event)
        for events in self._reached:
            for past in events[: max(self.points - 1, 0)]:
                past.weights.clear()

    @property
    def points(self) -> int:
        """How many evaluation points every run has reached that was not given up.

        None, until all have reached the last one from which one of them was resumed: weights of others are not kept.
        """
        counted = [
            events for run, events in enumerate(self._reached) if run not in self._given_up or self._all_given_up
        ]
        points = min(map(len, counted))
        return points if all(events[points - 1].weights for events in counted if points) else 0

    @property
    def _all_given_up(self) -> bool:
        return len(self._given_up) == len(self._reached)

    @property
    def step(self) -> int:
        """The training step that is evaluated: that of the last common evaluation point, or 0."""
        return self.plan.evaluate_at[self.points - 1] if self.points else 0

    @property
    def complete(self) -> bool:
        """Whether every run has come to its end."""
        return self.step == self.plan.steps

    def curves(self, contender: Contender) -> list[list[float]]:
        """Bits per byte at each common evaluation point, a list per seed."""
        return [[event.bits for event in events] for events in self._of(contender)]

    def steps_per_second(self, contender: Contender) -> float:
        """Training steps a second on one core, over all seeds."""
        last = [events[-1] for events in self._of(contender)]
        return sum(event.step for event in last) / sum(event.seconds for event in last)

    def model(self, contender: Contender, seed: int) -> Recurrent:
        """A contender's trained network for a seed, at the last common evaluation point; in evaluation mode."""
        event = self._of(contender)[self.plan.seeds.index(seed)][-1]
        model = language_model(contender.cell, contender.wiring, contender.layers, contender.hidden_size)
        model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in event.weights.items()})
        return model.eval()

    def _of(self, contender: Contender) -> list[list[Evaluated]]:
        runs = zip(self.plan.runs, self._reached, strict=True)
        found = [events for (who, _), events in runs if who == contender]
        return [events[: min(self.points, *map(len, found))] for events in found]


@dataclasses.dataclass(frozen=True)
class Standing:
    """The results of a contender: bits per byte on the held-out text.

    Attributes:
        contender: the kind of network.
        curves: a list per seed, a number per evaluation point.
        steps_per_second: training steps a second, on one core.
        clearly_better_than: those that it beats by more than chance explains; see `standings`.
    """

    contender: Contender
    curves: list[list[float]]
    steps_per_second: float
    clearly_better_than: list[Contender]

    @property
    def by_seed(self) -> list[float]:
        """At the last point."""
        return [curve[-1] for curve in self.curves]

    @property
    def mean(self) -> float:
        """Over the seeds; not finite if training diverged."""
        return statistics.fmean(self.by_seed)

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over the seeds; see `spread_of`."""
        return spread_of(self.by_seed)

    @property
    def curve(self) -> list[float]:
        """The mean over the seeds at every evaluation point."""
        return [statistics.fmean(point) for point in zip(*self.curves, strict=True)]

    @property
    def curve_spread(self) -> list[float | None]:
        """The spread at every evaluation point."""
        return [spread_of(point) for point in zip(*self.curves, strict=True)]


def standings(outcome: Outcome) -> list[Standing]:
    """The ranking, best first, by mean bits per byte at the last common evaluation point; networks that were given up
    come after the others, those that got furthest first.

    A is clearly better than B if its mean is lower by more than the spread of a difference, √(s_A² + s_B²), where s are
    the spreads over seeds, at the last evaluation point that both have reached. With one seed the spread is not known,
    and none is clearly better than another.

    Raises:
        ValueError: there is no common evaluation point yet.
    """
    if not outcome.points:
        raise ValueError("not every run has reached its first evaluation point, so there is nothing to compare")
    everybody = [
        Standing(contender, outcome.curves(contender), outcome.steps_per_second(contender), [])
        for contender in outcome.plan.contenders
    ]
    # What diverged comes last. Equal numbers stay in the order of the plan.
    everybody.sort(key=lambda one: (-len(one.curve), one.mean) if math.isfinite(one.mean) else (1, math.inf))
    return [
        dataclasses.replace(one, clearly_better_than=[other.contender for other in everybody if _clearly(one, other)])
        for one in everybody
    ]


def _clearly(one: Standing, other: Standing) -> bool:
    point = min(len(one.curve), len(other.curve)) - 1
    (mean, spread), (others, others_spread) = ((who.curve[point], who.curve_spread[point]) for who in (one, other))
    if spread is None or not math.isfinite(mean):
        return False
    if not math.isfinite(others):
        return True
    return others_spread is not None and others - mean > math.hypot(spread, others_spread)


def spread_of(values: Sequence[float]) -> float | None:
    """The standard deviation of scores, one of each seed; None of one alone, and where one of them is not finite.

    Example:
        >>> from treadle.recipes.compare.standings import spread_of
        >>> spread_of([1.0, 3.0, 2.0]), spread_of([1.0]), spread_of([1.0, float("inf")])
        (1.0, None, None)
    """
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def best(table: Sequence[Standing], plan: Plan) -> tuple[Contender, int]:
    """The winner: the contender with the best mean, and its best seed."""
    winner = table[0]
    seed = min(
        range(len(plan.seeds)), key=lambda i: winner.by_seed[i] if math.isfinite(winner.by_seed[i]) else math.inf
    )
    return winner.contender, plan.seeds[seed]


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A curve in a line of text, between ``low`` and ``high``; what is not finite is a cross.

    Example:
        >>> sparkline([8, 5, 3, 1], 1, 8)
        '█▅▃▁'
    """
    bars = "▁▂▃▄▅▆▇█"
    scale = (len(bars) - 1) / max(high - low, 1e-9)
    heights = [round((min(max(value, low), high) - low) * scale) if math.isfinite(value) else None for value in values]
    return "".join("✗" if height is None else bars[height] for height in heights)


def same_networks(plan: Plan) -> list[list[Contender]]:
    """Groups of contenders that are the same function with other names, so that they differ by chance alone.

    With two layers, ``skip`` and ``dense`` read the same; with one, there is nothing to connect, but for ``feedback``.
    """
    alike = {1: {"stack", "relay", "skip", "lateral", "residual", "dense"}, 2: {"skip", "dense"}}
    groups = []
    for cell in dict.fromkeys(contender.cell for contender in plan.contenders):
        group = [one for one in plan.contenders if one.cell == cell and one.wiring in alike.get(one.layers, ())]
        if len(group) > 1:
            groups.append(group)
    return groups


def as_json(
    outcome: Outcome,
    text: Text,
    *,
    version: str,
    budget: str,
    parameters: int,
    stopped: str | None,
    saved: str | None,
    sample: str,
) -> dict[str, Any]:
    """Everything as data for JSON; ``docs/how-to/compare-wirings.md`` documents it.

    Only ``"timing"`` differs when a run is repeated.

    Args:
        outcome: the results; at least one common evaluation point.
        text: the text.
        version: treadle's.
        budget: as it was given.
        parameters: the number to match.
        stopped: why training ended early: ``"deadline"``, ``"interrupted"``, or None.
        saved: the file with the winner.
        sample: text that the winner generated.
    """
    plan, table = outcome.plan, standings(outcome)
    winner, seed = best(table, plan)
    return {
        "format": "treadle compare",
        "version": 1,
        "treadle": version,
        "torch": torch.__version__,
        "text": {
            "name": text.name,
            "sha256": text.fingerprint(),
            "training_bytes": text.training_bytes,
            "held_out_bytes": text.held_out_bytes,
            "scored_bytes": text.scored_rows()[:, 1:].numel(),
        },
        "settings": {
            "budget": budget,
            "steps": plan.steps,
            "window": plan.window,
            "layers": plan.contenders[0].layers,
            "parameters": parameters,
            "seeds": list(plan.seeds),
        },
        "stopped_early": stopped,
        "step": outcome.step,
        "baselines": {"unigram": text.unigram_bits(), "gzip": text.gzip_bits()},
        "results": [
            {
                "wiring": one.contender.wiring,
                "cell": one.contender.cell,
                "hidden_size": one.contender.hidden_size,
                "parameters": one.contender.parameters,
                "bits_per_byte": {
                    "mean": _finite(one.mean),
                    "spread": _finite(one.spread),
                    "by_seed": [_finite(value) for value in one.by_seed],
                },
                "curve": {
                    "steps": plan.evaluate_at[: len(one.curve)],
                    "mean": [_finite(value) for value in one.curve],
                    "by_seed": [[_finite(value) for value in curve] for curve in one.curves],
                },
                "clearly_better_than": [
                    {"wiring": other.wiring, "cell": other.cell} for other in one.clearly_better_than
                ],
            }
            for one in table
        ],
        "winner": {"wiring": winner.wiring, "cell": winner.cell, "seed": seed, "file": saved},
        "sample": sample,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN: what diverged is null."""
    return value if value is not None and math.isfinite(value) else None
