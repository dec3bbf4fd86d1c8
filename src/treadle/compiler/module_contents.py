"""What a step could reach while it is traced: the tensors that become inputs, and whether anything changed."""

import collections
import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from treadle.compiler.source_lines import first_line
from treadle.compiler.tracer import Traced
from treadle.errors import TraceError

_MOST, _MOST_BYTES = 300_000, 1_000_000
_CONTAINERS = (list, dict, set, collections.deque, bytearray)
_LEAVES = (int, float, str, bytes, bool, type(None), Tensor, type, types.ModuleType, types.BuiltinFunctionType)
_CACHE = type(functools.lru_cache(int))


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

    That is whatever can be reached from the cell: attributes of objects and their classes, lists and dicts of any
    depth, and the globals and closures of the functions that run.
    """

    def __init__(self, cell: nn.Module):
        self._seen: dict[int, Any] = {}
        # Each container with a copy, and what it is called in a message.
        self._copies: list[tuple[Any, Any, str, Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        self._caches: list[tuple[Any, int]] = []
        code = getattr(type(cell).forward, "__code__", None)
        self._where = first_line(code) if code else "a step"
        self._visit(cell, type(cell).__name__, None)

    def meet(self, held: dict[str, Any], code: types.CodeType) -> None:
        """Take note of what a function may reach by its globals, before it runs."""
        for name in code.co_names:
            if name in held and (held is not vars(sys.modules.get("builtins"))):
                value = held[name]
                self._globals.append((held, name, value))
                self._visit(value, name, None)

    def _visit(self, value: Any, name: str, owner: Any) -> None:
        waiting = [(value, name, owner)]
        while waiting and len(self._seen) < _MOST:
            value, name, owner = waiting.pop()
            if isinstance(value, _LEAVES) and not (isinstance(value, type) and _is_of_users(value)):
                continue
            if id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            waiting += [(part, inner or name, whose) for part, inner, whose in self._parts(value, name, owner)]

    def _parts(self, value: Any, name: str, owner: Any) -> Iterator[tuple[Any, str, Any]]:
        """What a value holds, once a copy is taken of it."""
        if isinstance(value, _CONTAINERS):
            self._copies.append((value, _copied(value), name, owner))
            if not isinstance(value, bytearray):
                for part in value.values() if isinstance(value, dict) else list(value):
                    yield part, "", owner
        elif isinstance(value, (tuple, frozenset)):
            for part in value:
                yield part, "", owner
        elif isinstance(value, types.FunctionType):
            for cell in value.__closure__ or ():
                try:
                    self._cells.append((cell, cell.cell_contents))
                except ValueError:  # nothing is in it yet
                    continue
                yield cell.cell_contents, "", owner
            yield from ((part, "", owner) for part in (value.__defaults__, value.__kwdefaults__) if part)
        elif isinstance(value, types.MethodType):
            yield value.__self__, "", owner
            yield value.__func__, "", owner
        elif isinstance(value, functools.partial):
            yield from ((part, "", owner) for part in (value.func, value.args, value.keywords))
        elif isinstance(value, _CACHE):
            self._caches.append((value, value.cache_info().misses))
        elif type(value).__module__ == "numpy":
            if getattr(value, "nbytes", _MOST_BYTES) < _MOST_BYTES and hasattr(value, "fill"):
                self._copies.append((value, value.copy(), name, owner))
        elif isinstance(value, type):
            held = dict(vars(value))
            self._copies.append((value, held, name, value))
            yield from ((part, attribute, value) for attribute, part in held.items())
        elif isinstance(held := getattr(value, "__dict__", None), dict):
            self._copies.append((held, held.copy(), "", value))
            yield from ((part, attribute, value) for attribute, part in held.items())
            yield type(value), name, owner

    def check(self) -> None:
        """Refuse a step that remembers something outside its state."""
        for container, before, name, owner in self._copies:
            for inner in _changed(container, before):
                cached = isinstance(getattr(type(owner), str(inner), None), functools.cached_property)
                if not name and cached and not _holds_traced(container.get(inner)):
                    continue
                attribute = inner if not name or name.startswith("_") or container is owner else name
                raise self._refusal(owner, f"self.{attribute}" if isinstance(owner, nn.Module) else str(attribute))
        for held, name, before in self._globals:
            if held.get(name) is not before:
                raise self._refusal(None, f"the global {name}")
        for cell, before in self._cells:
            if cell.cell_contents is not before:
                raise self._refusal(None, "a variable of the function around it")

    def _refusal(self, owner: Any, where: str) -> TraceError:
        code = getattr(getattr(type(owner), "forward", None), "__code__", None)
        line = first_line(code) if code else self._where
        who = "it" if owner is None else (owner if isinstance(owner, type) else type(owner)).__name__
        return TraceError(f"{line}: {who} keeps something in {where}: a step remembers in its state alone")

    def restore(self) -> None:
        """Put everything back."""
        for container, before, _, _ in self._copies:
            if not _changed(container, before):
                continue
            if isinstance(container, type):
                for name in _changed(container, before):
                    setattr(container, name, before[name]) if name in before else delattr(container, name)
                continue
            if not isinstance(container, _CONTAINERS):
                container[...] = before
                continue
            container.clear()
            container.update(before) if isinstance(container, (dict, set)) else container.extend(before)
        for held, name, before in self._globals:
            held[name] = before
        for cell, before in self._cells:
            cell.cell_contents = before
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:  # what it has kept may hold tensors without numbers
                cache.cache_clear()


def _copied(container: Any) -> Any:
    for kind in _CONTAINERS:
        if isinstance(container, kind):
            return kind.copy(container)  # pyright: ignore[reportArgumentType] # not that of a class of the user's


def _is_of_users(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in _KNOWN


_KNOWN = frozenset({"torch", "numpy", "treadle", "builtins", *sys.stdlib_module_names})


def _changed(container: Any, before: Any) -> list[Any]:
    """The keys under which something else is; an empty one for a sequence."""
    if isinstance(container, type):
        container = dict(vars(container))
    if isinstance(container, dict):
        if len(container) == len(before) and all(map(_are_one, container.items(), before.items())):
            return []
        nothing = object()
        return [k for k in {**before, **container} if container.get(k, nothing) is not before.get(k, nothing)]
    if not isinstance(container, _CONTAINERS):
        return [] if container.tobytes() == before.tobytes() else [""]
    if isinstance(container, (set, bytearray)):
        return [] if container == before else [""]
    same = len(container) == len(before) and all(a is b for a, b in zip(container, before, strict=True))
    return [] if same else [""]


def _are_one(now: tuple[Any, Any], before: tuple[Any, Any]) -> bool:
    return now[0] is before[0] and now[1] is before[1]


def _holds_traced(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_traced, value))
    return any(map(_holds_traced, value.values())) if isinstance(value, dict) else isinstance(value, Traced)
