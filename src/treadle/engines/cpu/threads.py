"""Shares of one piece of work on several cores.

Machine code runs on the threads that PyTorch's own operations run on, the OpenMP team of the calling thread. They wait
for work actively for some milliseconds after each operation of PyTorch, so they begin within microseconds, whereas
threads of our own would have to fight them for the cores: after a product by two threads, two more of our own were as
slow as one. Where there is no such team (PyTorch without GNU's OpenMP, a forked child, a function in Python) a pool of
ordinary threads does the work.
"""

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from treadle.engines.cpu import jit

__all__ = ["count", "share", "together"]


def count(limit: int) -> int:
    """Into how many shares to split work that could be split ``limit`` times: as many as PyTorch has threads."""
    return max(1, min(torch.get_num_threads(), limit))


def share(function: Callable[..., object], shares: Sequence[tuple[int, ...]]) -> None:
    """Call ``function(*share)`` once for each share, in parallel; returns when all calls have.

    The calling thread works too, and takes the shares that no other thread has begun: there is no deadlock however many
    Python threads call this at once.

    Args:
        function: a ctypes function with ``argtypes``, pointers and 64-bit integers only; its result is dropped.
        shares: the arguments of each call, as integers.

    Raises:
        The first exception that a share raised, after all shares have ended.
    """
    if len(shares) == 1:
        function(*shares[0])
    elif getattr(function, "argtypes", None) and not _forked and (parallel := _openmp()):
        _share_with_team(parallel, function, shares)
    else:
        _share_with_pool(function, shares)


def together(function: Any, argument: int, count: int) -> None:
    """Call ``function(argument)`` in up to ``count`` threads at once; returns when all calls have.

    The calls find out among themselves who does what, and one alone could do it all: fewer threads may come.

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
        _share_with_pool(function, [(argument,)] * count)


# The team: OpenMP calls our machine code in each of its threads, which then takes shares until none is left.


def _share_with_team(parallel: Any, function: Any, shares: Sequence[tuple[int, ...]]) -> None:
    size = len(function.argtypes)
    numbers = [ctypes.cast(function, ctypes.c_void_p).value, len(shares), 0]
    for arguments in shares:
        if len(arguments) != size:
            raise TypeError(f"a share has {len(arguments)} arguments, but the function takes {size}: {arguments}")
        numbers += arguments
    work = (ctypes.c_int64 * len(numbers))(*numbers)
    parallel(_taker(size), ctypes.addressof(work), len(shares), 0)


@functools.cache
def _openmp() -> Any:
    """``GOMP_parallel(function, data, threads, flags)`` of the OpenMP that PyTorch uses; None if that has no such."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        parallel = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


@functools.cache
def _taker(size: int) -> int:
    """The address of a function that calls another with shares of so many arguments, until all are taken.

    Its argument points to 64-bit words: the function, how many shares there are, how many are taken, their arguments.
    """
    loads = "\n".join(
        f"  %place{i} = getelementptr i64, ptr %share, i64 {i}\n  %argument{i} = load i64, ptr %place{i}"
        for i in range(size)
    )
    arguments = ", ".join(f"i64 %argument{i}" for i in range(size))
    text = f"""
define void @take(ptr %work) {{
begin:
  %function = load ptr, ptr %work
  %count_place = getelementptr i64, ptr %work, i64 1
  %count = load i64, ptr %count_place
  %taken = getelementptr i64, ptr %work, i64 2
  %shares = getelementptr i64, ptr %work, i64 3
  br label %next
next:
  %number = atomicrmw add ptr %taken, i64 1 monotonic
  %left = icmp slt i64 %number, %count
  br i1 %left, label %call, label %end
call:
  %offset = mul i64 %number, {size}
  %share = getelementptr i64, ptr %shares, i64 %offset
{loads}
  call void %function({arguments})
  br label %next
end:
  ret void
}}
"""
    return jit.compile(text).address("take")


# The pool.


def _share_with_pool(function: Callable[..., object], shares: Sequence[tuple[int, ...]]) -> None:
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
        """Work, in the calling thread, until nothing is left to begin; the last share first."""
        while True:
            with self.guard:
                if not self.shares:
                    return
                arguments = self.shares.pop()
            self.call(arguments)

    def help(self, worker: "_Worker") -> None:
        """The same in a thread of the pool, which the caller waits for if it came in time to begin something."""
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
            del work  # nor does it keep buffers alive


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
                worker = _Worker()
            worker.give(work)


_pool = _Pool()
_forked = False


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and GNU's OpenMP would wait for them for ever."""
    global _pool, _forked
    _pool = _Pool()
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
