"""One piece of work on several cores.

Machine code runs on the threads that PyTorch's own operations run on, the OpenMP team of the calling thread. They wait
for work actively for some milliseconds after each operation of PyTorch, so they begin within microseconds, whereas
threads of our own would have to fight them for the cores: after a product by two threads, two more of our own were as
slow as one. Where there is no such team (PyTorch without GNU's OpenMP, a forked child) a pool of ordinary threads does
the work.
"""

import ctypes
import enum
import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch

from treadle.engines.cpu.machine.thread_pool import Pool


def count(limit: int) -> int:
    """Into how many shares to split work that could be split ``limit`` times: as many as PyTorch has threads."""
    return max(1, min(torch.get_num_threads(), limit))


def together(function: Any, argument: int, count: int) -> None:
    """Call ``function(argument)`` in up to ``count`` threads at once; returns when all calls have.

    The function is one of ctypes, of one pointer. The calls find out among themselves who does what, and one alone
    could do it all: fewer threads may come. So there is no deadlock however many Python threads call this at once.
    """
    if count == 1:
        function(argument)
    elif not _forked and (parallel := _openmp()):
        parallel(ctypes.cast(function, ctypes.c_void_p).value, argument, count, 0)
    else:
        _pool.together(function, argument, count)


def split(size: int, count: int, unit: int = 1) -> list[tuple[int, int]]:
    """``size`` things in up to ``count`` runs of about the same length: where each begins and ends.

    All runs but the last are whole units.
    """
    units = -(-size // unit)
    count = min(count, units)
    ends = [min(units * (i + 1) // count * unit, size) for i in range(count)]
    return list(zip([0, *ends], ends, strict=False))


class Team(enum.IntEnum):
    """What machine code needs to call several threads itself, word by word."""

    ARE = 0  # whether there is such a thing, in this process
    ASKS = 1  # the address of omp_get_max_threads: how many threads PyTorch has at that moment
    PARALLEL = 2  # the address of GOMP_parallel(function, data, threads, flags)
    NUMBER = 3  # the address of omp_get_thread_num: which thread of a team the calling one is


@functools.cache
def team() -> "ctypes.Array[ctypes.c_int64]":
    """The words of `Team`, for as long as the process lives; all zero where PyTorch has no such OpenMP."""
    words = (ctypes.c_int64 * len(Team))()
    found = [_of_openmp(name) for name in ("omp_get_max_threads", "GOMP_parallel", "omp_get_thread_num")]
    if None not in found:
        words[:] = not _forked, *(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in found)
    return words


@functools.cache
def yield_address() -> int:
    """The system's function that lets others use the core; 0 where there is none of that name."""
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, AttributeError, TypeError):
        return 0


@functools.cache
def _openmp() -> Any:
    """``GOMP_parallel`` of the OpenMP that PyTorch uses, to be called from Python; None if that has no such."""
    parallel = _of_openmp("GOMP_parallel")
    if parallel is not None:
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
    return parallel


def _of_openmp(name: str) -> Any:
    """A function of the OpenMP that PyTorch uses: it is found in the library that is linked to it."""
    library = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    try:
        return getattr(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / library)), name)
    except (OSError, AttributeError):
        return None


_pool = Pool()
_forked = False


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and GNU's OpenMP would wait for them for ever."""
    global _pool, _forked
    _pool = Pool()
    _forked = True
    team()[Team.ARE] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
