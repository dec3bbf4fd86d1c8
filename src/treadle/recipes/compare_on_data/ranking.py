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
"""The same of two networks, by their own scores alone, where one of them is less steady than the others: that hides in
what is pooled."""
LEVEL_OF_STEADY = 0.2
"""How likely it may be that a network is called less steady than the others where it is not: with few seeds, unsteady
ones are overlooked otherwise."""
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
    at 5 % for all pairs together (Bonferroni), and by 1 % at least. A network among steadier ones would pass for a
    better or worse one: where the scores of one of the two vary more than those of the others (F test, at 20 %), or
    with two seeds, which cannot tell, their own differences have to be more than chance, too (paired t, at 2 %).
    Simulated, false claims are 2 % where all are alike, and at most 5 % where some are 2 to 20 times less steady.
    Source: Montgomery, *Design and Analysis of Experiments*, 2017, chapters 2 and 4.

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
        steady = {name: _steady(logs, i) for i, name in enumerate(finite)}
        for one, other in itertools.permutations(names, 2):
            if one not in by_name:
                continue
            if other in by_name:
                gaps, alone = by_name[other] - by_name[one], not (steady[one] and steady[other])
                if gaps.mean() <= max(math.log(ratio), _own_chance(gaps) if alone else 0.0):
                    continue
            beaten[one].append(other)
    return Ranking(tuple(Row(name, tuple(scores[name]), tuple(beaten[name])) for name in names), ratio)


def _apart(logs: np.ndarray) -> float:
    """How far two means of logarithms [networks, seeds] have to be apart."""
    networks, seeds = logs.shape
    variance, freedom = _chance(logs)
    error = math.sqrt(variance * 2 / seeds)
    return error * student_quantile(1 - LEVEL / (networks * (networks - 1)), freedom)


def _chance(logs: np.ndarray) -> tuple[float, int]:
    """The variance of what is left when every network and every seed has had its own mean, and its degrees of
    freedom."""
    rest = logs - logs.mean(1, keepdims=True) - logs.mean(0, keepdims=True) + logs.mean()
    freedom = (len(rest) - 1) * (rest.shape[1] - 1)
    return float((rest**2).sum()) / freedom, freedom


def _steady(logs: np.ndarray, network: int) -> bool:
    """Whether the scores of a network vary no more, from seed to seed, than those of the others do."""
    networks, seeds = logs.shape
    if networks < 3 or seeds < 3:
        return False
    others = np.delete(logs, network, 0)
    variance, freedom = _chance(others)
    own = (logs[network] - others.mean(0)).var(ddof=1) / (1 + 1 / len(others))
    return bool(own <= variance * f_quantile(1 - LEVEL_OF_STEADY, seeds - 1, freedom))


def _own_chance(gaps: np.ndarray) -> float:
    """How far from zero the mean of differences, one with each seed, has to be by their own chance."""
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    return float(error * student_quantile(1 - LEVEL_OF_PAIR / 2, len(gaps) - 1))


def student_quantile(share: float, freedom: int) -> float:
    """Below which a share of Student's t distribution lies, for shares above one half.

    Example:
        >>> from treadle.recipes.compare_on_data.ranking import student_quantile
        >>> round(student_quantile(0.975, 2), 3), round(student_quantile(0.975, 12), 3)
        (4.303, 2.179)
    """
    return math.sqrt(f_quantile(2 * share - 1, 1, freedom))


@functools.cache
def f_quantile(share: float, above: int, below: int) -> float:
    """Below which a share of the F distribution lies, by the degrees of freedom of both variances.

    Example:
        >>> from treadle.recipes.compare_on_data.ranking import f_quantile
        >>> round(f_quantile(0.95, 2, 10), 3)
        4.103
    """
    # With F = below / above · tan² θ, the density is proportional to sin(θ)^(above - 1) · cos(θ)^(below - 1).
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.sin(angles) ** (above - 1) * np.cos(angles) ** (below - 1)
    share_below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return below / above * math.tan(float(np.interp(share, share_below / share_below[-1], angles))) ** 2
