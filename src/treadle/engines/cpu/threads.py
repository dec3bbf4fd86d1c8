"""Shares of one piece of work on several cores: machine code that lets go of the GIL, called by persistent threads."""

import os
import threading
from collections.abc import Callable, Sequence

import torch

__all__ = ["count", "share"]


def count(limit: int) -> int:
    """Into how many shares to split work that could be split ``limit`` times: as many as PyTorch has threads."""
    return max(1, min(torch.get_num_threads(), limit))


def share(function: Callable[..., object], shares: Sequence[tuple[int, ...]]) -> None:
    """Call ``function(*share)`` once for each share, in parallel; returns when all calls have.

    The calling thread works too: it begins with the last share and takes every other one that no thread of the pool
    has begun. So it never waits for a thread that is busy elsewhere, however many callers there are, and a share may
    call this again.

    Raises:
        The first exception that a share raised, after all shares have ended.
    """
    if len(shares) == 1:
        function(*shares[0])
        return
    work = _Work(function, shares)
    try:
        _pool.offer(work, len(shares) - 1)
        work.take_part()
    finally:
        # After Ctrl-C too: the buffers that others work on must outlive their work.
        work.wait()
    if work.errors:
        raise work.errors[0]


class _Work:
    """One call's shares: those that nobody has begun, and how many threads of the pool are at one."""

    def __init__(self, function: Callable[..., object], shares: Sequence[tuple[int, ...]]):
        self.function = function
        self.shares = list(shares)
        self.errors: list[BaseException] = []
        self.guard = threading.Lock()
        self.helpers = 0
        self.ended = threading.Lock()  # a signal: released by the last helper, when no share is left
        self.ended.acquire()

    def take_part(self) -> None:
        """Work, in the calling thread, until nobody needs to begin anything any more."""
        while True:
            with self.guard:
                if not self.shares:
                    return
                arguments = self.shares.pop()
            self.call(arguments)

    def help(self, worker: "_Worker") -> None:
        """The same in a thread of the pool, which the caller waits for if there was something left to begin."""
        helping = False
        while True:
            with self.guard:
                if not self.shares:
                    # Idle before the caller knows that all is done, or its next call would find nobody.
                    _pool.idle.append(worker)
                    self.helpers -= helping
                    if helping and not self.helpers:
                        self.ended.release()
                    return
                self.helpers += not helping
                helping = True
                arguments = self.shares.pop(0)
            self.call(arguments)

    def call(self, arguments: tuple[int, ...]) -> None:
        try:
            self.function(*arguments)
        except BaseException as error:
            self.errors.append(error)

    def wait(self) -> None:
        """Until no thread of the pool is at a share; nobody begins another."""
        interrupted = None
        while True:
            try:
                with self.guard:
                    self.shares.clear()
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

    def __init__(self) -> None:
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
            del work  # nor keeps it a model's buffers alive


class _Pool:
    """The threads that are idle, and how many there are in all: one less than the machine has cores."""

    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        self.room = max(1, (os.cpu_count() or 1) - 1)
        self.guard = threading.Lock()

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
                worker = _Worker()
            worker.give(work)


_pool = _Pool()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
