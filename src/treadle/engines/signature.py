"""What of a module its program depends on: its attributes, and the shapes and sharing of its tensors.

A module may be changed at any time, and its program with it. So it is looked at before every pass. That whole look is a
walk through everything; but mostly nothing has changed, and a glance tells: every attribute is still the same object,
and every tensor has the form that it had.
"""

import dataclasses
import operator
import types
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
_OWN = frozenset({"_parameters", "_buffers", "_modules"})
_TABLES = _OWN | frozenset(
    "_non_persistent_buffers_set _backward_pre_hooks _backward_hooks _forward_hooks _forward_hooks_with_kwargs"
    " _forward_hooks_always_called _forward_pre_hooks _forward_pre_hooks_with_kwargs _state_dict_hooks"
    " _state_dict_pre_hooks _load_state_dict_pre_hooks _load_state_dict_post_hooks _is_full_backward_hook".split()
)
_PLAIN = frozenset({bool, int, float, str, type(None)})


class Signature:
    """What a module was like; equal to that of a module for which the same program does."""

    __slots__ = ("_hash", "parts")

    def __init__(self, parts: tuple[Any, ...]):
        self.parts, self._hash = parts, hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Signature) and self.parts == other.parts)


_glances: "weakref.WeakKeyDictionary[nn.Module, tuple[list[_Glance], Signature]]" = weakref.WeakKeyDictionary()


def signature_of(module: nn.Module) -> Signature:
    """The signature of a module as it is now."""
    found = _glances.get(module)
    if found is not None and all(glance.is_as_before() for glance in found[0]):
        return found[1]
    signature = Signature(_walk(module))
    _glances[module] = [_Glance(part) for part in module.modules()], signature
    return signature


def _walk(whole: nn.Module) -> tuple[Any, ...]:
    parts: list[Any] = []
    seen: dict[int, int] = {}
    for module in whole.modules():
        parts.append(type(module))
        for name, value in vars(module).items():
            if name == "_parameters" or name == "_buffers":
                for key, tensor in value.items():
                    parts.append(
                        key if tensor is None else (key, seen.setdefault(id(tensor), len(seen)), _form(tensor))
                    )
            elif name in HOOKS:
                if value:
                    parts.append((name, tuple(map(id, value.values()))))
            elif name not in _TABLES:
                parts.append((name, _described(value)))
    return tuple(parts)


class _Glance:
    """One module of a whole: what it was like, in a form that is quickly compared."""

    # What it keeps must not keep the module alive: objects by weak references, or by what they look like.

    def __init__(self, module: nn.Module):
        attributes = vars(module)
        self.module = weakref.ref(module)
        self.names = tuple(attributes)
        self.kind = type(module)
        own = {name: value for name, value in attributes.items() if name not in _TABLES}
        constants = [name for name, value in own.items() if _is_constant(value)]
        # Of one name, what this gives is no tuple, and of none there is none.
        self.constants_of = operator.itemgetter(*constants, constants[0]) if constants else lambda _: ()
        self.constants = self.constants_of(own)
        self.dicts, self.others = [], []
        for name in own.keys() - set(constants):
            value = own[name]
            if type(value) is dict and all(map(_is_constant, value.values())):
                self.dicts.append((name, tuple(value), tuple(value.values())))
            else:
                self.others.append((name, _described(value)))
        self.children = [(name, _weak(child)) for name, child in attributes["_modules"].items()]
        self.tensors = [
            (table, name, _weak(tensor), None if tensor is None else _form(tensor))
            for table in ("_parameters", "_buffers")
            for name, tensor in attributes[table].items()
        ]
        self.hooks = [name for name in HOOKS if name in attributes]
        self.has_hooks = any(attributes[name] for name in self.hooks)

    def is_as_before(self) -> bool:
        module = self.module()
        if module is None or type(module) is not self.kind or self.has_hooks:
            return False
        attributes = vars(module)
        if tuple(attributes) != self.names:
            return False
        if any(map(operator.is_not, self.constants_of(attributes), self.constants)):
            return False
        for name, keys, values in self.dicts:
            now = attributes[name]
            if type(now) is not dict or tuple(now) != keys or any(map(operator.is_not, now.values(), values)):
                return False
        children, parameters, buffers = attributes["_modules"], attributes["_parameters"], attributes["_buffers"]
        if len(children) != len(self.children) or len(parameters) + len(buffers) != len(self.tensors):
            return False
        for (name, child), (other_name, other) in zip(self.children, children.items(), strict=True):
            if child() is not other or name != other_name:
                return False
        for table, name, reference, form in self.tensors:
            tensor = attributes[table].get(name, self)
            if tensor is not reference() or (tensor is not None and _form(tensor) != form):
                return False
        for name in self.hooks:
            if attributes[name]:
                return False
        return all(_described(attributes[name]) == described for name, described in self.others)


def _weak(value: Any) -> Callable[[], Any]:
    return (lambda: None) if value is None else weakref.ref(value)


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.requires_grad


def _is_constant(value: Any, depth: int = 4) -> bool:
    """Whether a value is the same for as long as it is the same object, and holds on to no module."""
    if type(value) in _PLAIN:
        return True
    if not depth:
        return False
    if type(value) in (tuple, frozenset):
        return all(_is_constant(part, depth - 1) for part in value)
    frozen = dataclasses.is_dataclass(value) and type(value).__dataclass_params__.frozen  # pyright: ignore
    return bool(frozen) and all(_is_constant(part, depth - 1) for part in vars(value).values())


def _described(value: Any, depth: int = 4) -> Any:
    """A value by what it holds, as far as that can be told; else by itself."""
    if type(value) in _PLAIN:
        return (type(value), value)
    if isinstance(value, Tensor):
        return _form(value)
    if depth:
        if isinstance(value, (tuple, list)):
            return (type(value), *(_described(part, depth - 1) for part in value))
        if isinstance(value, dict):
            return tuple((_described(name), _described(part, depth - 1)) for name, part in value.items())
        if isinstance(value, types.SimpleNamespace) or (dataclasses.is_dataclass(value) and hasattr(value, "__dict__")):
            return (type(value), _described(vars(value), depth - 1))
    return _Itself(value)


class _Itself:
    """An object that is equal to itself alone, and not to another that comes to lie where it lay."""

    def __init__(self, value: Any):
        self.number = id(value)
        try:
            self.get = weakref.ref(value)
        except TypeError:
            self.get = lambda: value

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Itself) and self.number == other.number and self.get() is other.get() is not None
