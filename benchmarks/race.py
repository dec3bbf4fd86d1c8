"""The subject that most suites use: sides that do the same work, treadle first."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.gates import Check
from benchmarks.registry import Measurement, Options
from benchmarks.timing import Block, Spread, interleave

OURS = "treadle"

SECONDS, QUICK_SECONDS = 8.0, 1.0  # for the timings of a case


@dataclass
class Race:
    """Sides by name, ``treadle`` among them; what compares them; and what else is worth measuring."""

    sides: dict[str, Block]
    check: Callable[[], list[Check]]
    notes: dict[str, str] = field(default_factory=dict)
    figures: Callable[[], dict[str, float]] = dict
    rest: float = 0.0
    """Seconds between samples, in which the threads of a side stop waiting for more work and leave the cores."""

    def measure(self, options: Options) -> Measurement:
        """Median seconds of each side; ratios are taken round by round, so that a slow moment cancels."""
        samples = interleave(self.sides, QUICK_SECONDS if options.quick else SECONDS, self.rest)
        ratios = {
            name: Spread.of([theirs / ours for theirs, ours in zip(seconds, samples[OURS], strict=True)])
            for name, seconds in samples.items()
            if name != OURS
        }
        seconds = {name: Spread.of(seconds) for name, seconds in samples.items()}
        return Measurement(seconds, ratios, self.figures())
