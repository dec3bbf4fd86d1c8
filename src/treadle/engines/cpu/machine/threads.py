"""One piece of work on several cores.

Machine code runs on the threads that PyTorch's own operations run on, the OpenMP team of the calling thread. They wait
for work actively for some milliseconds after each operation of PyTorch, so they begin within microseconds, whereas
threads of our own would have to fight them for the cores: after a product by two threads, two more of our own were as
slow as one. Where there is no such team (PyTorch without GNU's OpenMP, a forked child) a pool of ordinary threads does
the work.
"""

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["count", "number_address", "team", "together"]


def count(limit: int) -> int:
    """Into how many shares to split work that could be split ``limit`` times: as many as PyTorch has threads."""
    return max(1, min(torch.get_num_threads(), limit))


def together(function: Any, argument: int, count: int) -> None:
    """Call ``function(argument)`` in up to ``count`` threads at once; returns when all calls have.

    The calls find out among themselves who does what, and one alone could do it all: fewer threads may come. So there
    is no deadlock however many Python threads call this at once.

    Args:
        function: a ctypes function of one pointer; its result is dropped.
        argument: an address.
        count: how many threads, the calling one included.
    """
    if count == 1:
        function(argument)
    elif not _forked and (parallel := _openmp()):
        parallel(ctypes.cast(function, ctypes.c_void_p).value, argument, count, 0)
    else:
        work = _Work(function, argument)
        try:
            _pool.offer(work, count - 1)
            function(argument)
        finally:
            # After Ctrl-C too: the memory that others work on must outlive their work.
            work.wait()


@functools.cache
def _openmp() -> Any:
    """``GOMP_parallel(function, data, threads, flags)`` of the OpenMP that PyTorch uses; None if that has no such."""
    parallel = _of_openmp("GOMP_parallel")
    if parallel is not None:
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
    return parallel


def _of_openmp(name: str) -> Any:
    """A function of the OpenMP that PyTorch uses."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return getattr(ctypes.CDLL(str(library)), name)
    except (OSError, AttributeError):
        return None


def number_address() -> int:
    """Where the function is that says which thread of a team the calling one is; 0 if there is none."""
    return _addresses()[3]


def team() -> "ctypes.Array[ctypes.c_int64]":
    """What machine code needs to call several threads itself, and how many PyTorch has at that moment.

    Four words: whether there is such a thing, in this process; the addresses of ``omp_get_max_threads``,
    ``GOMP_parallel`` and ``omp_get_thread_num``.
    """
    return _addresses()


@functools.cache
def _addresses() -> "ctypes.Array[ctypes.c_int64]":
    found = [_of_openmp(name) for name in ("omp_get_max_threads", "GOMP_parallel", "omp_get_thread_num")]
    if None in found:
        return (ctypes.c_int64 * 4)()
    return (ctypes.c_int64 * 4)(not _forked, *(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in found))


# The pool.


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

    def __init__(self, pool: "_Pool") -> None:
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


class _Pool:
    """The threads that are idle, and how many more may be started: one less in all than the machine has cores."""

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
                worker = _Worker(self)
            worker.give(work)


_pool = _Pool()
_forked = False


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and GNU's OpenMP would wait for them for ever."""
    global _pool, _forked
    _pool = _Pool()
    _forked = True
    _addresses()[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
