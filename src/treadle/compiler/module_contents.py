"""What a step could reach while it is traced: the tensors that become inputs, and whether anything changed."""

import collections
import contextlib
import functools
from collections.abc import Iterator
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from torch import Tensor, nn

from treadle.compiler.kinds import BUFFERS, CACHE, NUMBERS_AND_TEXT, is_known
from treadle.compiler.memory import copy_of, is_as, put_back
from treadle.compiler.reads import what_changes
from treadle.compiler.source_lines import first_line
from treadle.compiler.tracer import Traced
from treadle.errors import TraceError

_MOST_BYTES = 1_000_000
_TABLES = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (list, dict, set, collections.deque)
_LEAVES = (int, float, str, bytes, bool, type(None), Tensor, ModuleType, BuiltinFunctionType)
_DYNAMIC = frozenset({"getattr", "setattr", "vars", "__dict__", "attrgetter"})
"""With these, code reaches attributes whose names do not stand in it."""
_NOTHING: Any = object()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a module holds, by path: parameters, buffers, and plain attributes."""
    found: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for group in (part._parameters, part._buffers, vars(part)):
            for name, tensor in group.items():
                if isinstance(tensor, Tensor):
                    found[prefix + name] = tensor
    return found


class Contents:
    """What a step could change, to see whether it does, and to undo it.

    That is what its code names: attributes of objects and classes, globals, variables of functions around it; and what
    lists, dicts and arrays among these hold. All else may belong to other threads, and is left alone.
    """

    def __init__(self, cell: nn.Module):
        code = getattr(type(cell).forward, "__code__", None)
        self._where = first_line(code) if code else "a step"
        self._seen: dict[tuple[int, CodeType], Any] = {}
        # Each container with a copy; what it is called in a message, and whose it is.
        self._copies: dict[int, tuple[Any, Any, str, Any]] = {}
        self._memory: dict[int, tuple[Any, Any, str, Any]] = {}
        self._attributes: dict[tuple[int, str], tuple[Any, str, Any]] = {}
        self._globals: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        self._cells: dict[int, tuple[CellType, Any]] = {}
        self._caches: dict[int, tuple[Any, int]] = {}
        for part in cell.modules():
            held = vars(part)
            for container, name in ((held, ""), *((held[table], table) for table in _TABLES)):
                self._copies[id(container)] = container, dict(container), name, part

    def meet(self, frame: FrameType) -> None:
        """Take note of what a function may change, before it runs."""
        code, held = frame.f_code, frame.f_globals
        for name in code.co_names:
            if name in held:
                self._globals.setdefault((id(held), name), (held, name, held[name]))
                self._visit(held[name], name, None, code)
        for name, value in frame.f_locals.items():
            if name in code.co_freevars:
                _refuse_what_changes(value, name, code)
            self._visit(value, name, None, code)
            for kind in type(value).__mro__ if code.co_freevars else ():
                method = vars(kind).get(code.co_name)
                if isinstance(method, FunctionType) and method.__code__ is code:
                    self._visit(method, code.co_name, None, code)  # for the variables around it

    def _visit(self, value: Any, name: str, owner: Any, code: CodeType) -> None:
        waiting = [(value, name, owner)]
        while waiting:
            value, name, owner = waiting.pop()
            if isinstance(value, _LEAVES) or (id(value), code) in self._seen:
                continue
            self._seen[id(value), code] = value
            parts = list(self._parts(value, name, owner, code))
            for part, called, _ in parts:
                _refuse_what_changes(part, called, code)
            waiting += parts

    def _parts(self, value: Any, name: str, owner: Any, code: CodeType) -> Iterator[tuple[Any, str, Any]]:
        """What a value holds that the code could reach, once a copy is taken of it."""
        if isinstance(value, _CONTAINERS):
            self._copies.setdefault(id(value), (value, _copied(value), name, owner))
            for part in value.values() if isinstance(value, dict) else list(value):
                yield part, name, owner
        elif isinstance(value, (tuple, frozenset)):
            for part in value:
                yield part, name, owner
        elif isinstance(value, FunctionType):
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # nothing is in it yet
                    self._cells.setdefault(id(cell), (cell, cell.cell_contents))
                    yield cell.cell_contents, name, owner
            yield from ((part, name, owner) for part in (value.__defaults__, value.__kwdefaults__) if part)
        elif isinstance(value, MethodType):
            yield from ((part, name, owner) for part in (value.__self__, value.__func__))
        elif isinstance(value, functools.partial):
            yield from ((part, name, owner) for part in (value.func, value.args, value.keywords))
        elif isinstance(value, memoryview):
            with contextlib.suppress(ValueError):  # it has been released
                yield value.obj, name, owner  # a view need not be dense: what it looks into is put back as a whole
        elif isinstance(value, BUFFERS) or type(value).__module__ == "numpy":
            before = copy_of(value, _MOST_BYTES)
            if before is not None:
                self._memory.setdefault(id(value), (value, before, name, owner))
        elif isinstance(value, CACHE):
            self._caches.setdefault(id(value), (value, value.cache_info().misses))
        else:
            yield from self._attributes_of(value, code)

    def _attributes_of(self, value: Any, code: CodeType) -> Iterator[tuple[Any, str, Any]]:
        """The attributes of an object, or a class, that the code names."""
        ancestors = (value if isinstance(value, type) else type(value)).__mro__
        kinds = [kind for kind in ancestors if not is_known(kind.__module__)]
        holders = kinds if isinstance(value, type) else [value, *kinds]
        for name in () if isinstance(value, type) else code.co_names:
            if _slot(value, name) is not None:
                now = _now(value, name)
                self._attributes.setdefault((id(value), name), (value, name, now))
                yield now, name, value
        for holder in holders:
            held = getattr(holder, "__dict__", None)
            if held is None or (isinstance(holder, type) and is_known(holder.__module__)):
                continue
            names = code.co_names if _DYNAMIC.isdisjoint(code.co_names) else [*held]
            for name in names:
                if holder is value or name in held:
                    self._attributes.setdefault((id(holder), name), (holder, name, held.get(name, _NOTHING)))
                if name in held:
                    yield held[name], name, holder

    def check(self) -> None:
        """Refuse a step that remembers something outside its state."""
        for container, before, name, owner in self._copies.values():
            for inner in _changed(container, before):
                if not name and self._is_a_property_that_is_kept(owner, inner):
                    continue
                attribute = inner if not name or name in _TABLES else name
                raise self._refusal(owner, f"self.{attribute}" if isinstance(owner, nn.Module) else str(attribute))
        for memory, before, name, owner in self._memory.values():
            if not is_as(memory, before):
                raise self._refusal(owner, self._name_of(name, owner))
        for holder, name, before in self._attributes.values():
            if _now(holder, name) is not before and not self._is_a_property_that_is_kept(holder, name):
                raise self._refusal(holder, f"self.{name}" if isinstance(holder, nn.Module) else name)
        for held, name, before in self._globals.values():
            if held.get(name) is not before:
                raise self._refusal(None, f"the global {name}")
        for cell, before in self._cells.values():
            if cell.cell_contents is not before:
                raise self._refusal(None, "a variable of the function around it")

    @staticmethod
    def _is_a_property_that_is_kept(holder: Any, name: Any) -> bool:
        cached = isinstance(getattr(type(holder), str(name), None), functools.cached_property)
        return cached and not _holds_traced(_now(holder, name))

    @classmethod
    def _is_a_number_that_is_kept(cls, holder: Any, name: Any) -> bool:
        return cls._is_a_property_that_is_kept(holder, name) and _is_plain(_now(holder, name))

    @staticmethod
    def _name_of(name: str, owner: Any) -> str:
        return f"self.{name}" if isinstance(owner, nn.Module) else name

    def _refusal(self, owner: Any, where: str) -> TraceError:
        code = getattr(getattr(type(owner), "forward", None), "__code__", None)
        line = first_line(code) if code else self._where
        who = "it" if owner is None else (owner if isinstance(owner, type) else type(owner)).__name__
        return TraceError(f"{line}: {who} keeps something in {where}: a step remembers in its state alone")

    def restore(self) -> None:
        """Put everything back.

        Raises:
            TraceError: memory was resized or closed by the step, and cannot be put back.
        """
        for holder, name, before in self._attributes.values():
            if _now(holder, name) is not before and not self._is_a_number_that_is_kept(holder, name):
                delattr(holder, name) if before is _NOTHING else _set(holder, name, before)
        for container, before, called, owner in self._copies.values():
            changed = _changed(container, before)
            if not called and owner is not None:  # Python would have kept them, too
                before |= {k: container[k] for k in changed if self._is_a_number_that_is_kept(owner, k)}
                changed = _changed(container, before)
            if not changed:
                continue
            container.clear()
            container.update(before) if isinstance(container, (dict, set)) else container.extend(before)
        for held, name, before in self._globals.values():
            held[name] = before
        for cell, before in self._cells.values():
            cell.cell_contents = before
        for cache, misses in self._caches.values():
            if cache.cache_info().misses != misses:  # what it has kept may hold tensors without numbers
                cache.cache_clear()
        # Last: views into memory that the step had put anywhere are gone by now.
        lost = [
            self._name_of(name, owner)
            for memory, before, name, owner in self._memory.values()
            if not is_as(memory, before) and not put_back(memory, before)
        ]
        if lost:
            raise TraceError(
                f"{self._where}: the step resizes or closes {lost[0]}, which cannot be put back after tracing: keep"
                " memory whose size is fixed, or a tensor in the state"
            )


def _refuse_what_changes(value: Any, name: str, code: CodeType) -> None:
    """Leave a step before it draws from an iterator, which nobody could undo."""
    what = what_changes(value)
    if what:
        raise TraceError(f"{first_line(code)}: the step reads {name}, {what}")


def _now(holder: Any, name: str) -> Any:
    slot = _slot(holder, name)
    if slot is not None:
        return getattr(holder, name, _NOTHING)
    return getattr(holder, "__dict__", {}).get(name, _NOTHING)


def _set(holder: Any, name: str, value: Any) -> None:
    slot = _slot(holder, name)
    if slot is not None:
        slot.__set__(holder, value)
    elif isinstance(holder, type):
        setattr(holder, name, value)
    else:
        vars(holder)[name] = value


def _slot(holder: Any, name: str) -> Any:
    """The descriptor of an attribute that is in no dict; None if it is in one."""
    if isinstance(holder, type):
        return None
    found = next((vars(kind)[name] for kind in type(holder).__mro__ if name in vars(kind)), None)
    return found if isinstance(found, MemberDescriptorType) else None


def _copied(container: Any) -> Any:
    for kind in _CONTAINERS:
        if isinstance(container, kind):
            return kind.copy(container)  # pyright: ignore[reportArgumentType] # not that of a class of the user's


def _changed(container: Any, before: Any) -> list[Any]:
    """The keys under which something else is; an empty one for a sequence."""
    if isinstance(container, dict):
        if len(container) == len(before) and all(map(_are_one, container.items(), before.items())):
            return []
        nothing = object()
        return [k for k in {**before, **container} if container.get(k, nothing) is not before.get(k, nothing)]
    if isinstance(container, set):
        return [] if container == before else [""]
    same = len(container) == len(before) and all(a is b for a, b in zip(container, before, strict=True))
    return [] if same else [""]


def _are_one(now: tuple[Any, Any], before: tuple[Any, Any]) -> bool:
    return now[0] is before[0] and now[1] is before[1]


def _is_plain(value: Any) -> bool:
    """Whether a value is numbers and text alone, whatever it was made of."""
    return all(map(_is_plain, value)) if type(value) in (list, tuple) else type(value) in NUMBERS_AND_TEXT


def _holds_traced(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_traced, value))
    return any(map(_holds_traced, value.values())) if isinstance(value, dict) else isinstance(value, Traced)
