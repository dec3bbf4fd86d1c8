"""A server that is asked for four times what it can do: who is accepted, and how soon the rest is refused."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.gates import Check, compare
from benchmarks.race import OURS
from benchmarks.registry import Measurement, Options
from benchmarks.serving.beside import GATE_STEPS, steps_of
from benchmarks.serving.host import network
from benchmarks.serving.processes import clients, host

H = 1024
"""Units a layer: steps that take so long that they, and not the protocol, are what the server is short of."""
ROWS, QUEUE, CLIENTS = 4, 8, 64
"""More clients than the queue holds, or nobody would be refused."""
SECONDS, QUICK_SECONDS = 60.0, 4.0
"""Who comes when there is room is chance, whose share in the Gini coefficient is 1 / sqrt(pi * steps of a client)."""
TIMES, UNLOADED = 4.0, 0.2
"""How many times what the server can do is asked of it; and what share of it when it is idle for most of the time."""
KIND = "REST, JSON, some connections"
LATER, REFUSED, UNFAIR, GROWTH = (
    "p99 of the accepted, times the unloaded one",
    "p99 of a refusal (ms)",
    "Gini of served steps",
    "growth under overload (MB)",
)


def gini(served: list[int]) -> float:
    """How unequally something is shared out: 0 where all have as much, nearly 1 where one has all."""
    ordered = np.sort(np.asarray(served, np.float64))
    places = np.arange(1, len(ordered) + 1)
    return float((2 * places - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


@dataclass
class Overload:
    """A server with a short queue, and clients that ask by a clock, whatever is answered."""

    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """A sequence gives what the network gives."""
        # Zeros are short in JSON, whose reading is not what is measured.
        self.stack, x = contextlib.ExitStack(), np.zeros((1, H), np.float32)
        try:
            self.host = self.stack.enter_context(host("treadle", H, rows=ROWS, queue=QUEUE, idle=3600.0))
            self.crowd = self.stack.enter_context(clients(KIND, self.host, x.tolist(), CLIENTS))
            ys = torch.tensor(self.crowd.ask(steps=GATE_STEPS))
        except BaseException:
            self.stack.close()
            raise
        check = compare(OURS, {"ys": ys}, {"ys": steps_of(network(H), x, GATE_STEPS)})
        if not check.ok:
            self.stack.close()
        return [check]

    def measure(self, options: Options) -> Measurement:
        """What it can do, then its latency with little to do, then far too much of it."""
        length = QUICK_SECONDS if options.quick else SECONDS
        with self.stack:
            most = self._asked(2000.0, length / 4)["answered"] / (length / 4)
            unloaded = self._asked(UNLOADED * most, length)
            self._asked(TIMES * most, length / 4)
            held = self.host.resident_bytes()
            said = self._asked(TIMES * most, length)
            growth = self.host.resident_bytes() - held
        return Measurement(
            figures={
                "steps a second": said["answered"] / length,
                "unloaded p99 (ms)": 1e3 * unloaded["latency"]["p99"],
                LATER: said["latency"]["p99"] / unloaded["latency"]["p99"],
                REFUSED: 1e3 * said["refusal"]["p99"],
                UNFAIR: gini(said["served"]),
                "Gini by chance alone": (np.pi * said["answered"] / CLIENTS) ** -0.5,
                GROWTH: growth / 1e6,
                "sent late, p99 (ms)": 1e3 * said["lag"]["p99"],
            }
        )

    def _asked(self, rate: float, seconds: float) -> dict[str, Any]:
        said = self.crowd.ask(rate=rate, seconds=seconds)
        others = {how: count for how, count in said["refused"].items() if how != "429"}
        if others:
            raise RuntimeError(f"requests were answered with {others}, not with 429")
        return said
