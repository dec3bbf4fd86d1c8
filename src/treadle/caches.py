"""What is computed once: a property that needs no lock, a function whose results nobody but their users keeps alive."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


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


def kept_while_used(make: Callable[..., T]) -> Any:
    """A function of values that can be hashed: the same result for as long as somebody holds it.

    ``cache_clear()`` forgets all of them. Two threads may make one of the same at once; then both get that of one.
    """
    found: weakref.WeakValueDictionary[Any, T] = weakref.WeakValueDictionary()

    @functools.wraps(make)
    def get(*given: Any) -> T:
        result = found.get(given)
        return found.setdefault(given, make(*given)) if result is None else result

    get.cache_clear = found.clear  # pyright: ignore[reportAttributeAccessIssue]
    return get
