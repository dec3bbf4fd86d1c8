"""Which of several networks is best, and which differences are more than chance: a randomised block design."""

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

LEVEL = 0.05
"""How likely it may be that any difference is claimed where there is none."""
LEVEL_OF_PAIR = 0.02
"""The same of two networks, by their own scores alone: one that is far less steady than the others hides in what is
pooled."""
LEAST = 0.01
"""A smaller share of the score is not called a difference, however sure it is."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A network of the comparison.

    Attributes:
        name: what tells it apart.
        by_seed: its score with each random seed; lower is better.
        clearly_better_than: those that it beats by more than chance explains.
    """

    name: str
    by_seed: tuple[float, ...]
    clearly_better_than: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.by_seed)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The networks, best first, and the smallest ratio of two scores that is more than chance; None with one seed."""

    rows: tuple[Row, ...]
    ratio: float | None

    @property
    def sentence(self) -> str:
        """What was found."""
        best = self.rows[0]
        if self.ratio is None:
            return "With one seed there is no spread: any of these differences may be chance. Use --seeds 3."
        if not any(row.clearly_better_than for row in self.rows):
            if self.rows[-1].mean > self.ratio * best.mean:
                return "No difference that the seeds agree on: use more --seeds."
            return (
                f"No difference: scores would have to be {100 * (self.ratio - 1):.1f} % apart to be more than chance."
            )
        if not best.clearly_better_than:
            return "The best are too close to tell apart, but better than others."
        return f"{best.name} is clearly better than {', '.join(best.clearly_better_than)}."


def rank(scores: Mapping[str, Sequence[float]]) -> Ranking:
    """Rank networks by their scores with the same random seeds, which gave them the same data in the same order.

    Scores are compared as ratios. What is left when every network and every seed has had its own mean is chance; its
    variance is pooled over all networks. Two networks differ if their means are further apart than Student's t allows,
    at 5 % for all pairs together (Bonferroni), and by 1 % at least. So that an unsteady network among steady ones does
    not pass for a better or worse one, their own differences have to be more than chance, too (paired t, at 2 %).
    Source: Montgomery, *Design and Analysis of Experiments*, 2017, chapter 4.

    Args:
        scores: of each network, a positive number for each seed; lower is better, infinite where training diverged.

    Example:
        >>> from treadle.recipes.compare_on_data import rank
        >>> ranking = rank({"stack": [2.0, 2.2, 2.1], "skip": [1.0, 1.11, 1.05], "dense": [1.01, 1.1, 1.06]})
        >>> [(row.name, row.clearly_better_than) for row in ranking.rows]
        [('skip', ('stack',)), ('dense', ('stack',)), ('stack', ())]
    """
    names = sorted(scores, key=lambda name: statistics.fmean(scores[name]))
    finite = [name for name in names if all(map(math.isfinite, scores[name]))]
    seeds, beaten = len(scores[names[0]]), {name: list[str]() for name in names}
    ratio = None
    if seeds > 1:
        logs = np.log(np.maximum([scores[name] for name in finite], 1e-300)) if finite else np.zeros((0, seeds))
        ratio = math.exp(_apart(logs)) if len(finite) > 1 else 1 + LEAST
        ratio = max(ratio, 1 / (1 - LEAST))
        by_name = dict(zip(finite, logs, strict=True))
        for one, other in itertools.permutations(names, 2):
            if one in by_name and (other not in by_name or _clear(by_name[other] - by_name[one], math.log(ratio))):
                beaten[one].append(other)
    return Ranking(tuple(Row(name, tuple(scores[name]), tuple(beaten[name])) for name in names), ratio)


def _apart(logs: np.ndarray) -> float:
    """How far two means of logarithms [networks, seeds] have to be apart."""
    networks, seeds = logs.shape
    rest = logs - logs.mean(1, keepdims=True) - logs.mean(0, keepdims=True) + logs.mean()
    freedom = (networks - 1) * (seeds - 1)
    error = math.sqrt((rest**2).sum() / freedom * 2 / seeds)
    return error * student_quantile(1 - LEVEL / (networks * (networks - 1)), freedom)


def _clear(gaps: np.ndarray, least: float) -> bool:
    """Whether differences of logarithms, one with each seed, are larger than a bound and than their own chance."""
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    return bool(gaps.mean() > max(least, error * student_quantile(1 - LEVEL_OF_PAIR / 2, len(gaps) - 1)))


@functools.cache
def student_quantile(share: float, freedom: int) -> float:
    """Below which a share of Student's t distribution lies, for shares above one half.

    Example:
        >>> from treadle.recipes.compare_on_data.ranking import student_quantile
        >>> round(student_quantile(0.975, 2), 3), round(student_quantile(0.975, 12), 3)
        (4.303, 2.179)
    """
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    # With t = √ν tan θ, the density is scale · √ν · cos(θ)^(ν - 1), which ends at π/2.
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = math.exp(log_scale) * math.sqrt(freedom) * np.cos(angles) ** (freedom - 1)
    below = 0.5 + np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)]) * angles[1]
    return math.sqrt(freedom) * math.tan(float(np.interp(share, below, angles)))
