"""Threads of our own, which wait asleep for work: where PyTorch lends none of its own."""

import os
import threading
from collections.abc import Callable


class _Work:
    """What one caller does, and how many threads of the pool help."""

    def __init__(self, function: Callable[[int], object], argument: int):
        self.function, self.argument = function, argument
        self.guard = threading.Lock()
        self.helpers = 0
        self.over = False
        self.ended = threading.Lock()  # a signal: released by the last helper, when the caller waits
        self.ended.acquire()

    def help(self, worker: "_Worker") -> None:
        """In a thread of the pool: the same call, unless the caller's own has returned before."""
        with self.guard:
            helping = not self.over
            self.helpers += helping
        if helping:
            self.function(self.argument)
        with self.guard:
            # Idle before the caller knows that all is done, or its next call would find nobody.
            worker.pool.idle.append(worker)
            self.helpers -= helping
            if helping and self.over and not self.helpers:
                self.ended.release()

    def wait(self) -> None:
        """Until no thread of the pool helps; nobody begins to."""
        interrupted = None
        while True:
            try:
                with self.guard:
                    self.over = True
                    helpers = self.helpers
                if helpers:
                    self.ended.acquire()
                break
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted


class _Worker:
    """A persistent thread, asleep unless it was given work. A daemon: it keeps no interpreter from ending."""

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.work: _Work | None = None
        self.awake = threading.Lock()  # a signal: released by whoever gives work
        self.awake.acquire()
        threading.Thread(target=self.serve, name="treadle", daemon=True).start()

    def give(self, work: _Work) -> None:
        self.work = work
        self.awake.release()

    def serve(self) -> None:
        while True:
            self.awake.acquire()
            work, self.work = self.work, None
            assert work is not None
            work.help(self)
            del work  # nor does it keep anything alive


class Pool:
    """The threads that are idle, and how many more may be started: one less in all than the machine has cores."""

    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        self.room = max(1, (os.cpu_count() or 1) - 1)
        self.guard = threading.Lock()

    def together(self, function: Callable[[int], object], argument: int, count: int) -> None:
        """Call ``function(argument)`` in up to ``count`` threads at once, the calling one included."""
        work = _Work(function, argument)
        try:
            self.offer(work, count - 1)
            function(argument)
        finally:
            # After Ctrl-C too: the memory that others work on must outlive their work.
            work.wait()

    def offer(self, work: _Work, most: int) -> None:
        """Give work to as many as ``most`` threads, if so many are idle or may still be started."""
        for _ in range(most):
            try:
                worker = self.idle.pop()
            except IndexError:
                with self.guard:
                    if not self.room:
                        return
                    self.room -= 1
                worker = _Worker(self)
            worker.give(work)
