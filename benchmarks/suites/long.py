"""Sequences without an end: exact gradients of very long ones, in time and in memory; a file larger than memory."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import treadle as td
from benchmarks.bars import at_most
from benchmarks.gates import Check, relative_error
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Measurement, Options, Result, Suite, measured
from benchmarks.timing import block
from benchmarks.training import Training, draw, inputs, recurrent_outputs
from tests.tolerances import TOLERANCES

FULL = "FullBPTT"
H, ROWS, MEMORY = 64, 4, "100MB"
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}
"""How close to full backpropagation in float64, relative to its norm: the same sums in another order."""
PEAK, SECONDS = "peak memory (GB)", "seconds"
STEP, SPEED = "training step (ms)", "reading alone (MB/s)"
WAITING, READING = "waiting (% of a step)", "reading (% of a step)"
"""Of the time of a step: with a thread that reads ahead, as ever; and where nothing is read ahead."""
ROOT = Path(__file__).parents[2]


def open_race(steps: int, dtype: torch.dtype, engine: str) -> Race:
    """States at borders against everything kept."""
    torch.manual_seed(0)

    def over_time(gradient: Any) -> Any:
        return td.Recurrent(cell, batch_first=False, engine=engine, gradient=gradient)

    cell = td.LSTMCell(H, H).to(dtype)
    xs = inputs(steps, ROWS, H).to(dtype)
    full = draw(over_time(td.FullBPTT()), recurrent_outputs, xs)
    # Little enough that not everything is kept, at any number of steps.
    ours = Training(over_time(td.CheckpointedBPTT(min(10**8, 2000 * steps))), recurrent_outputs, xs, full.cotangents)

    def check() -> list[Check]:
        reference = full.double().values()
        wanted = {OURS: EXACT[dtype], FULL: TOLERANCES[dtype]}
        return [compared(side, training.values(), reference, wanted[side]) for side, training in sides.items()]

    sides: dict[str, Training] = {OURS: ours, FULL: full}
    return Race({name: block(training) for name, training in sides.items()}, check)


def compared(side: str, actual: dict[str, Tensor], reference: dict[str, Tensor], tolerance: float) -> Check:
    """The largest error."""
    errors = {name: relative_error(actual[name], expected) for name, expected in reference.items()}
    where = max(errors, key=errors.__getitem__)
    return Check(side, errors[where], tolerance, where)


@dataclass
class Memory:
    """A sequence given as one tensor, in a fresh process; and with another schedule, which must find the same."""

    steps: int
    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """Two schedules, which have nothing in common but what they compute."""
        self.found = self._run(MEMORY)
        other = self._run("2MB")
        where = "gradients"
        error = max(
            relative_error(torch.tensor(a), torch.tensor(b))
            for a, b in zip(
                [*self.found["gradient"], self.found["first"]], [*other["gradient"], other["first"]], strict=True
            )
        )
        return [Check(OURS, error, 1e-5, where)]

    def _run(self, memory: str) -> dict[str, Any]:
        return alone("benchmarks.long_sequence", self.options, steps=self.steps, memory=memory)

    def measure(self, options: Options) -> Measurement:
        """The process has run for the gate."""
        return Measurement(figures={PEAK: self.found["peak"] / 1e9, SECONDS: self.found["seconds"]})


@dataclass
class Reading:
    """Windows over a text file of which next to nothing fits into the memory allowed, in a fresh process."""

    size: int
    batches: int
    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """The windows hold the bytes of the file, in their places, to its end."""
        self.found = alone("benchmarks.long_text", self.options, size=self.size, batches=self.batches)
        wrong = float(self.found["wrong"]) if self.found["walked"] else math.inf
        return [Check(OURS, wrong, 0, "bytes of the file")]

    def measure(self, options: Options) -> Measurement:
        """The process has run for the gate."""
        found = self.found
        figures = {PEAK: found["peak"] / 1e9, STEP: 1e3 * found["training"], SPEED: found["speed"] / 1e6}
        for figure, name in ((WAITING, "waiting"), (READING, "reading")):
            figures[figure] = 100 * found[name] / (found[name] + found["training"])
        return Measurement(figures=figures)


def alone(module: str, options: Options, **given: Any) -> dict[str, Any]:
    """What a module prints that runs in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    given |= {"threads": options.threads, "engine": options.engine}
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(given)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if done.returncode:
        raise RuntimeError(f"{module}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def cases(options: Options) -> list[Case]:
    """The issue's sizes; tenths of them if it has to be quick."""
    steps, longest, size, batches = 100_000, 1_000_000, 5 * 10**9, 200
    if options.quick:
        steps, longest, size, batches = 10_000, 100_000, 2 * 10**8, 50
    if options.tiny:
        steps, longest, size, batches = 200, 500, 10**6, 2
    exactly = [
        Case(f"exact gradient T={steps:,} B={ROWS} {str(dtype).removeprefix('torch.')}", "exact",
             partial(open_race, steps, dtype, options.engine))
        for dtype in EXACT
    ]  # fmt: skip
    one_tensor = Case(f"one tensor T={longest:,} B=1", "memory", partial(Memory, longest, options))
    text = Case(f"windows over {size / 1e9:g} GB of text", "reading", partial(Reading, size, batches, options))
    return [*exactly, one_tensor, text]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    # Memory is the same whatever else the machine does.
    memory = {
        group: [r.measurement.figures[PEAK] for r in results if r.measurement and r.group == group]
        for group in ("memory", "reading")
    }
    reading = [max(m.figures[WAITING], m.figures[READING]) for _, m in measured(results, "reading")]
    slower = [1 / m.ratios[FULL].median for _, m in measured(results, "exact")]
    return [
        at_most("exact gradient, times full backpropagation, worst precision", 1.4, slower),
        at_most("gigabytes of a process with one long tensor", 1.0, memory["memory"]),
        at_most("gigabytes of a process that trains on a long text", 1.0, memory["reading"]),
        at_most("reading, percent of a training step", 5.0, reading),
    ]


SUITE = Suite(
    "long",
    "an LSTM of 64 units over very long sequences and texts: exact gradients, in little memory",
    cases,
    bars,
)
