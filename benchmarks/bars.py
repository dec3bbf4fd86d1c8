"""Bars, made from the ratios of a group of results."""

import math
from collections.abc import Callable, Iterable

from benchmarks.registry import Bar, Measurement, Result, measured


def geometric_mean(values: Iterable[float]) -> float:
    """The mean that suits ratios."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def bar(
    name: str,
    limit: float,
    values: list[float],
    combine: Callable[[list[float]], float] = geometric_mean,
    at_least: bool = True,
) -> Bar:
    """A bar over the values of some cases; without any it has no value."""
    return Bar(name, combine(values) if values else None, limit, at_least, len(values))


def at_most(name: str, limit: float, values: list[float]) -> Bar:
    """A bar that every value must stay under."""
    return bar(name, limit, values, max, at_least=False)


def ratios(results: list[Result], peer: str, group: str | None = None) -> list[float]:
    """How many times as long as treadle the peer takes, in each case where it took part."""
    return [m.ratios[peer].median for _, m in measured(results, group) if peer in m.ratios]


def figures(results: list[Result], of: Callable[[Measurement], float | None]) -> list[float]:
    """A figure of each measurement that has it."""
    return [value for _, m in measured(results) if (value := of(m)) is not None]
