"""What a suite is made of, and the suites."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

from benchmarks.gates import Check
from benchmarks.machine import Neighbours
from benchmarks.timing import Spread

SUITES = ("classic", "custom", "step", "pool", "serving", "scan", "c_files", "compile", "long", "words")
"""Each is a module of `benchmarks.suites` with ``SUITE``."""

MOST_OTHERS = 0.05


@dataclass(frozen=True)
class Options:
    """How to run: on which engine, on how many threads, how often, and whether at the tiny sizes of the tests."""

    engine: str = "cpu"
    threads: int = 2
    quick: bool = False
    tiny: bool = False


@dataclass
class Measurement:
    """What was measured: seconds of each side, how many times as long as treadle each takes, and other figures."""

    seconds: dict[str, Spread] = field(default_factory=dict)
    ratios: dict[str, Spread] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


class Subject(Protocol):
    """A case that is set up: first its gate, then its measurement."""

    notes: dict[str, str]
    """Peers that take no part, and why."""

    def check(self) -> list[Check]:
        """Compare the results of all sides with the reference."""
        ...

    def measure(self, options: Options) -> Measurement:
        """Time the sides; called after a green gate."""
        ...


@dataclass(frozen=True)
class Case:
    """A line of the table. ``group`` is what a bar takes a mean over."""

    name: str
    group: str
    open: Callable[[], Subject]


@dataclass
class Result:
    """What came of a case. Without a green gate there is no measurement."""

    name: str
    group: str
    checks: list[Check] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    measurement: Measurement | None = None
    others: float = 0.0
    """The share of the cores that other processes used during gate and measurement."""
    error: str | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether the machine was ours; else the times are shown, but count towards no bar."""
        return self.others <= MOST_OTHERS

    @property
    def is_green(self) -> bool:
        """Whether all sides computed the same thing."""
        return self.error is None and all(check.ok for check in self.checks)


@dataclass(frozen=True)
class Bar:
    """What must be reached; a value of None says that nothing was measured that it applies to."""

    name: str
    value: float | None
    limit: float
    at_least: bool
    cases: int

    @property
    def ok(self) -> bool:
        """Whether it is reached."""
        return self.value is not None and (self.value >= self.limit if self.at_least else self.value <= self.limit)


@dataclass(frozen=True)
class Suite:
    """Cases and the bars over their results."""

    name: str
    about: str
    cases: Callable[[Options], list[Case]]
    bars: Callable[[list[Result]], list[Bar]]


def load(name: str) -> Suite:
    """The suite of that name."""
    return import_module(f"benchmarks.suites.{name}").SUITE


def run(case: Case, options: Options) -> Result:
    """Set a case up, check it, and time it if the gate is green. What goes wrong is part of the result."""
    result = Result(case.name, case.group)
    try:
        subject = case.open()
        result.notes = subject.notes
        neighbours = Neighbours()  # from the gate on, because some subjects do their work there
        result.checks = subject.check()
        if result.is_green:
            result.measurement = subject.measure(options)
            result.others = neighbours.share()
    except Exception as error:  # one case must not take the others with it
        result.error = f"{type(error).__name__}: {error}"
    return result


def measured(results: list[Result], group: str | None = None) -> Iterator[tuple[Result, Measurement]]:
    """The results of a group (of all, without one) that have a measurement to be trusted."""
    for result in results:
        if result.measurement is not None and result.is_quiet and group in (None, result.group):
            yield result, result.measurement
