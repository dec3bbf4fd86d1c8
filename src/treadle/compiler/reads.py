"""What a step's Python reads from outside while it is traced, and what it does that no program can hold.

A profile function hears of every function that runs. Of a Python function its code says which names it may read: of
globals, and of attributes. Of a function in C, what it is says whether its answer is another at the next call.
"""

import builtins
import contextlib
import contextvars
import datetime
import functools
import gc
import importlib
import io
import linecache
import logging
import operator
import os
import queue
import random
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch import Tensor

from treadle.compiler.source_lines import first_line, line_of
from treadle.errors import TraceError

_TORCH = str(Path(torch.__file__).parent) + os.sep
_TREADLE = str(Path(__file__).parents[1]) + os.sep
_COMPILER = str(Path(__file__).parent) + os.sep
_STANDARD = tuple(
    {sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep, str(Path(os.__file__).parent)}
)
_PACKAGES = tuple({sysconfig.get_path("purelib") + os.sep, sysconfig.get_path("platlib") + os.sep})
# Parts of treadle whose code is what a step may be made of; the rest is what runs a step.
_STEPS = tuple(_TREADLE + name for name in ("cells", "wiring", "seq2seq", "control", "adapt", "recipes"))

_DYNAMIC = frozenset(map(id, (builtins.getattr, builtins.hasattr, builtins.vars, builtins.dir, builtins.eval)))
"""With these, code reads attributes whose names do not stand in it."""

_OTHERWISE = "which may be otherwise at the next call"
_TIME = "it asks what time it is"
_MODE = "it asks for a mode of PyTorch's, which may be another at the next call"
_OUTSIDE = "it reads or writes outside, which has to happen at every step"
_RANDOM = "it draws random numbers of Python's or NumPy's, which are others at every step: draw with torch"
_CHANGING = {id(function): _TIME for function in vars(time).values() if callable(function)}
_CHANGING |= {id(getattr(torch, name)): _MODE for name in ("is_grad_enabled", "is_autocast_enabled", "is_inference")}
_CHANGING |= {id(torch.is_inference_mode_enabled): _MODE, id(torch.get_autocast_dtype): _MODE}
_CHANGING |= dict.fromkeys(map(id, (print, input, open)), _OUTSIDE)
_CHANGING |= {
    id(function): _MODE
    for name in dir(torch)
    if name.startswith(("is_autocast", "get_autocast", "is_anomaly", "get_num_"))
    and isinstance(function := getattr(torch, name), BuiltinFunctionType)
}
_CHANGING |= {id(sys.getrecursionlimit): "it asks for a setting of Python's, which may be another at the next call"}
_CHANGING |= {id(builtins.globals): "it reads globals by names that do not stand in it"}
_OUTSIDE_MODULES = frozenset({"posix", "nt", "_io", "_socket", "select", "_posixsubprocess", "_queue"})
_HARMLESS = frozenset({"fspath", "getpid", "text_encoding"})
_OF_TENSORS = {
    name: f"it reads the numbers of a tensor, with {name}, which may be others at the next call"
    for name in ("numpy", "tolist", "data_ptr", "__array__")
}
_OF_TENSORS |= {"retain_grad": "it asks for the gradient of a value within the step"}
_NUMEL = f"it asks how many numbers a shape has, {_OTHERWISE}: ask tensor.numel()"
_SEED = "it sets or reads the state of a generator, which has to happen at every step"
_HOOK = "it registers a hook on a tensor, which autograd has to call at every step"
_PASS = "it asks autograd for gradients within the step"
_CALLS = {
    Tensor.register_hook.__code__: _HOOK,
    Tensor.register_post_accumulate_grad_hook.__code__: _HOOK,
    Tensor.backward.__code__: _PASS,
    torch.autograd.grad.__code__: _PASS,
    torch.autograd.backward.__code__: _PASS,
    torch.autograd.graph.saved_tensors_hooks.__enter__.__code__: "it hears of the tensors that autograd saves",
    type(os.environ).__getitem__.__code__: "it reads an environment variable, which may be another at the next call",
    logging.Logger._log.__code__: _OUTSIDE,
    torch.random.manual_seed.__code__: _SEED,
    torch.random.seed.__code__: _SEED,
    torch.random.initial_seed.__code__: _SEED,
    torch.random.get_rng_state.__code__: _SEED,
    torch.random.set_rng_state.__code__: _SEED,
    torch.backends.ContextProp.__get__.__code__: _MODE,
    torch.are_deterministic_algorithms_enabled.__code__: _MODE,
    torch.is_deterministic_algorithms_warn_only_enabled.__code__: _MODE,
    torch.get_deterministic_debug_mode.__code__: _MODE,
    torch.get_float32_matmul_precision.__code__: _MODE,
    torch.get_default_device.__code__: _MODE,
    queue.Queue.get.__code__: _OUTSIDE,
    queue.Queue.put.__code__: _OUTSIDE,
}
_ASKS = dict.fromkeys(
    (logging.Logger.isEnabledFor.__code__, logging.Logger.getEffectiveLevel.__code__),
    "it asks for the level of a log, which may be another at the next call",
)
"""Only if the step itself does so."""
_SPEAKING = frozenset({warnings.__file__, linecache.__file__, logging.__file__})
"""Parts of the standard library that only say something."""
_OWNERS = (
    (random.Random, _RANDOM),
    (queue.SimpleQueue, _OUTSIDE),
    (torch.Generator, _SEED),
    (io.IOBase, _OUTSIDE),
    (contextvars.ContextVar, _OUTSIDE),
)
_IMPORT = importlib._bootstrap._find_and_load.__code__  # pyright: ignore[reportAttributeAccessIssue]


@functools.cache
def _home(file: str) -> str:
    """Whose code a file is: the step's, PyTorch's, the standard library's, the compiler's, or others' of treadle."""
    if file.startswith(_TORCH):
        return "torch.nn" if file.startswith(_TORCH + "nn" + os.sep) else "torch"
    if file.startswith(_TREADLE):
        return "step" if file.startswith(_STEPS) else "compiler" if file.startswith(_COMPILER) else "treadle"
    if file.startswith("<frozen importlib"):
        return "compiler"
    if file.startswith("<frozen ") or (file.startswith(_STANDARD) and not file.startswith(_PACKAGES)):
        return "standard"
    return "step"


def is_of_step(code: CodeType) -> bool:
    """Whether a function is one that a step is made of: a user's, or of treadle's cells and wirings."""
    return _home(code.co_filename) == "step"


def is_of_user(code: CodeType) -> bool:
    """Whether a function is one of the user's that a step may be made of, and none of treadle's."""
    return _home(code.co_filename) == "step" and not code.co_filename.startswith(_TREADLE)


class Reads:
    """Listens while a step runs, in the thread that enters it.

    Attributes:
        names: of attributes that the code which ran may read.
        everything: whether that code reads attributes by names that do not stand in it.
        globals: the globals of each module whose functions ran, with the names that these functions may read: not all
            of them are there.
        modules: that functions may have imported, by the names in their code.
        codes: the code that ran, of the step itself.
        numbers: of tensors without axes that stand in the program as numbers: weak references, and these.
        reason: what it did that no program can hold: the line, and why; empty if nothing.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.everything = False
        self.globals: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self.modules: list[ModuleType] = []
        self.codes: set[CodeType] = set()
        self.numbers: list[tuple[Any, float]] = []
        self.reason = ""
        self._seen: set[CodeType] = set()
        self._theirs: set[CodeType] = set()
        self._meet: Callable[[FrameType], None]
        self._base: FrameType | None = None
        self._where = ""  # the first line of the step's own code

    @contextlib.contextmanager
    def listening(self, meet: Callable[[FrameType], None]) -> Iterator[None]:
        """A context in which a step runs; ``meet`` is told of each call of a function of the user's, before it runs."""
        states, others = random_states(), sys.getprofile()
        self._meet, self._base = meet, sys._getframe(2)
        self._seen.clear()
        collecting = gc.isenabled()
        gc.disable()  # what it calls is none of the step's
        sys.setprofile(self._event)
        try:
            yield
        finally:
            _profile_again(others)
            if collecting:
                gc.enable()
            self._base = None
            if restore_random_states(states):
                self.reason = self.reason or f"{self._where or 'a step'}: {_RANDOM}"

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code is _IMPORT:
                _import(frame.f_locals["name"])
            if code not in self._seen:
                self._seen.add(code)
                self._note(frame, code)
            if code in self._theirs:
                self._meet(frame)
            if code in _CALLS:
                self._refuse(frame.f_back, _CALLS[code])
            elif code in _ASKS and frame.f_back is not None and is_of_step(frame.f_back.f_code):
                self._refuse(frame.f_back, _ASKS[code])
        elif event == "c_call":
            number, owner = id(argument), getattr(argument, "__self__", None)
            if number in _DYNAMIC:
                if not self.everything and _home(frame.f_code.co_filename) == "step":
                    self.everything = not self._is_called_by_the_compiler(frame)
            elif number in _CHANGING:
                self._refuse(frame, _CHANGING[number])
            elif isinstance(owner, torch.Size):
                # A size that is none of Python's own numbers stands for the number of rows.
                if argument.__name__ == "numel" and any(type(size) is not int for size in owner):
                    self._refuse(frame, _NUMEL)
            elif isinstance(owner, Tensor):
                if argument.__name__ in _OF_TENSORS:
                    self._refuse(frame, _OF_TENSORS[argument.__name__])
            elif isinstance(owner, type):
                if issubclass(owner, datetime.date):
                    self._refuse(frame, _TIME)
            else:
                for kind, why in _OWNERS:
                    if isinstance(owner, kind):
                        self._refuse(frame, why)
                outside = isinstance(owner, ModuleType) and owner.__name__ in _OUTSIDE_MODULES
                if outside and argument.__name__ not in _HARMLESS:
                    self._refuse(frame, _OUTSIDE)

    def _note(self, frame: FrameType, code: CodeType) -> None:
        home = _home(code.co_filename)
        if home == "torch.nn":
            self.names.update(code.co_names)
        if home == "standard" and self._is_of_step(frame):
            self.names.update(code.co_names)  # as of a container that is written in Python
        if home != "step":
            return
        if self._is_called_by_the_compiler(frame):
            self._seen.discard(code)  # the step may call it, too
            return
        self.codes.add(code)
        if not code.co_filename.startswith(_TREADLE):
            self._theirs.add(code)
            self._where = self._where or first_line(code)
        self.names.update(code.co_names)
        if "__dict__" in code.co_names or "attrgetter" in code.co_names:
            self.everything = True
        held = frame.f_globals
        self._refuse_what_changes(frame, code)
        for value in (*(held.get(name) for name in code.co_names), *frame.f_locals.values()):
            if isinstance(value, type):
                self.names.update(getattr(value, "__match_args__", ()))  # read where a pattern has no names
        self.globals.setdefault(id(held), (held, set()))[1].update(code.co_names)
        if not code.co_filename.startswith(_TREADLE):
            self.modules += [module for name in code.co_names if (module := sys.modules.get(name)) is not None]
            if held.get("sys") is sys and "modules" in code.co_names:
                self.reason = self.reason or f"{first_line(code)}: it looks among all modules, {_OTHERWISE}"

    def _refuse_what_changes(self, frame: FrameType, code: CodeType) -> None:
        """Leave a function before it draws from an iterator, which nobody could undo."""
        for held in (frame.f_globals, *(getattr(value, "__dict__", None) for value in frame.f_locals.values())):
            if not isinstance(held, dict):
                continue
            for name in code.co_names:
                what = what_changes(held.get(name))
                if what:
                    raise TraceError(f"{first_line(code)}: the step reads {name}, {what}")

    def _refuse(self, frame: FrameType | None, why: str) -> None:
        """Leave the step before it does what no program can hold, if it is the step that does it."""
        while frame is not None and _home(frame.f_code.co_filename) == "standard":
            if frame.f_code.co_filename == warnings.__file__:
                return  # a warning is shown once, and may be PyTorch's own
            frame = frame.f_back
        if frame is None or _home(frame.f_code.co_filename) != "step" or self.reason:
            return
        if not self._is_called_by_the_compiler(frame):
            self.reason = f"{line_of(frame)}: {why}"
            raise TraceError(self.reason)  # before it happens

    def _is_of_step(self, frame: FrameType) -> bool:
        """Whether a function of the standard library works for the step; else it may do so later."""
        above: FrameType | None = frame
        while above is not None and _home(above.f_code.co_filename) == "standard":
            if above.f_code.co_filename in _SPEAKING:
                return False
            above = above.f_back
        if above is not None and _home(above.f_code.co_filename) == "step":
            return not self._is_called_by_the_compiler(frame)
        self._seen.discard(frame.f_code)
        return False

    def _is_called_by_the_compiler(self, frame: FrameType) -> bool:
        """Whether a function runs on behalf of the compiler, or of an import, and not of the step."""
        above = frame.f_back
        while above is not None and above is not self._base:
            if _home(above.f_code.co_filename) == "compiler":
                return True
            above = above.f_back
        return False


def what_changes(value: Any) -> str:
    """What a value is, if it is one that gives something else each time; else nothing."""
    kind = type(value)
    if isinstance(value, type):
        return ""
    if isinstance(value, random.Random) or kind.__module__.startswith("numpy.random"):
        return "a generator of random numbers that is not PyTorch's"
    if isinstance(value, io.IOBase):
        return "a file"
    if isinstance(value, (operator.attrgetter, operator.methodcaller)):
        return f"an operator.{kind.__name__}, which reads attributes whose names do not stand in the code"
    if isinstance(value, Iterator):
        return f"an iterator ({kind.__name__}), which gives something else each time"
    return ""


def _import(name: str) -> None:
    """Import a module from within the profile function, which hears nothing of what runs there.

    PyTorch imports large parts of itself when they are first needed, and to hear of all that doubles the time.
    """
    with contextlib.suppress(Exception):  # it will be raised once more, where it belongs
        importlib.import_module(name)


def _profile_again(by: Any) -> None:
    """Set the profiler that was there before; that of `cProfile` is none that Python could call."""
    if by is None or callable(by):
        sys.setprofile(by)
    else:
        sys.setprofile(None)
        by.enable()


def random_states() -> tuple[Any, Any]:
    """The states of the generators that all of Python, and all of NumPy, draw from."""
    numpy = sys.modules.get("numpy.random")
    return random.getstate(), None if numpy is None else numpy.get_state()


def restore_random_states(before: tuple[Any, Any]) -> bool:
    """Put the generators back; whether anything was drawn."""
    python, numpy = random_states()
    drawn = python != before[0]
    if drawn:
        random.setstate(before[0])
    if numpy is not None and before[1] is not None and _comparable(numpy) != _comparable(before[1]):
        drawn = True
        sys.modules["numpy.random"].set_state(before[1])
    return drawn


def _comparable(state: Any) -> Any:
    return tuple(part.tobytes() if hasattr(part, "tobytes") else part for part in state)
