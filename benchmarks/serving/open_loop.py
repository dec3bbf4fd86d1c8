"""Run in a process of its own: clients that ask by a clock, at random moments of a given rate, whatever is answered.

A closed loop, in which a client asks again once it was answered, asks less of a server that is slow, and never sees
what a crowd sees. Latencies count from the moment at which a request was due, so that nothing is hidden by waiting.

python -m benchmarks.serving.open_loop reads a first line such as {"kind": "gRPC", "address": "127.0.0.1:8001",
"x": [[0.1]], "clients": 16}, and prints one when all are connected; then each further line, {"rate": 100, "seconds": 2}
or {"steps": 5}, is answered by one.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.serving.alarm import Alarm
from benchmarks.serving.clients import KINDS

PATIENCE = 15.0
"""Seconds that the last answers are waited for."""


class Book:
    """What was answered, when, and to whom."""

    def __init__(self, clients: int):
        self.served = [0] * clients
        self.latencies: dict[str, list[float]] = {}
        self.answered = 0

    def note(self, client: int, due: float, how: str) -> None:
        """An answer has come."""
        self.answered += 1
        self.served[client] += how == "ok"
        self.latencies.setdefault(how, []).append(time.perf_counter() - due)

    def said(self, lags: list[float]) -> dict[str, Any]:
        """All of it, in numbers."""
        refused = [seconds for how, found in self.latencies.items() if how != "ok" for seconds in found]
        return {
            "answered": len(self.latencies.get("ok", ())),
            "refused": dict(Counter({how: len(found) for how, found in self.latencies.items() if how != "ok"})),
            "latency": spread(self.latencies.get("ok", [])),
            "refusal": spread(refused),
            "lag": spread(lags),
            "served": self.served,
        }


def spread(seconds: list[float]) -> dict[str, float]:
    """Quantiles."""
    if not seconds:
        return {}
    p50, p90, p99 = np.quantile(seconds, [0.5, 0.9, 0.99]).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": max(seconds)}


async def main(kind: str, address: str, x: list[list[float]], clients: int, seed: int = 0) -> None:
    """Connect, then do what is asked on the standard input until it ends."""
    loop = asyncio.get_running_loop()
    book = Book(clients)
    values = np.array(x, np.float32)
    everybody = [KINDS[kind](number, address, values, lambda *said: book.note(*said)) for number in range(clients)]
    for one in everybody:
        await one.connect()
    print(json.dumps({"connected": clients}), flush=True)
    rng = np.random.default_rng(seed)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked, book = json.loads(line), Book(clients)
        if "steps" in asked:
            found: Any = [await step(everybody[0], book, count + 1) for count in range(asked["steps"])]
        else:
            count = max(1, round(asked["rate"] * asked["seconds"]))
            moments = np.sort(rng.uniform(0, asked["seconds"], count))  # a Poisson process of so many
            found = book.said(await send(everybody, book, moments, rng.integers(clients, size=count)))
        print(json.dumps(found), flush=True)


async def step(client: Any, book: Book, count: int) -> list[float]:
    """One request, and the numbers of its answer."""
    client.ask(time.perf_counter())
    while book.answered < count:
        await asyncio.sleep(0)
    return client.y()


async def send(everybody: list[Any], book: Book, moments: np.ndarray, who: np.ndarray) -> list[float]:
    """Send requests at their moments; how late each was sent."""
    lags, start = [], time.perf_counter() + 0.01
    with contextlib.closing(Alarm()) as alarm:
        for due, number in zip((moments + start).tolist(), who.tolist(), strict=True):
            await alarm.until(due)
            lags.append(time.perf_counter() - due)
            everybody[number].ask(due)
            if len(lags) % 16 == 0:
                await asyncio.sleep(0)  # answers are read also where sending is late
    end = time.perf_counter() + PATIENCE
    while book.answered < len(lags) and time.perf_counter() < end:
        await asyncio.sleep(1e-3)
    return lags


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(**json.loads(sys.stdin.readline())))
