"""Sequences that come and go: a million of them, over the network, and what is held of those that stay."""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.gates import Check, compare
from benchmarks.race import OURS
from benchmarks.registry import Measurement, Options
from benchmarks.serving.beside import GATE_STEPS, H, inputs, steps_of
from benchmarks.serving.host import network
from benchmarks.serving.processes import host, openings

COUNT, QUICK_COUNT, ALIVE = 1_000_000, 20_000, 10_000
SLICE, SLICES = 1000, 15
STATE_BYTES = 2 * 2 * 4 * H
"""Of a sequence: two layers, two vectors each, in float32."""
OPENING, GROWTH, HELD = (
    "us to open and close",
    "growth (MB)",
    "bytes held beside the state",
)


@dataclass
class Coming:
    """A server whose clients stay for one step."""

    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """A sequence gives what the network gives, and each of many is answered."""
        self.stack = contextlib.ExitStack()
        try:
            self.host = self.stack.enter_context(host("treadle", H, idle=3600.0))
            self.crowd = self.stack.enter_context(openings(self.host, inputs().tolist()))
            self.crowd.ask(first=0, count=1, end=False)
            ys = [self.crowd.ask(first=0, count=1, end=False, again=True)["y"] for _ in range(GATE_STEPS)]
            # More than there are endings that are remembered, so that nothing is left to be filled.
            self.warm = 2 * ALIVE
            answers = self.crowd.ask(first=0, count=self.warm, end=True)["answers"]
            checks = [
                compare(OURS, {"ys": torch.tensor(ys)}, {"ys": steps_of(network(H), inputs(), GATE_STEPS)}),
                Check("every sequence is answered", self.warm - answers.get("ok", 0), 0.0, "answers"),
            ]
        except BaseException:
            self.stack.close()
            raise
        if not all(check.ok for check in checks):
            self.stack.close()
        return checks

    def measure(self, options: Options) -> Measurement:
        """Memory before and after all of them; then that of many who stay."""
        count = QUICK_COUNT if options.quick else COUNT
        with self.stack:
            held = self.host.resident_bytes()
            self._ask(self.warm, count, end=True)
            growth = self.host.resident_bytes() - held
            held, first = self.host.resident_bytes(), self.warm + count
            self._ask(first, ALIVE, end=False)
            alive = self.host.resident_bytes() - held
            costs = []
            for number in range(SLICES):
                step = self._ask(first, SLICE, end=False, again=True)
                coming = self._ask(first + ALIVE + number * SLICE, SLICE, end=True)
                costs.append((step, coming - step))
            step, opening = np.median(costs, 0).tolist()
        return Measurement(
            figures={
                "sequences": count,
                "us of a step": 1e6 * step,
                OPENING: 1e6 * opening,
                GROWTH: growth / 1e6,
                HELD: alive / ALIVE - STATE_BYTES,
            }
        )

    def _ask(self, first: int, count: int, **how: bool) -> float:
        """So many requests; the CPU seconds of the server for each."""
        before = self.host.cpu_seconds()
        found = self.crowd.ask(first=first, count=count, **how)["answers"]
        if found != {"ok": count}:
            raise RuntimeError(f"{count} sequences were begun, but the answers are {found}")
        return (self.host.cpu_seconds() - before) / count
