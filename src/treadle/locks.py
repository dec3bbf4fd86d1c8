"""Locks that a forked child finds free.

A forked child has one thread, and every lock as it was: one that another thread held then stays locked for ever. So a
process that forks holds all of these meanwhile.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

_locks: list[Any] = []
_held: list[Any] = []  # while the process forks


def fork_safe_lock(kind: Callable[[], Any] = threading.Lock) -> Any:
    """A lock, to be kept for as long as the process lives, that no other thread holds while the process forks."""
    _locks.append(kind())
    return _locks[-1]


MAKING = fork_safe_lock(threading.RLock)
"""Held while something is made that is kept: a program is traced, planned, compiled. One lock does for all of it: what
is made calls for other things to be made, and where each had a lock, two threads could wait for each other."""


def _hold_all() -> None:
    """Hold every lock. While this waits for one it holds no other, so that nobody can wait for it."""
    waiting, first = list(_locks), _locks[0]
    while True:
        first.acquire()
        taken = [first]
        for lock in waiting:
            if lock is not first:
                if not lock.acquire(blocking=False):
                    break
                taken.append(lock)
        else:
            _held[:] = taken
            return
        for one in taken:
            one.release()
        first = lock


def _release_all() -> None:
    for lock in _held:
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_all, after_in_parent=_release_all, after_in_child=_release_all)
