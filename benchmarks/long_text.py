"""Run in a process of its own: windows over a large text file while a network trains on them, then to its end.

python -m benchmarks.long_text '{"size": 5000000000, "batches": 200, "threads": 2, "engine": "cpu"}' prints JSON.
"""

import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.long_sequence import most_memory

HIDDEN, ROWS, STEPS = 64, 32, 128
WALK = 16_384
"""Steps of a window where nothing is trained: the rest of the file would take a day otherwise."""


def write(path: Path, size: int) -> int:
    """The standard library's source text, again and again, until there are ``size`` bytes; gives their sum.

    Raises:
        OSError: the disk has no room for it.
    """
    from treadle.training.text import standard_library

    free = shutil.disk_usage(path.parent).free
    if free < 1.1 * size:
        raise OSError(
            f"a text of {size / 1e9:.3g} GB does not fit on the disk of {path.parent}, which has {free / 1e9:.3g} GB"
            " left: set TMPDIR to a folder on another one"
        )
    block = np.concatenate([piece.x for piece in standard_library().training.pieces()])
    total = 0
    with open(path, "wb") as file:
        for begin in range(0, size, len(block)):
            part = block[: size - begin]
            file.write(part)
            total += int(part.sum(dtype="int64"))
    return total


def main(size: int, batches: int, threads: int, engine: str) -> dict[str, Any]:
    """Seconds of waiting and of training, bytes that were not those of the file, and the most memory ever held."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text")
        total = write(path, size)
        return train(path, batches, threads, engine) | walk(path, total) | {"peak": most_memory()}


def train(path: Path, batches: int, threads: int, engine: str) -> dict[str, Any]:
    """As a user would, with a thread that reads ahead; and once more without it, to time the reading itself."""
    import torch
    from torch.nn import functional as F

    import treadle as td
    from treadle import streams

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    g = td.Graph(())
    embedded = g.add("embedded", torch.nn.Embedding(256, HIDDEN), reads=g.x)
    layer = g.add("layer", td.LSTMCell(HIDDEN, HIDDEN), reads=embedded)
    rnn = td.Recurrent(g.outputs(g.add("scores", torch.nn.Linear(HIDDEN, 256), reads=layer)), engine=engine)
    optimiser = torch.optim.Adam(rnn.parameters(), lr=0.002)
    keeper = streams.StateKeeper(rnn)
    parts = streams.split(streams.TextFile(path), ROWS)
    starts = {part.id: part.start for part in parts}

    def step(batch: Any) -> None:
        ys, state = rnn(batch.x, keeper.before(batch), batch.lengths, batch.resets)
        keeper.after(batch, state)
        loss = F.cross_entropy(ys[batch.mask], batch.y[batch.mask])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def wrong(batch: Any) -> int:
        found = 0
        with open(path, "rb") as file:
            for row, (name,) in enumerate(batch.stream_ids):
                file.seek(starts[name] + int(batch.positions[row, 0]))
                there = torch.frombuffer(bytearray(file.read(STEPS + 1)), dtype=torch.uint8)
                found += int((batch.x[row] != there[:-1]).sum() + (batch.y[row] != there[1:]).sum())
        return found

    seconds: dict[str, list[float]] = {}
    mistakes = 0
    for prefetch, name in ((2, "waiting"), (0, "reading")):
        keeper.clear()
        windows: Iterator[Any] = iter(streams.Windows(parts, ROWS, STEPS, prefetch=prefetch))
        for batch in itertools.islice(windows, 5):
            step(batch)  # the first ones compile
        for number in range(batches):
            begin = time.perf_counter()
            batch = next(windows)
            there = time.perf_counter()
            step(batch)
            seconds.setdefault(name, []).append(there - begin)
            seconds.setdefault("training", []).append(time.perf_counter() - there)
            mistakes += wrong(batch) if number % 20 == 0 else 0
    return {"wrong": mistakes} | {name: sum(found) / len(found) for name, found in seconds.items()}


def walk(path: Path, total: int) -> dict[str, Any]:
    """From the beginning of every row to its end: every byte comes once, but for the last of a row, which is only y."""
    from treadle import streams

    parts = streams.split(streams.TextFile(path), ROWS)
    begin, steps = time.perf_counter(), 0
    for batch in streams.Windows(parts, ROWS, WALK):
        steps += int(batch.lengths.sum())
        total -= int(batch.x.sum())
        total -= int(batch.y[batch.ends].sum())
    seconds = time.perf_counter() - begin
    size = path.stat().st_size
    return {"walked": steps + ROWS == size and total == 0, "speed": size / seconds}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
