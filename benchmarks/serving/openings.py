"""Run in a process of its own: clients that begin one sequence after another, each of another name, and perhaps end it.

python -m benchmarks.serving.openings reads a first line {"address": "127.0.0.1:8000", "x": [[0.1]]}, and prints
one; then each {"first": 0, "count": 1000, "end": true} is answered by the number of answers of each status,
and the numbers of the first client's last answer. With "again", all are further steps of the first.
"""

import asyncio
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np

from benchmarks.serving.clients import HttpBinary

CONNECTIONS = 8
NAME = b"client-0"
"""What is replaced by the names, which are as long."""


async def main(address: str, x: list[list[float]]) -> None:
    """Connect, then do what is asked on the standard input until it ends."""
    values, found = np.array(x, np.float32), Counter()
    names: Iterator[int] = iter(())
    parts = [b"", b""]
    done = asyncio.Event()

    def ask(client: HttpBinary) -> None:
        name = next(names, None)
        if name is not None:
            client.request = b"%b%08d%b" % (parts[0], name, parts[1])
            client.ask(0.0)
        elif all(one.due is None for one in everybody):
            done.set()

    def noted(number: int, due: float, how: str) -> None:
        found[how] += 1
        ask(everybody[number])

    everybody = [HttpBinary(number, address, values, noted) for number in range(CONNECTIONS)]
    for one in everybody:
        await one.connect()
    print(json.dumps({"connected": CONNECTIONS}), flush=True)
    while line := sys.stdin.readline():
        asked = json.loads(line)
        first, count, again = asked["first"], asked["count"], asked.get("again", False)
        everybody[0].ends = asked["end"]
        parts = everybody[0].form(start=not again).split(NAME)
        names = itertools.repeat(first, count) if again else iter(range(first, first + count))
        found.clear()
        done.clear()
        for one in everybody:
            ask(one)
        await done.wait()
        print(json.dumps({"answers": found, "y": everybody[0].y()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.stdin.readline())))
