"""CPU of a step over the network: a server and another one, asked by the same clients at one rate, in turns."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gates import Check, compare
from benchmarks.race import OURS
from benchmarks.registry import Measurement, Options
from benchmarks.serving.host import network
from benchmarks.serving.processes import Started, clients, host
from benchmarks.timing import Spread

H, CLIENTS, GATE_STEPS = 64, 16, 5
SHARE = 0.5
"""Of a core, which the dearer server is given to do."""
SECONDS, ROUNDS, TRIALS = 2.0, 7, 3


Start = Callable[[], AbstractContextManager[Started]]


def inputs(T: int = 1, size: int = H) -> np.ndarray:
    """What each request asks for, [T, H]."""
    return np.random.default_rng(0).standard_normal((T, size)).astype(np.float32)


def steps_of(lstm: nn.LSTM, x: np.ndarray, count: int) -> Tensor:
    """Outputs of the network, in double precision, for a client that begins with x and sends it again and again."""
    xs = torch.from_numpy(x).double().repeat(count + 1, 1)
    with torch.no_grad():
        return lstm.double()(xs)[0][len(x) :]


@dataclass
class Beside:
    """A server of treadle and another one.

    Args:
        kind: the protocol, a key of `KINDS`.
        other: what the other one is called.
        start: starts it.
        answers: what it answers to a client that sends x [1, H] again and again; None: what the network gives.
    """

    kind: str
    other: str
    start: Start
    answers: Callable[[np.ndarray, int], Tensor] | None
    options: Options
    notes: dict[str, str] = field(default_factory=dict)

    def check(self) -> list[Check]:
        """Both answer as they should."""
        self.stack, x = contextlib.ExitStack(), inputs()
        try:
            starts: dict[str, Start] = {OURS: functools.partial(host, "treadle", H), self.other: self.start}
            self.hosts = {name: self.stack.enter_context(start()) for name, start in starts.items()}
            self.crowds = {
                name: self.stack.enter_context(clients(self.kind, one, x.tolist(), CLIENTS))
                for name, one in self.hosts.items()
            }
            found = {name: torch.tensor(crowd.ask(steps=GATE_STEPS)) for name, crowd in self.crowds.items()}
            expected = dict.fromkeys(found, steps_of(network(H), x, GATE_STEPS))
            if self.answers is not None:
                expected[self.other] = self.answers(x, GATE_STEPS)
            checks = [compare(name, {"ys": ys}, {"ys": expected[name]}) for name, ys in found.items()]
        except BaseException:
            self.stack.close()
            raise
        if self.options.tiny or not all(check.ok for check in checks):
            self.stack.close()
        return checks

    def measure(self, options: Options) -> Measurement:
        """CPU seconds of a step of both in turn; the ratio is taken round by round."""
        length = SECONDS / 4 if options.quick else SECONDS
        with self.stack:
            rate = min(map(self._rate, self.hosts))
            cpu: dict[str, list[float]] = {name: [] for name in self.hosts}
            latencies: dict[str, list[float]] = {name: [] for name in self.hosts}
            for number in range(3 if options.quick else ROUNDS):
                for name in list(self.hosts)[:: 1 if number % 2 else -1]:
                    seconds, said = self._slice(name, rate, length)
                    cpu[name].append(seconds)
                    latencies[name].append(said["latency"]["p99"])
        ratio = Spread.of([theirs / ours for ours, theirs in zip(cpu[OURS], cpu[self.other], strict=True)])
        spreads = {name: Spread.of(found) for name, found in cpu.items()}
        figures = {"steps a second": rate, "p99 (ms)": 1e3 * Spread.of(latencies[OURS]).median}
        return Measurement(spreads, {self.other: ratio}, figures)

    def _rate(self, name: str) -> float:
        """Steps a second that keep a server busy for its share of a core; found by trying."""
        rate = 200.0
        for _ in range(TRIALS):
            rate = SHARE / self._slice(name, rate, 0.5)[0]
        return rate

    def _slice(self, name: str, rate: float, seconds: float) -> tuple[float, dict[str, Any]]:
        before = self.hosts[name].cpu_seconds()
        said = self.crowds[name].ask(rate=rate, seconds=seconds)
        if said["refused"] or not said["answered"]:
            raise RuntimeError(f"{name} has answered {said['answered']} steps, and refused {said['refused']}")
        return (self.hosts[name].cpu_seconds() - before) / said["answered"], said
