"""The first call of each cell, each in a fresh process: with an empty cache, and with what that process left there."""

import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import treadle as td
from benchmarks.bars import at_most, bar, figures
from benchmarks.gates import Check
from benchmarks.registry import Bar, Case, Measurement, Options, Result, Suite
from tests.tolerances import TOLERANCES

# No engine has machine code for its convolutions, so it runs as whoever makes one gets it.
IN_PYTORCH = {"ConvLSTMCell"}
SIZES = {"input_size", "hidden_size"}
CELLS = [
    name
    for name in td.__all__
    if name in IN_PYTORCH or (name.endswith("Cell") and inspect.signature(getattr(td, name)).parameters.keys() >= SIZES)
]
SHORT, LONG, TINY = 10, 10_000, 3
ROOT = Path(__file__).parents[2]

COLD, CACHED, NEXT = "cold (s)", "cached (s)", "next cell in the process, cold (s)"
IMPORT, LONG_OVER_SHORT = "import treadle (s)", "long over short"


def first_calls(cells: list[str], steps: int, options: Options, cache: str) -> dict[str, Any]:
    """What `benchmarks.first_call` finds in a fresh process with this cache folder.

    Raises:
        RuntimeError: the process fails, with the last thing that it said.
    """
    engines = {cell: "auto" if cell in IN_PYTORCH else options.engine for cell in cells}
    given = {"engines": engines, "steps": steps, "threads": options.threads}
    # With byte code on disk, as installers leave it: what is measured is not Python's own compiler.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_call", json.dumps(given)],
        cwd=ROOT,
        env=environment | {"TREADLE_CACHE": cache},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"first call of {', '.join(cells)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def check_of(side: str, found: dict[str, Any], cell: str) -> Check:
    """The gate, whose error the process itself has measured."""
    return Check(
        f"{side} {cell}", found["cells"][cell]["error"], TOLERANCES[torch.float32], found["cells"][cell]["where"]
    )


@dataclass
class FirstCalls:
    """A cell with an empty cache, another one after it in the same process, and the cell again in a new process."""

    cell: str
    next_cell: str
    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """Every process compares with the reference what its engine computed."""
        steps = TINY if self.options.tiny else SHORT
        with tempfile.TemporaryDirectory() as cache:
            self.cold = first_calls([self.cell, self.next_cell], steps, self.options, cache)
            self.cached = first_calls([self.cell], steps, self.options, cache)
        return [
            check_of("cold", self.cold, self.cell),
            check_of("second", self.cold, self.next_cell),
            check_of("cached", self.cached, self.cell),
        ]

    def measure(self, options: Options) -> Measurement:
        """Seconds, each measured once; the processes have run for the gate."""
        cold, cached = self.cold["cells"], self.cached["cells"]
        found = {
            COLD: cold[self.cell]["first"],
            NEXT: cold[self.next_cell]["first"],
            CACHED: cached[self.cell]["first"],
            "second call (s)": cached[self.cell]["second"],
            IMPORT: statistics.median([self.cold["treadle"], self.cached["treadle"]]),
            "import torch (s)": statistics.median([self.cold["torch"], self.cached["torch"]]),
        }
        return Measurement(figures=found)


@dataclass
class Lengths:
    """What the first call takes beyond the second, with an empty cache, for sequences short and long."""

    cell: str
    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """Every process compares with the reference what its engine computed."""
        self.found: dict[int, list[Any]] = {SHORT: [], LONG: []}
        for _ in range(1 if self.options.quick else 3):
            for steps, found in self.found.items():
                with tempfile.TemporaryDirectory() as cache:
                    found.append(first_calls([self.cell], steps, self.options, cache))
        return [check_of(f"T={steps}", one, self.cell) for steps, found in self.found.items() for one in found]

    def measure(self, options: Options) -> Measurement:
        """The medians of several processes, and their ratio."""
        short, long = (
            statistics.median(one["cells"][self.cell]["first"] - one["cells"][self.cell]["second"] for one in found)
            for found in self.found.values()
        )
        return Measurement(figures={f"T={SHORT:,} (s)": short, f"T={LONG:,} (s)": long, LONG_OVER_SHORT: long / short})


def cases(options: Options) -> list[Case]:
    """Every cell of treadle, each with the next one behind it; and one at two lengths."""
    opened = [
        Case(f"{cell} (auto)" if cell in IN_PYTORCH else cell, "cells", partial(FirstCalls, cell, after, options))
        for cell, after in zip(CELLS, [*CELLS[1:], CELLS[0]], strict=True)
    ]
    if options.tiny:
        return opened[:1]
    return [*opened, Case(f"LSTMCell, T of {SHORT:,} and {LONG:,}", "lengths", partial(Lengths, "LSTMCell", options))]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""

    def values(name: str) -> list[float]:
        return figures(results, lambda measurement: measurement.figures.get(name))

    return [
        at_most("seconds of a first call, cold, worst cell", 0.8, values(COLD)),
        at_most("seconds of a first call, cached, worst cell", 0.25, values(CACHED)),
        at_most(f"cold time at T={LONG:,} over T={SHORT:,}", 1.25, values(LONG_OVER_SHORT)),
        bar(
            "seconds that importing treadle adds to importing torch, median",
            0.3,
            values(IMPORT),
            statistics.median,
            False,
        ),
    ]


SUITE = Suite("compile", "the first call of each cell in a fresh process, cold and cached", cases, bars)
