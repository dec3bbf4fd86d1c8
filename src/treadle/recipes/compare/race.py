"""Many networks, trained side by side in worker processes: one process a core, one thread a process.

With one thread each, a network's numbers do not depend on how many workers there are or who shares its process.
"""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from treadle.errors import WorkerError
from treadle.recipes.compare.plan import Plan
from treadle.recipes.compare.runs import TELL_EVERY, Evaluated, Stepped, train_share
from treadle.recipes.end_with_parent import end_with_parent
from treadle.training.text import Text


class _Failed(NamedTuple):
    reason: str


class _Done(NamedTuple):
    """Nothing more comes from this worker."""


class Workers:
    """Worker processes; they load PyTorch while the caller still prepares the plan.

    Example:
        ::

            with Workers(2) as workers:
                for event in workers.race(plan, text, should_stop=lambda: False):
                    ...
    """

    def __init__(self, count: int):
        self.count = count
        context = multiprocessing.get_context("spawn")  # a fork of a process that has run PyTorch's threads may hang
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        with _interrupts_ignored():  # children inherit that: Ctrl-C is for the parent to handle
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._connections.append(ours)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()

    def race(
        self, plan: Plan, text: Text, should_stop: Callable[[], bool], folder: Path | None = None
    ) -> Iterator[Stepped | Evaluated]:
        """Train all runs of a plan, evaluation point by evaluation point.

        Args:
            plan: its ``shares`` are for at most as many workers as there are.
            text: the text to train on.
            should_stop: asked several times a second; once it says yes, workers stop after the step that they are at.
            folder: of checkpoints, a file a run, to resume from and to write at each evaluation point.

        Yields:
            `Stepped` and `Evaluated`, as they happen.

        Raises:
            WorkerError: a worker failed or died.
        """
        open_connections: dict[Connection, Any] = {}
        for share, connection, process in zip(plan.shares, self._connections, self._processes, strict=False):
            try:
                connection.send((plan, text, share, folder))
            except OSError:  # it died while it started
                raise _death(process) from None
            open_connections[connection] = process
        stop_at = None
        while open_connections:
            if stop_at is None and should_stop():
                stop_at = time.monotonic() + 2  # a step takes far less
                for connection in open_connections:
                    with contextlib.suppress(OSError):
                        connection.send("stop")
            if stop_at is not None and time.monotonic() > stop_at:
                return
            for connection in wait(list(open_connections), timeout=TELL_EVERY):
                assert isinstance(connection, Connection)
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    raise _death(open_connections[connection]) from None
                if isinstance(message, _Failed):
                    raise WorkerError(f"a worker process failed: {message.reason}")
                if isinstance(message, _Done):
                    del open_connections[connection]
                else:
                    yield message


def _death(process: Any) -> WorkerError:
    process.join(1)
    code = process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
    hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    return WorkerError(f"a worker process ended unexpectedly ({how}{hint})")


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it gets the interrupts
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _work(connection: Connection) -> None:
    """A worker process: train a share of the runs, all to the same evaluation point before any goes on to the next."""
    torch.set_num_threads(1)
    end_with_parent()  # which may be killed, and started again with the same checkpoints
    try:
        plan, text, share, folder = connection.recv()
        try:
            # "stop" is all that the parent says, and it can be read at its end, too.
            for event in train_share(plan, text, share, connection.poll, folder):
                connection.send(event)
        except Exception as error:
            if isinstance(error, (EOFError, BrokenPipeError)):
                raise
            connection.send(_Failed(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"))
        else:
            connection.send(_Done())
    except (EOFError, OSError):
        pass  # the parent is gone, nobody needs this any more
