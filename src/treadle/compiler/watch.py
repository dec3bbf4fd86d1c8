"""Which variable of the step's own source holds which value, and what its modules are given: noted while it is traced.

A trace function sees the variables of every function of the step before each of its lines. Hooks that all modules call
tell which module is at work.
"""

import contextlib
import dataclasses
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from treadle.compiler.program import Value, noting
from treadle.compiler.reads import is_of_step
from treadle.compiler.tracer import Traced, Tracer

_WIRINGS = str(Path(__file__).parents[1] / "wiring" / "graph.py")
_DEEPEST, _LONGEST = 4, 1000
"""Containers in containers, and parts of one, that are looked at: this happens before each line that runs."""

Arguments = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A variable that held a value.

    Args:
        path: of the module whose function it is; empty for the cell itself.
        function: which function; empty for its ``forward``.
        variable: how the source writes it: ``forget``, ``gates[0]``, ``state.h``.
        value: what it held.
        line: where that was assigned: ``lstm.py:57``.
        is_plain: a variable that was assigned, or what the module reads; not a part of a container, nor an argument
            of a helper.
    """

    path: str
    function: str
    variable: str
    value: Value
    line: str
    is_plain: bool


@dataclasses.dataclass
class ModuleCall:
    """A module at work.

    Args:
        path: which one; of a module that has several names, the one whose turn it is.
        module: the module.
        reads: its first argument.
        given: the values of the state that it was given, by the name of the component.
        gave: what it returned: its output, of a cell without the state.
        first, last: which of the values that the step has made were made within.
    """

    path: str
    module: nn.Module
    reads: Value | None
    given: Mapping[str, Value]
    gave: Value | None = None
    first: int = 0
    last: int = 0
    line: str = ""


class Watch:
    """What is noted of a step while it is traced.

    Args:
        cell: whose step it is.
        given: told of each module's path and arguments before it runs; may give other arguments.
        inputs: what these are made of besides: inputs of the program.

    Attributes:
        assignments: in the order in which they happened.
        calls: the modules that ran, in the order in which they began.
        functions: of each path, the functions that ran.
    """

    def __init__(
        self,
        cell: nn.Module,
        given: Callable[[str, nn.Module, Arguments, Tracer], Arguments] | None = None,
        inputs: Mapping[str, Value] | None = None,
    ):
        self.inputs = dict(inputs or {})
        self._given = given
        self._paths: dict[int, list[str]] = {}
        for path, module in cell.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(path)
        self._begin()

    def _begin(self) -> None:
        self.assignments: list[Assignment] = []
        self.calls: list[ModuleCall] = []
        self.functions: dict[str, list[CodeType]] = {}
        self._turns: dict[int, int] = {}
        self._open: list[ModuleCall] = []

    @contextlib.contextmanager
    def watching(self, tracer: Tracer) -> Iterator[None]:
        """A context in which a step runs, in the thread that enters it. What was noted of an earlier run is dropped."""
        self._begin()
        self._tracer, self._thread = tracer, threading.get_ident()
        before, after = register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)
        tracing = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(tracing)
            before.remove()
            after.remove()

    @property
    def made(self) -> list[Value]:
        """Every value of the step, in the order in which its Python made them."""
        return list(self._tracer.lines)

    def path_of_each(self) -> dict[Value, str]:
        """Of every value, the path of the innermost module within which it was made."""
        made = self.made
        found = dict.fromkeys(made, "")
        for call in self.calls:  # inner ones begin later
            found |= dict.fromkeys(made[call.first : call.last], call.path)
        return found

    def _enter(self, module: nn.Module, arguments: Arguments) -> Any:
        if threading.get_ident() != self._thread or id(module) not in self._paths:
            return None
        names, turn = self._paths[id(module)], self._turns.get(id(module), 0)
        self._turns[id(module)] = turn + 1
        path = names[min(turn, len(names) - 1)]
        if self._given is not None:
            with noting(self._tracer.lines, str):
                arguments = self._given(path, module, arguments, self._tracer)
        given = {name: t.value for argument in arguments[1:2] for name, t in _parts(argument, "")}
        reads = arguments[0].value if arguments and isinstance(arguments[0], Traced) else None
        call = ModuleCall(path, module, reads, given, first=len(self._tracer.lines))
        self.calls.append(call)
        self._open.append(call)
        return arguments

    def _leave(self, module: nn.Module, _: Any, returned: Any) -> None:
        if threading.get_ident() != self._thread or all(call.module is not module for call in self._open):
            return
        while (call := self._open.pop()).module is not module:
            pass  # it has failed, and the step has caught that
        output = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
        call.gave = output.value if isinstance(output, Traced) else None
        call.last = len(self._tracer.lines)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        """Python tells of a function that begins: whether its lines are to be told, too."""
        code = frame.f_code
        if not self._open or code.co_filename == _WIRINGS or not is_of_step(code) or _is_made_up(frame):
            return None
        path = self._path_of(frame)
        ran = self.functions.setdefault(path, [])
        if code not in ran:
            ran.append(code)
        held: dict[str, Value] = {}
        self._note(frame, path, held, code.co_firstlineno, arguments=True)
        line = frame.f_lineno

        def on_line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal line
            self._note(frame, path, held, line)
            line = frame.f_lineno
            if event == "return" and self._open and self._open[-1].path == path and not _helper(frame):
                self._open[-1].line = f"{Path(frame.f_code.co_filename).name}:{line}"
            return on_line

        return on_line

    def _path_of(self, frame: FrameType) -> str:
        """The module whose function runs: of one that was not called as a module, but by a method, its first name."""
        names = frame.f_code.co_varnames[:1]
        owner = frame.f_locals.get(names[0]) if names else None
        running = self._open[-1] if self._open else None
        if isinstance(owner, nn.Module) and id(owner) in self._paths and (not running or running.module is not owner):
            return self._paths[id(owner)][0]
        return running.path if running else ""

    def _note(self, frame: FrameType, path: str, held: dict[str, Value], line: int, arguments: bool = False) -> None:
        """Note the variables that hold another value than before."""
        code, helper = frame.f_code, _helper(frame)
        where = f"{Path(code.co_filename).name}:{line}"
        for name, content in frame.f_locals.items():
            if name.startswith(".") or isinstance(content, nn.Module):
                continue
            for part, tensor in _parts(content, name):
                if held.get(part) is not tensor.value:
                    held[part] = tensor.value
                    plain = part == name and not (arguments and helper)
                    self.assignments.append(Assignment(path, helper, part, tensor.value, where, plain))


def _is_made_up(frame: FrameType) -> bool:
    """Whether a function is one that named tuples and data classes bring, or another that Python calls by itself."""
    return frame.f_code.co_name.startswith("__") or str(frame.f_globals.get("__name__", "")).startswith("namedtuple_")


def _helper(frame: FrameType) -> str:
    """The name of a function that is no ``forward``; what Python makes up belongs to the function around it."""
    while frame.f_code.co_name.startswith("<") and frame.f_back is not None:
        frame = frame.f_back
    name = frame.f_code.co_name
    return "" if name == "forward" else name


def _parts(content: Any, name: str, deep: int = 0) -> list[tuple[str, Traced]]:
    """The tensors in a container, as Python would write them: ``gates[0]``, ``state.h``."""
    if isinstance(content, Tensor):
        return [(name, content)] if isinstance(content, Traced) else []
    if deep == _DEEPEST or isinstance(content, (str, bytes, int, float, nn.Module)):
        return []
    dot = f"{name}." if name else ""
    if isinstance(content, (tuple, list, dict)) and len(content) > _LONGEST:
        return []
    if isinstance(content, (tuple, list)):
        fields = getattr(content, "_fields", None)
        inner = [
            (f"{dot}{f}" if fields else f"{name}[{f}]", p)
            for f, p in zip(fields or range(len(content)), content, strict=True)
        ]
    elif isinstance(content, dict):
        inner = [(f"{name}[{key!r}]", part) for key, part in content.items()]
    elif dataclasses.is_dataclass(content) or isinstance(content, SimpleNamespace):
        names = vars(content) if isinstance(content, SimpleNamespace) else [f.name for f in dataclasses.fields(content)]
        inner = [(f"{dot}{field}", getattr(content, field, None)) for field in names]
    else:
        return []
    return [found for inner_name, part in inner for found in _parts(part, inner_name, deep + 1)]


def source_of(code: CodeType) -> tuple[int, list[str]] | None:
    """The first line of a function and its lines; None where there is no source."""
    try:
        lines, first = inspect.getsourcelines(code)
    except (OSError, TypeError):
        return None
    return first, [line.rstrip("\n") for line in lines]
