"""Times of several sides in one process, taken in turns, so that whatever else the machine does meets all of them."""

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

Block = Callable[[int], object]
"""Does the work of a side as many times as it is told."""

SAMPLE_SECONDS = 0.02  # a sample lasts at least this long: far above the clock's resolution and a neighbour's last spin
FEWEST_ROUNDS, MOST_ROUNDS = 5, 41


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: list[float]) -> "Spread":
        """The spread of two samples or more."""
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)


def block(call: Callable[[], object]) -> Block:
    """A call, as many times as told."""

    def loop(times: int) -> None:
        for _ in repeat(None, times):
            call()

    return loop


def interleave(sides: dict[str, Block], budget: float, rest: float = 0.0) -> dict[str, list[float]]:
    """Seconds of one call, for each side and round.

    In every round each side takes a turn, another one first each time. There are as many rounds as fit into ``budget``
    seconds, within limits. ``rest`` seconds before each turn are not counted.
    """
    calls = {name: _calls_of_a_sample(side) for name, side in sides.items()}
    round_seconds = sum(_seconds(sides[name], calls[name]) for name in sides)
    rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(budget / round_seconds)))
    samples: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            first = i % len(names)
            for name in names[first:] + names[:first]:
                if rest:
                    time.sleep(rest)
                    sides[name](1)
                samples[name].append(_seconds(sides[name], calls[name]) / calls[name])
    finally:
        gc.enable()
    return samples


def _seconds(side: Block, calls: int) -> float:
    start = time.perf_counter()
    side(calls)
    return time.perf_counter() - start


def _calls_of_a_sample(side: Block) -> int:
    """Found by trying, which warms the side up as well."""
    side(1)
    calls = 1
    while (seconds := _seconds(side, calls)) < SAMPLE_SECONDS:
        calls = math.ceil(calls * min(10.0, 1.2 * SAMPLE_SECONDS / seconds))
    return calls
