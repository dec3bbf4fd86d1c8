"""Whether what a step read from outside is as it was when the step was traced: looked at before every pass.

A program stands for a step only as long as that holds. What is looked at is what the code that ran may read (see
``reads.py``): numbers, strings and small containers by what they hold, tensors by their form, all else by whether it is
the same object. Nothing that is looked at is kept alive by it.
"""

import collections
import dataclasses
import functools
import inspect
import operator
import sys
import types
import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.compiler.kinds import BUFFERS, CACHE, NUMBERS_AND_TEXT, is_known
from treadle.compiler.reads import Reads, what_changes
from treadle.errors import TraceError

HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
_TABLES = HOOKS | frozenset(
    "_parameters _buffers _modules _non_persistent_buffers_set _forward_hooks_with_kwargs _forward_hooks_always_called"
    " _forward_pre_hooks_with_kwargs _state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks"
    " _load_state_dict_post_hooks _is_full_backward_hook".split()
)
_PLAIN = frozenset({*NUMBERS_AND_TEXT, range, slice, type(...)})
_FIXED = (types.BuiltinFunctionType, torch.dtype, torch.device, torch.Size, torch.layout)
_SEQUENCES = (tuple, list, collections.deque)
_MAPPINGS = (dict, types.MappingProxyType)
_OPERATORS = frozenset(
    f"__{name}__"
    for name in "call getattr getattribute get getitem setitem contains len iter next bool float int index enter exit"
    " torch_function eq ne lt le gt ge hash neg pos abs invert round trunc floor ceil reversed missing"
    " add sub mul matmul truediv floordiv mod divmod pow and or xor lshift rshift"
    " radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rand ror rxor rlshift rrshift"
    " iadd isub imul imatmul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift new init".split()
)
_DEPTH, _FEW, _MANY, _MOST_OBJECTS, _MOST_BYTES = 8, 64, 100_000, 5_000, 65_536
_NOT_LOOKED_INTO = frozenset({"torch", "numpy", "logging", "threading", "builtins"})


class Guards:
    """What a step read, in a form that is quickly compared.

    Args:
        cell: whose step it is.
        reads: what the step may have read.

    Raises:
        TraceError: the step reads something of which nobody can tell whether it will be the same.
    """

    def __init__(self, cell: nn.Module, reads: Reads):
        self._names: Container[str] = _Everything() if reads.everything else reads.names
        self._named, self._codes = reads.names, reads.codes
        self._names_of_classes = _WithOperators(self._names)
        self._met: dict[int, Any] = {}
        self._kinds: dict[type, None] = {}
        self._known_kinds: set[type] = set()
        self._waiting: list[Any] = [*cell.modules()]
        self._outside: list[Callable[[], bool]] | None = None
        self._looks: list[Callable[[], bool]] = [_TensorsLook(cell).holds]
        own = set(map(id, self._waiting))
        self._drain(own)
        # What else there is belongs to nobody: a copy of the cell reads it, too.
        self._outside = []
        for held, names in reads.globals.values():
            if not is_known(held.get("__name__", "")):
                self._values(_holder_of(held), names, held.get("__name__", "a module"), always=True)
                self._known_modules(held, names)
        self._waiting += reads.modules
        for kind in self._kinds:
            self._class(kind)
        self._drain(own)
        if reads.numbers:
            self._add(lambda numbers=tuple(reads.numbers): all(_is_that(*one) for one in numbers), True)
        # What was met is not kept alive.
        for met in (self._met, self._kinds, self._known_kinds):
            met.clear()

    def _known_modules(self, held: Mapping[str, Any], names: set[str]) -> None:
        """Look at what the code names of PyTorch's modules and others: somebody may put another function there."""
        waiting, met = [held[name] for name in names if name in held], set()
        while waiting:
            module = waiting.pop()
            known = isinstance(module, types.ModuleType) and is_known(module.__name__)
            if known and id(module) not in met:
                met.add(id(module))
                self._values(_attributes_of(module), names, module.__name__)
                waiting += [vars(module)[name] for name in names if name in vars(module)]

    def _drain(self, own: set[int]) -> None:
        while self._waiting:
            value = self._waiting.pop()
            if id(value) in self._met:
                continue
            if len(self._met) > _MOST_OBJECTS:
                raise TraceError(f"a step reads more than {_MOST_OBJECTS} objects from outside")
            self._met[id(value)] = value
            self._object(value, id(value) in own)

    def _add(self, look: Callable[[], bool], holds_data: bool) -> None:
        self._looks.append(look)
        if holds_data and self._outside is not None:
            self._outside.append(look)

    @property
    def outside(self) -> Callable[[], bool] | None:
        """Whether what belongs to no cell is as it was: numbers in globals, of classes; None if the step reads none."""
        looks = tuple(self._outside or ())
        return (lambda: all(look() for look in looks)) if looks else None

    def hold(self) -> bool:
        """Whether everything is as it was."""
        for look in self._looks:  # noqa: SIM110, a loop takes less time than all() of a generator
            if not look():
                return False
        return True

    def _object(self, value: Any, own: bool) -> None:
        """Look at what an object holds."""
        name = type(value).__name__
        if isinstance(value, nn.Module):
            if not own:
                self._add(_TensorsLook(value, same=True).holds, True)
            self._add(_ModuleLook(value).holds, True)
            self._known_class(type(value))
            self._values(_attributes_of(value), self._names, name, _TABLES, own)
            self._classes(type(value))
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._waiting += [value.__self__, value.__func__]
        elif isinstance(value, functools.partial):
            self._parts(value, lambda now: (now.func, now.args, now.keywords))
        elif isinstance(value, CACHE):  # what it keeps may be forgotten, and computed of something else
            self._parts(value, lambda now: (now.__wrapped__, now.cache_info()[1:]))
        elif isinstance(value, weakref.ref):
            self._parts(value, lambda now: (now(),))
        elif isinstance(value, property):
            self._waiting += [part for part in (value.fget,) if part is not None]
        elif isinstance(value, (staticmethod, classmethod)):
            self._waiting.append(value.__func__)
        elif isinstance(value, type):
            self._classes(value)
        elif isinstance(value, types.ModuleType):
            if not is_known(value.__name__):  # by name alone, or all that it imports would be looked at
                self._values(_attributes_of(value), self._named, value.__name__)
        elif type(value).__module__.partition(".")[0] not in _NOT_LOOKED_INTO:
            if isinstance(getattr(value, "__dict__", None), dict):
                self._values(_attributes_of(value), self._names, name)
            self._slots(value)
            self._classes(type(value))

    def _classes(self, kind: type) -> None:
        for one in (*inspect.getmro(kind), *inspect.getmro(type(kind))):
            if one not in self._kinds and not is_known(one.__module__):
                self._kinds[one] = None
                if self._outside is not None:
                    self._class(one)

    def _known_class(self, kind: type) -> None:
        """Look at what runs as a module of a class that is nobody's: somebody may put another function there."""
        if kind not in self._known_kinds:
            self._known_kinds.add(kind)
            self._looks.append(_RunsLook(kind).holds)

    def _class(self, kind: type) -> None:
        reference = weakref.ref(kind)
        self._values(lambda: _class_of(reference), self._names_of_classes, kind.__name__)

    def _function(self, function: types.FunctionType) -> None:
        if function.__code__ not in self._codes or is_known(function.__module__ or ""):
            return
        attributes = [name for name in vars(function) if name in self._names]

        def outside(now: types.FunctionType) -> tuple[Any, ...]:
            cells = [cell.cell_contents for cell in now.__closure__ or () if cell != _EMPTY]
            own = [vars(now).get(name) for name in attributes]
            return (now.__code__, *cells, now.__defaults__, now.__kwdefaults__, *own)

        self._parts(function, outside)

    def _parts(self, value: Any, parts: Callable[[Any], tuple[Any, ...]]) -> None:
        """Look at what an object is made of."""
        name, get = getattr(value, "__name__", type(value).__name__), _weak(value)
        now = parts(value)
        token = self._token(now, name)

        def holds() -> bool:
            now = get()
            return now is not None and _token(parts(now), name) == token

        self._add(holds, any(part is not None for part in now[1:]))

    def _slots(self, value: Any) -> None:
        names = [
            name
            for kind in type(value).__mro__
            for name in ([kind.__slots__] if isinstance(getattr(kind, "__slots__", ()), str) else _slots_of(kind))
            if name in self._names and hasattr(value, name)
        ]
        if names:
            self._parts(value, lambda now: tuple(getattr(now, name, None) for name in names))

    def _values(
        self,
        holder: Callable[[], Any],
        names: Container[str],
        owner: str,
        without: Container[str] = (),
        own: bool = False,
        always: bool = False,
    ) -> None:
        """Look at the values under some names; ``always`` also where there are none as yet."""
        look = _ValuesLook(holder, names, without, owner, self._waiting, own)
        if look.present or always or names is self._names or names is self._named:
            self._add(look.holds, look.holds_data)

    def _token(self, value: Any, name: str) -> Any:
        return _token(value, name, self._waiting)


def _is_that(reference: Callable[[], Tensor | None], number: float) -> bool:
    """Whether a tensor is still that number; what is gone was made by the step itself."""
    tensor = reference()
    return tensor is None or repr(tensor.numpy().item()) == repr(number)


class _Everything:
    """All names."""

    def __contains__(self, name: object) -> bool:
        return True


class _WithOperators:
    """Names, and those of the methods that operators, calls and the like find without them."""

    def __init__(self, names: Container[str]):
        self.names = names

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.names or name in _OPERATORS)


class _ValuesLook:
    """Values under names: attributes of an object or a class, or globals.

    Args:
        holder: gives the dict in which they are, None if that is gone.
        names: which of them are read; ``without`` these.
        owner: whose they are, for a message.
        waiting: takes what has to be looked into as well.
        by_form: whether a tensor may be another one of the same form: where it is read again before every pass.
    """

    def __init__(
        self,
        holder: Callable[[], Any],
        names: Container[str],
        without: Container[str],
        owner: str,
        waiting: list[Any],
        by_form: bool,
    ):
        self.holder, self.names, self.without = holder, names, without
        values = holder()
        self.count, self.present = len(values), self._present(values)
        self.constants = [name for name in self.present if _is_constant(values[name])]
        self.get_constants = _getter(self.constants)
        self.before = self.get_constants(values)
        fixed = set(self.constants)
        self.others: list[tuple[str, Any]] = []
        self.dicts: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = []
        self.forms: list[tuple[str, Any]] = []
        self.objects: list[str] = []
        references = []
        for name in self.present:
            if name in fixed:
                continue
            value = values[name]
            if by_form and isinstance(value, Tensor):
                self.forms.append((name, _form(value)))
                continue
            if type(value) is dict and all(map(_is_constant, value.values())):
                self.dicts.append((name, tuple(value), tuple(value.values())))
                continue
            if _is_told_by_contents(value):
                self.others.append((name, _token(value, f"{owner}.{name}", waiting)))
                continue
            _refuse_what_changes(value, f"{owner}.{name}")
            waiting.append(value)
            self.objects.append(name)
            references.append(_weak(value))
        self.get_objects, self.references = _getter(self.objects), references
        plain = [name for name in self.constants if type(values[name]) in _PLAIN and not name.startswith("__")]
        self.holds_data = bool(plain or self.others or self.dicts or self.forms)

    def _present(self, values: Mapping[str, Any]) -> list[str]:
        return [name for name in values if name in self.names and name not in self.without]

    def holds(self) -> bool:
        values = self.holder()
        if values is None:
            return False
        if len(values) != self.count:
            if self._present(values) != self.present:
                return False
            self.count = len(values)
        try:
            constants = self.get_constants(values)
            if any(map(operator.is_not, constants, self.before)):
                if not all(map(_are_equal, constants, self.before)):
                    return False
                self.before = constants
            for now, reference in zip(self.get_objects(values), self.references, strict=True):
                if now is not reference():
                    return False
            for name, keys, before in self.dicts:
                now = values[name]
                if type(now) is not dict or tuple(now) != keys or not all(map(_are_equal, now.values(), before)):
                    return False
            for name, form in self.forms:
                now = values[name]
                if not isinstance(now, Tensor) or _form(now) != form:
                    return False
            for name, token in self.others:
                if _token(values[name], name) != token:
                    return False
        except KeyError:
            return False
        return True


class _RunsLook:
    """The functions that run as a module of a class."""

    def __init__(self, kind: type):
        # Weak, all three: a function that says super() holds on to its class.
        self.kind = weakref.ref(kind)
        self.runs = [_weak_function(getattr(kind, name)) for name in ("__call__", "forward")]

    def holds(self) -> bool:
        kind: Any = self.kind()
        call, forward = self.runs
        return kind is not None and kind.__call__ == call() and kind.forward == forward()


class _ModuleLook:
    """The class, the children and the hooks of a module."""

    def __init__(self, module: nn.Module):
        self.module, self.kind = weakref.ref(module), weakref.ref(type(module))
        self.names = tuple(module._modules)
        self.children = [_weak(child) for child in module._modules.values()]
        attributes = vars(module)
        self.hooks = [name for name in HOOKS if name in attributes]
        self.hooked = _hooks_of(module)

    def holds(self) -> bool:
        module = self.module()
        if module is None or type(module) is not self.kind():
            return False
        attributes = vars(module)
        children = attributes["_modules"]
        if tuple(children) != self.names:
            return False
        for child, reference in zip(children.values(), self.children, strict=True):
            if child is not reference():
                return False
        for name in self.hooks:
            if attributes[name]:
                return _hooks_of(module) == self.hooked
        return not self.hooked


class _TensorsLook:
    """The forms of all tensors of a module, and which of them are one; with ``same``, that they are the same."""

    def __init__(self, module: nn.Module, same: bool = False):
        self.same = same
        self.tables = [
            (weakref.ref(part), tuple(part._parameters), tuple(part._buffers)) for part in _modules(module, same)
        ]
        tensors = self._tensors()
        assert tensors is not None
        self.references = [_weak(tensor) for tensor in tensors]
        self.forms, self.sharing = list(map(_form, tensors)), _sharing(tensors)

    def _tensors(self) -> list[Any] | None:
        tensors: list[Any] = []
        for reference, parameters, buffers in self.tables:
            module = reference()
            if module is None:
                return None
            own, others = module._parameters, module._buffers
            if tuple(own) != parameters or tuple(others) != buffers:
                return None
            tensors += own.values()
            tensors += others.values()
        return tensors

    def holds(self) -> bool:
        tensors = self._tensors()
        if tensors is None:
            return False
        others = False
        for tensor, reference, form in zip(tensors, self.references, self.forms, strict=True):
            if tensor is not reference():
                others = True
            if tensor is None:
                if form is not None:
                    return False
            elif form is None or tensor.shape != form[0] or tensor.dtype != form[1] or tensor.requires_grad != form[2]:
                return False
        return not others or (not self.same and _sharing(tensors) == self.sharing)


def _modules(module: nn.Module, alone: bool) -> list[nn.Module]:
    return [module] if alone else [*module.modules()]


def _form(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (tensor.shape, tensor.dtype, tensor.requires_grad)


def _sharing(tensors: list[Any]) -> list[int]:
    seen: dict[int, int] = {}
    return [seen.setdefault(id(tensor), len(seen)) for tensor in tensors]


def _hooks_of(module: nn.Module) -> tuple[Any, ...]:
    attributes = vars(module)
    found = [(name, *map(id, attributes[name].values())) for name in HOOKS if attributes.get(name)]
    return tuple(sorted(found))


_EMPTY = types.CellType()


def _slots_of(kind: type) -> Iterator[str]:
    yield from vars(kind).get("__slots__", ())


def _attributes_of(value: Any) -> Callable[[], Any]:
    get = _weak(value)

    def attributes() -> Any:
        now = get()
        return None if now is None else vars(now)

    return attributes


def _class_of(reference: Any) -> Any:
    kind = reference()
    return None if kind is None else vars(kind)


def _holder_of(held: dict[str, Any]) -> Callable[[], Any]:
    """Globals, by way of their module, so that they are not kept alive."""
    module = sys.modules.get(held.get("__name__", ""))
    if module is not None and vars(module) is held:
        return _attributes_of(module)
    return lambda: held


def _weak(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value


def _weak_function(function: Any) -> Callable[[], Any]:
    """The same for what a class gives for a name: of a class method that is another object each time."""
    return weakref.WeakMethod(function) if isinstance(function, types.MethodType) else _weak(function)


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """All values under these names as a tuple."""
    if len(names) > 1:
        return operator.itemgetter(*names)
    if not names:
        return lambda values: ()
    (name,) = names
    return lambda values: (values[name],)


def _is_constant(value: Any, depth: int = 6) -> bool:
    """Whether a value is the same for as long as it is the same object, and holds on to no module."""
    if type(value) in _PLAIN or isinstance(value, _FIXED):
        return True
    if not depth:
        return False
    if type(value) in (tuple, frozenset):
        return all(_is_constant(part, depth - 1) for part in value)
    frozen = dataclasses.is_dataclass(value) and not isinstance(value, type) and _is_frozen(value)
    return frozen and all(_is_constant(part, depth - 1) for part in getattr(value, "__dict__", {"": object()}).values())


def _is_frozen(value: Any) -> bool:
    return type(value).__dataclass_params__.frozen


def _are_equal(now: Any, before: Any) -> bool:
    """Whether a value is the constant that was there before, or one like it."""
    if now is before:
        return True
    return type(now) is type(before) and _is_constant(now) and now == before and repr(now) == repr(before)


_CONTAINERS = (*_SEQUENCES, *_MAPPINGS, *BUFFERS, set, frozenset, Tensor)


def _token(value: Any, name: str, waiting: list[Any] | None = None, depth: int = _DEPTH) -> Any:
    """A value by what it holds, as far as that can be told; else by itself.

    Raises:
        TraceError: nobody can tell whether it will be the same.
    """
    kind = type(value)
    if kind in _PLAIN:
        return (kind, repr(value) if kind is float and not value else value)
    if isinstance(value, Tensor):
        return _Itself(value, _form(value))
    if not depth:
        raise TraceError(f"{name}: the step reads lists in lists, more than {_DEPTH} deep")
    if isinstance(value, (*_SEQUENCES, *_MAPPINGS, set, frozenset)):
        return _held(value, name, waiting, depth)
    if isinstance(value, BUFFERS):
        return (kind, _bytes_of(value, name))
    if _is_numpy(value):
        if value.nbytes > _MOST_BYTES or value.dtype.hasobject:
            raise TraceError(f"{name}: the step reads a large array of NumPy's: keep it as a buffer, a tensor")
        return (kind, value.shape, str(value.dtype), value.tobytes())
    _refuse_what_changes(value, name)
    if waiting is not None:
        waiting.append(value)
    return _Itself(value)


def _bytes_of(value: Any, name: str) -> bytes:
    try:
        view = memoryview(value)
    except ValueError as error:  # Python says so, too, when the step reads it
        raise TraceError(f"{name}: the step reads memory that cannot be read any more ({error})") from None
    with view:
        if view.nbytes > _MOST_BYTES:
            raise TraceError(f"{name}: the step reads {view.nbytes} bytes of memory: keep them as a buffer, a tensor")
        return view.tobytes()


def _is_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "tobytes")


def _is_told_by_contents(value: Any) -> bool:
    return isinstance(value, _CONTAINERS) or _is_numpy(value)


def _held(value: Any, name: str, waiting: list[Any] | None, depth: int) -> Any:
    """A container by what it holds."""
    parts = [*value, *value.values()] if isinstance(value, _MAPPINGS) else list(value)
    if len(parts) > _MANY:
        raise TraceError(
            f"{name}: the step reads from a container of {len(value)} items: keep it as a buffer, a tensor"
        )
    kinds = set(map(type, parts))
    if len(parts) > _FEW and kinds <= _PLAIN:
        zeros = tuple(map(repr, (part for part in parts if part == 0))) if 0.0 in parts else ()  # of either sign
        return (type(value), tuple(map(type, parts)), tuple(parts), zeros)
    if isinstance(value, (set, frozenset)):
        return (type(value), frozenset(_token(part, name, waiting, depth - 1) for part in parts))
    return (type(value), *[_token(part, name, waiting, depth - 1) for part in parts])


def _refuse_what_changes(value: Any, name: str) -> None:
    what = what_changes(value)
    if what:
        raise TraceError(f"{name}: the step reads {what}")


class _Itself:
    """An object that is equal to itself alone, and not to another that comes to lie where it lay."""

    __slots__ = ("form", "get", "number")

    def __init__(self, value: Any, form: Any = None):
        self.number, self.form, self.get = id(value), form, _weak(value)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, _Itself)
            and self.number == other.number
            and self.form == other.form
            and self.get() is other.get() is not None
        )
