"""Four times what a server can do: who is answered is answered soon, who is not is told so at once, all alike."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.gates import Check, compare
from benchmarks.race import OURS
from benchmarks.registry import Measurement, Options
from benchmarks.serving.beside import inputs, steps_of
from benchmarks.serving.host import network
from benchmarks.serving.processes import clients, host

KIND, H, T, CLIENTS = "REST, binary", 512, 16, 64
"""Blocks of a large network: so the network is what there is too little of, not the reading of requests."""
TIMES, UNLOADED = 4.0, 0.2
FEWEST = 120
"""Blocks of each client that are answered, on average: with fewer, chance alone makes them differ that much."""
RATIO, REFUSED, GINI, GROWTH = "accepted p99, times unloaded", "refused p99 (ms)", "Gini", "growth (MB)"


def gini(served: list[int]) -> float:
    """0 where all are served alike; near 1 where one has everything."""
    found, count = np.sort(np.array(served, float)), len(served)
    return float((2 * np.arange(1, count + 1) - count - 1) @ found / (count * found.sum()))


@dataclass
class Overload:
    """A server that is asked for more than it can do."""

    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """Blocks are those of the network."""
        self.stack, x = contextlib.ExitStack(), inputs(T, H)
        try:
            self.host = self.stack.enter_context(host("treadle", H))
            self.crowd = self.stack.enter_context(clients(KIND, self.host, x.tolist(), CLIENTS))
            ys = torch.tensor(self.crowd.ask(steps=2)).view(2 * T, H)
        except BaseException:
            self.stack.close()
            raise
        check = compare(OURS, {"ys": ys}, {"ys": steps_of(network(H), x, 2)})
        if not check.ok:
            self.stack.close()
        return [check]

    def measure(self, options: Options) -> Measurement:
        """What it can do, how it answers when little is asked, and how when four times as much is asked."""
        seconds = 2.0 if options.quick else 10.0
        with self.stack:
            capacity = self._capacity()
            calm = self.crowd.ask(rate=UNLOADED * capacity, seconds=seconds)
            self.crowd.ask(rate=TIMES * capacity, seconds=seconds / 2)
            held = self.host.resident_bytes()
            crowded = self.crowd.ask(rate=TIMES * capacity, seconds=max(seconds, FEWEST * CLIENTS / capacity))
            growth = self.host.resident_bytes() - held
        return Measurement(figures=self._figures(capacity, calm, crowded) | {GROWTH: growth / 1e6})

    def _capacity(self) -> float:
        """Blocks a second that are answered, however many are asked for."""
        rate = found = 50.0
        while found > 0.7 * rate:
            rate *= 2
            found = self.crowd.ask(rate=rate, seconds=1.0)["answered"] / 1.0
        return found

    def _figures(self, capacity: float, calm: dict[str, Any], crowded: dict[str, Any]) -> dict[str, float]:
        refused = crowded["refusal"]
        return {
            "blocks a second": capacity,
            "unloaded p99 (ms)": 1e3 * calm["latency"]["p99"],
            "accepted p99 (ms)": 1e3 * crowded["latency"]["p99"],
            RATIO: crowded["latency"]["p99"] / calm["latency"]["p99"],
            "refused": sum(crowded["refused"].values()),
            "refused p50 (ms)": 1e3 * refused["p50"],
            REFUSED: 1e3 * refused["p99"],
            "sent late p99 (ms)": 1e3 * crowded["lag"]["p99"],
            GINI: gini(crowded["served"]),
        }
