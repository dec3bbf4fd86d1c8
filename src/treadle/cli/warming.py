"""Compiling ahead: a network is run in each way in which a deployment runs it, so that its kernels are on disk."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from treadle.engines.cpu.machine import compilation
from treadle.errors import ModelFileError
from treadle.files import model_file
from treadle.protocol import example_input
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import OverTime

STEPS = (3, 128)
"""How long sequences are: work for one thread, and for all."""


class Warming:
    """What compiles the kernels of one network.

    Args:
        path: its file.
        training: whether it goes backwards, too.
        batch_sizes: of its sequences and sessions.
        weights: of its sessions.

    Raises:
        ModelFileError: there is no network in it that runs over time, or nobody can tell what it reads.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, training: bool, batch_sizes: Sequence[int], weights: Sequence[str]):
        self.path, self.batch_sizes, self.weights, self.training = path, batch_sizes, weights, training
        self.network = _over_time(model_file.load(path), path)
        self.is_live = not isinstance(self.network, OverTime) and not getattr(self.network, "bidirectional", False)
        if self._x(1) is None:
            raise ModelFileError(f"{path}: the network does not say what it reads (it has no input_size): run it once")

    def run(self) -> str:
        """Compile; says how much there was to do.

        Raises:
            ModelFileError: sessions cannot have such weights.
        """
        before, began = (compilation.counts.compiled, compilation.counts.read), time.perf_counter()
        runs = list(self._runs())
        with _progress(self.path.name, len(runs)) as advance:
            for count, one in runs:
                with _threads(count):
                    one()
                advance()
        made, found = compilation.counts.compiled - before[0], compilation.counts.read - before[1]
        seconds = time.perf_counter() - began
        if not made and not found:
            return f"nothing to compile, it runs in PyTorch and Python (treadle show {self.path} --explain says why)"
        return f"{made} kernels compiled, {found} were there, {seconds:.1f} s"

    def _runs(self) -> Iterator[tuple[int, Callable[[], None]]]:
        """What is run, and with how many threads."""
        for count in sorted({1, torch.get_num_threads()}, reverse=True):
            for rows in dict.fromkeys(self.batch_sizes):
                for steps in STEPS:
                    yield count, lambda rows=rows, steps=steps: self._forwards(rows, steps)
                    if self.training:
                        yield count, lambda rows=rows, steps=steps: self._backwards(rows, steps)
                for weights in self.weights if self.is_live else ():
                    yield count, lambda rows=rows, weights=weights: self._live(rows, weights)

    def _x(self, rows: int) -> Tensor | None:
        """What one step reads: [B, ...]."""
        return example_input(self.network, rows)

    def _sequence(self, rows: int, steps: int) -> Tensor:
        """Zeros as the network takes them."""
        x = self._x(rows)
        assert x is not None
        axis = 1 if getattr(self.network, "batch_first", True) else 0
        return x.unsqueeze(axis).repeat_interleave(steps, axis)

    def _ways(self, rows: int, steps: int) -> Iterator[dict[str, Any]]:
        """The ways to run over sequences."""
        yield {}
        yield {"lengths": [steps, *[1] * (rows - 1)]}
        yield {"resets": torch.arange(steps).expand(rows, steps) % 2 == 1}

    @torch.no_grad()
    def _forwards(self, rows: int, steps: int) -> None:
        self.network.eval()
        for way in self._ways(rows, steps):
            self.network(self._sequence(rows, steps), **way)

    def _backwards(self, rows: int, steps: int) -> None:
        self.network.train()
        for way in self._ways(rows, steps):
            ys = self.network(self._sequence(rows, steps), **way)[0]
            if ys.requires_grad:
                ys.sum().backward()
        self.network.zero_grad()

    def _live(self, rows: int, weights: str) -> None:
        """A session and a pool, each step by step and in blocks, with arrays and tensors."""
        network, x = self.network, self._x(rows)
        assert x is not None
        try:
            session = network.session(batch_size=rows, weights=weights)
        except ValueError as error:
            raise ModelFileError(f"{self.path}: {error}") from error
        session.step(x.numpy())
        session.step(x)
        for steps in STEPS:
            session.steps(self._sequence(rows, steps))
        pool = network.sessions(capacity=rows, weights=weights)
        ids = [pool.open() for _ in range(rows)]
        slots = [pool.slot(id) for id in ids]
        for one in (x, x.numpy()):
            pool.step(dict(zip(ids, one, strict=True)))
            pool.step_rows(slots, one)
        for steps in STEPS:
            block = x.unsqueeze(1).repeat_interleave(steps, 1)
            pool.steps_rows(slots, block.numpy())
            pool.steps(dict(zip(ids, block, strict=True)))


def _over_time(network: Any, path: Path) -> Any:
    """A network over time.

    Raises:
        ModelFileError: it is none.
    """
    if isinstance(network, (Recurrent, OverTime)) or hasattr(network, "recurrent"):
        return network
    if hasattr(network, "initial_state"):
        return Recurrent(network)
    raise ModelFileError(
        f"{path} holds a {type(network).__name__}, and only networks over time are compiled ahead: a treadle.Recurrent,"
        " a treadle.LSTM, GRU or RNN, a treadle.Bidirectional, or a cell; run others once"
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """A context in which PyTorch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, if that is a terminal; gives what moves it on by one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)
