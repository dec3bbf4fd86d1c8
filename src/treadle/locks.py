"""What several threads may ask for at once: locks that a forked child finds free, and properties that need none.

A forked child has one thread, and every lock as it was: one that another thread held then stays locked for ever. So a
process that forks holds all of these meanwhile.
"""

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

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


class kept_property(Generic[T]):
    """A property that is computed once and kept in the object, without a lock.

    Where two threads compute it at once, both get what the first one has. (`functools.cached_property` has a lock for
    each class in Python 3.11, so objects wait for each other, and a forked child may wait for ever.)
    """

    def __init__(self, compute: Callable[[Any], T]):
        self.compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "kept_property[T]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> "kept_property[T] | T":
        if instance is None:
            return self
        return instance.__dict__.setdefault(self.name, self.compute(instance))
