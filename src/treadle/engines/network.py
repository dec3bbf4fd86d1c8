"""The program of a cell, traced when it is first needed, and kept for as long as the cell is as it was."""

import dataclasses
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from treadle.caches import kept_property
from treadle.compiler import program as p
from treadle.compiler.fission import Plan, plan
from treadle.compiler.guards import HOOKS, Guards
from treadle.compiler.neutral import neutral
from treadle.compiler.numbers import Pattern, pattern_of
from treadle.compiler.program import BATCH, Program, Value
from treadle.compiler.trace import Trace, trace_step
from treadle.compiler.watch import Watch
from treadle.errors import TraceError
from treadle.locks import MAKING
from treadle.protocol import State
from treadle.state import check_results, named_tensors, rebuild

T = TypeVar("T")

_MOST_PROGRAMS, _MOST_FAILURES = 16, 4
_CPU = torch.device("cpu")


class Kept:
    """What is made of a program when it is first asked for, and kept with it.

    Attributes:
        trusted: of the code that was traced, how often it has run in each way, the first time to be found right.
        doubts: of engines by name, why they are not to be trusted with the program.
    """

    def __init__(self) -> None:
        self.trusted: dict[frozenset[CodeType], dict[Hashable, int]] = {}
        self.doubts: dict[str, str] = {}
        self._made: dict[Hashable, Any] = {}

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under a key; made on neutral ground, because other calls will use it."""
        if key not in self._made:
            with MAKING:
                if key not in self._made:
                    with neutral():
                        self._made[key] = make()
        return self._made[key]


class Network:
    """The program of a cell's step for one kind of input, the tensors that it reads, and the plans made of it.

    Args:
        program: what the step computes.
        getters: for each tensor that it reads besides x and the state, how to get that now.
        made: what was made of the program; networks that differ in tensors alone share it.
        codes: the code that was traced.
        device: where it runs.

    Attributes:
        outside: whether what it reads that belongs to no cell is as it was; None if it reads nothing of that kind.
        holds: whether all that it reads from outside is as it was; None for a copy, of which nobody looks.
    """

    def __init__(
        self,
        program: Program,
        getters: Mapping[str, Callable[[], Tensor]],
        made: Kept,
        codes: frozenset[CodeType],
        device: torch.device = _CPU,
    ):
        self.program, self.getters, self.codes, self.device = program, getters, codes, device
        self.outside: Callable[[], bool] | None = None
        self.holds: Callable[[], bool] | None = None
        self.made, self.kept = made, made.kept
        self.trusted = made.trusted.setdefault(codes, {})

    def of(self, cell: nn.Module) -> "Network":
        """The same for a copy of the cell."""
        getters = {name: _getter(cell, name, get()) for name, get in self.getters.items()}
        other = Network(self.program, getters, self.made, self.codes, self.device)
        other.outside = self.outside
        return other

    def plan(self, keep_states: bool, take_in: bool = True) -> Plan:
        """The sections, with or without every state at every step; see `treadle.compiler.fission.plan`."""
        return self.kept((keep_states, take_in), lambda: plan(self.program, keep_states, take_in))

    def constants(self) -> dict[Value, Tensor]:
        """The parameters as they are now."""
        known = {value: get() for value, get in self._reads}
        for value in self._numbers:
            known[value] = self._here(known[value])
        return known

    def given(self, values: Sequence[Value], x: Tensor) -> list[Tensor]:
        """These of its inputs: x, and parameters as they are now."""
        getters = self._getters_of.get(values)  # pyright: ignore
        if getters is None:
            reads = dict(self._reads)
            getters = self._getters_of[values] = [reads.get(value) for value in values]  # pyright: ignore
        if self.device.type == "cpu":
            return [x if get is None else get() for get in getters]
        return [x if get is None else self._here(get()) for get in getters]

    @kept_property
    def _getters_of(self) -> dict[tuple[Value, ...], list[Callable[[], Tensor] | None]]:
        return {}

    @kept_property
    def _reads(self) -> list[tuple[Value, Callable[[], Tensor]]]:
        return [(self.program.inputs[name], get) for name, get in self.getters.items()]

    @kept_property
    def _numbers(self) -> list[Value]:
        """The single numbers among what it reads."""
        return [value for value, _ in self._reads if not value.shape]

    def _here(self, tensor: Tensor) -> Tensor:
        """A tensor as the step has it: PyTorch takes a single number on the CPU with tensors on any device.

        What the user holds stays where it is. Every other tensor elsewhere is a mistake, and PyTorch says so.
        """
        is_taken = not tensor.ndim and tensor.device.type == "cpu" and tensor.device != self.device
        return tensor.to(self.device, non_blocking=True) if is_taken else tensor


def traced(cell: nn.Module, x: Tensor, state: State, watch: Watch | None = None) -> Trace:
    """Trace the step of a cell for inputs and states like these; see `trace_step` for who watches.

    What ``watch`` adds to the inputs, the step does not read.
    """
    # Not even traced: hooks would be called on tensors without numbers.
    hooked = next((m for m in cell.modules() if any(vars(m)[hooks] for hooks in HOOKS)), None)
    if hooked is not None:
        raise TraceError(f"{type(hooked).__name__} has hooks, which are called at every step")
    names = dict(named_tensors(state))
    inputs = {"x": p.placeholder("x", (BATCH, *x.shape[1:]), x.dtype)}
    for name, tensor in names.items():
        inputs[f"state/{name}"] = p.placeholder(f"state/{name}", (BATCH, *tensor.shape[1:]), tensor.dtype)

    def step(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = rebuild(state, {name: given[f"state/{name}"] for name in names})
        y, after = check_results(cell, cell(given["x"], before))
        after = dict(named_tensors(after))
        if after.keys() != names.keys():
            raise TraceError(f"a step was given a state of {sorted(names)}, but returned one of {sorted(after)}")
        return {"y": y} | {f"state/{name}": tensor for name, tensor in after.items()}

    found = trace_step(cell, inputs | (watch.inputs if watch else {}), step, watch, x.device)
    error = found.error
    if found.program is not None:
        error = _what_is_wrong_with(found.program)
    return dataclasses.replace(found, error=error)


def _what_is_wrong_with(program: Program) -> str:
    for name, value in program.outputs.items():
        line = program.lines.get(value) or "a step"
        what = "the output" if name == "y" else name.replace("/", " ", 1)
        if not value.shape or value.shape[0] is not BATCH:
            return f"{line}: {what} is {p.show_shape(value.shape)}: its first axis must be the batch"
        before = program.inputs.get(name)
        if before is not None and (before.shape != value.shape or before.dtype != value.dtype):
            return (
                f"{line}: {what} goes in as {p.show_shape(before.shape)} {before.dtype} and comes out as"
                f" {p.show_shape(value.shape)} {value.dtype}: a step keeps the form of its state"
            )
    return ""


def _getter(cell: nn.Module, name: str, tensor: Tensor) -> Callable[[], Tensor]:
    if not name.startswith("parameter/"):
        return lambda: tensor
    *path, last = name.removeprefix("parameter/").split(".")
    # Weak, because the cell's networks are kept with the cell and must not keep it alive.
    module = cell.get_submodule(".".join(path))
    reference = weakref.ref(module)
    if last in module._parameters and not hasattr(type(module), last) and last not in vars(module):
        # What a module would find, in a fraction of the time; guards look at the names in the table.
        return lambda: reference()._parameters[last]  # pyright: ignore
    return lambda: getattr(reference(), last)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What a trace has led to: a network, or why there is none.

    Args:
        guards: when that holds; None: always.
        pattern: of which program the network is a case, if numbers in it change.
    """

    guards: Guards | None
    network: Network | None = None
    error: str = ""
    program: Program | None = None
    pattern: Pattern | None = None

    @property
    def holds(self) -> bool:
        return self.guards is None or self.guards.hold()


class _Kinds:
    """What the traces of a cell's step have led to, for one kind of input: the one that was used last comes first."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.found: tuple[_Found, ...] = ()
        self.failures = 0

    def now(self) -> _Found | None:
        """What holds now."""
        for one in self.found:
            if one.holds:
                if one is not self.found[0]:
                    self.found = (one, *(other for other in self.found if other is not one))
                return one
        return None

    def add(self, cell: nn.Module, traced: Trace) -> _Found:
        """Take in what a step has turned out to be."""
        if traced.error or traced.program is None:
            self.failures += 1
            # A step that leaves something behind each time would be traced each time.
            guards = traced.guards if self.failures < _MOST_FAILURES else None
            found = _Found(guards, error=traced.error)
        else:
            found = self._network(cell, traced, traced.program)
            if found.network is not None and traced.guards is not None:
                found.network.outside, found.network.holds = traced.guards.outside, traced.guards.hold
        if found.pattern is not None:  # numbers that were are seldom seen again
            self.found = tuple(one for one in self.found if one.pattern is not found.pattern)
        self.found = (found, *self.found)
        return found

    def _network(self, cell: nn.Module, traced: Trace, program: Program) -> _Found:
        getters = {name: _getter(cell, name, tensor) for name, tensor in traced.lifted.items()}
        known = [one for one in self.found if one.network is not None and one.program is not None]
        for one in known:
            if one.pattern is not None:
                numbers = one.pattern.numbers_of(program)
                if numbers is not None:
                    return self._case(one.pattern, numbers, getters, one.network.made, traced)  # pyright: ignore
            elif (one.program.outputs, one.program.unread) == (program.outputs, program.unread):  # pyright: ignore
                network = Network(program, getters, one.network.made, traced.codes, self.device)  # pyright: ignore
                return _Found(traced.guards, network, program=program)
        for one in known:
            pattern = None if one.pattern is not None else pattern_of(one.program, program)  # pyright: ignore
            if pattern is not None:
                numbers = pattern.numbers_of(program)
                assert numbers is not None
                return self._case(pattern, numbers, getters, Kept(), traced)
        if len({id(one.network.made) for one in known}) >= _MOST_PROGRAMS:  # pyright: ignore
            error = (
                f"what it reads from outside made {_MOST_PROGRAMS} programs of its step: keep what changes in the state"
            )
            return _Found(None, error=error)
        network = Network(program, getters, Kept(), traced.codes, self.device)
        return _Found(traced.guards, network, program=program)

    def _case(
        self,
        pattern: Pattern,
        numbers: Mapping[Value, float],
        getters: Mapping[str, Callable[[], Tensor]],
        made: Kept,
        traced: Trace,
    ) -> _Found:
        held = {
            value.name: torch.full((), number, dtype=value.dtype, device=self.device)
            for value, number in numbers.items()
        }
        getters = {**getters, **{name: lambda tensor=tensor: tensor for name, tensor in held.items()}}
        network = Network(pattern.program, getters, made, traced.codes, self.device)
        return _Found(traced.guards, network, program=traced.program, pattern=pattern)


_networks: "weakref.WeakKeyDictionary[nn.Module, dict[Any, _Kinds]]" = weakref.WeakKeyDictionary()
_MOST_KINDS = 32


def network_of(cell: nn.Module, x: Tensor, state: State) -> Network:
    """The network of a cell for inputs and states like these; traced when it is first asked for.

    Raises:
        TraceError: the step cannot be turned into a program.
    """
    parts = tuple([(name, t.shape[1:], t.dtype) for name, t in named_tensors(state)])
    key = (x.shape[1:], x.dtype, x.device, parts, torch.get_default_dtype())
    kinds = _networks.get(cell, {}).get(key)
    found = None if kinds is None else kinds.now()
    if found is None:
        with MAKING:
            of_cell = _networks.setdefault(cell, {})
            if key not in of_cell and len(of_cell) >= _MOST_KINDS:
                of_cell.pop(next(iter(of_cell)))
            kinds = of_cell.setdefault(key, _Kinds(x.device))
            found = kinds.now() or kinds.add(cell, traced(cell, x, state))
    if found.network is None:
        raise TraceError(found.error)
    return found.network
