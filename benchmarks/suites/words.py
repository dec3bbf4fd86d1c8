"""Words: what the command reads and trains in a second, beside the same loop written by hand; and the memory."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.bars import at_most, bar
from benchmarks.gates import Check
from benchmarks.race import OURS
from benchmarks.registry import Bar, Case, Measurement, Options, Result, Suite, measured
from benchmarks.suites.long import PEAK, alone
from benchmarks.timing import Spread

HAND = "by hand over td.LSTM"
SPEED = "words/s"


@dataclass
class Words:
    """A text of words, in a fresh process."""

    words: int
    vocabulary: int
    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """Both sides have one loss for the same weights and words."""
        rounds = 9 if not self.options.quick else 3
        given: dict[str, Any] = {"words": self.words, "vocabulary": self.vocabulary, "rounds": rounds}
        self.found = alone("benchmarks.words", self.options, steps=2 if self.options.tiny else 10, **given)
        return [Check(OURS, self.found["error"], 1e-5, "loss")]

    def measure(self, options: Options) -> Measurement:
        """The process has run for the gate."""
        fit, hand = self.found["speeds"]["fit"], self.found["speeds"]["by hand"]
        ratios = {HAND: Spread.of([ours / theirs for ours, theirs in zip(fit, hand, strict=True)])}
        return Measurement(ratios=ratios, figures={SPEED: Spread.of(fit).median, PEAK: self.found["peak"] / 1e9})


def cases(options: Options) -> list[Case]:
    """As many words as the Penn Treebank has."""
    words, vocabulary = (4_000, 60) if options.tiny else (929_000, 10_000)
    return [
        Case(f"{words:,} words, a vocabulary of {vocabulary:,}", "words", partial(Words, words, vocabulary, options))
    ]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    shares = [m.ratios[HAND].median for _, m in measured(results)]
    # Memory is the same whatever else the machine does.
    memory = [r.measurement.figures[PEAK] for r in results if r.measurement]
    return [
        bar("words per second of treadle fit --words, as a share of the loop by hand", 0.9, shares),
        at_most("gigabytes of a process with both", 1.2, memory),
    ]


SUITE = Suite(
    "words",
    "treadle fit --words on as many words as the Penn Treebank has, beside the same training by hand over td.LSTM",
    cases,
    bars,
)
