"""The program of a cell, traced when it is first needed, and kept for as long as the cell is as it was."""

import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from treadle.compiler import program as p
from treadle.compiler.fission import Plan, plan
from treadle.compiler.program import BATCH, Value
from treadle.compiler.trace import trace_step
from treadle.engines.signature import HOOKS, signature_of
from treadle.errors import TraceError
from treadle.locks import MAKING
from treadle.protocol import State
from treadle.state import named_tensors, rebuild

T = TypeVar("T")


class Network:
    """The program of a cell's step for one kind of input, and the plans made of it."""

    def __init__(self, cell: nn.Module, row_shape: tuple[int, ...], dtype: torch.dtype, state: State):
        names = dict(named_tensors(state))
        hooked = next((m for m in cell.modules() if any(vars(m)[hooks] for hooks in HOOKS)), None)
        if hooked is not None:
            raise TraceError(f"{type(hooked).__name__} has hooks, which are called at every step")
        inputs = {"x": p.placeholder("x", (BATCH, *row_shape), dtype)}
        for name, tensor in names.items():
            inputs[f"state/{name}"] = p.placeholder(f"state/{name}", (BATCH, *tensor.shape[1:]), tensor.dtype)

        def step(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            before = rebuild(state, {name: given[f"state/{name}"] for name in names})
            y, after = cell(given["x"], before)
            after = dict(named_tensors(after))
            if after.keys() != names.keys():
                raise TraceError(f"a step was given a state of {sorted(names)}, but returned one of {sorted(after)}")
            return {"y": y} | {f"state/{name}": tensor for name, tensor in after.items()}

        self.program, lifted = trace_step(cell, inputs, step)
        self._check()
        self.getters = {name: _getter(cell, name, tensor) for name, tensor in lifted.items()}
        self._made: dict[Any, Any] = {}

    def _check(self) -> None:
        for name, value in self.program.outputs.items():
            what = "the output" if name == "y" else name.replace("/", " ", 1)
            if not value.shape or value.shape[0] is not BATCH:
                raise TraceError(
                    f"{value.source}: {what} is {p.show_shape(value.shape)}: its first axis must be the batch"
                )
            before = self.program.inputs.get(name)
            if before is not None and (before.shape != value.shape or before.dtype != value.dtype):
                raise TraceError(
                    f"{value.source}: {what} goes in as {p.show_shape(before.shape)} {before.dtype} and comes out as"
                    f" {p.show_shape(value.shape)} {value.dtype}: a step keeps the form of its state"
                )

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made of the network when it is first asked for, and kept with it."""
        if key not in self._made:
            with MAKING:
                if key not in self._made:
                    self._made[key] = make()
        return self._made[key]

    def plan(self, keep_states: bool) -> Plan:
        """The sections, with or without every state at every step."""
        return self.kept(keep_states, lambda: plan(self.program, keep_states))

    def constants(self) -> dict[Value, Tensor]:
        """The parameters as they are now."""
        return {self.program.inputs[name]: get() for name, get in self.getters.items()}


def _getter(cell: nn.Module, name: str, tensor: Tensor) -> Callable[[], Tensor]:
    if not name.startswith("parameter/"):
        return lambda: tensor
    *path, last = name.removeprefix("parameter/").split(".")
    # Weak, because the cell's networks are kept with the cell and must not keep it alive.
    reference = weakref.ref(cell.get_submodule(".".join(path)))
    return lambda: getattr(reference(), last)


_networks: "weakref.WeakKeyDictionary[nn.Module, dict[Any, Network | TraceError]]" = weakref.WeakKeyDictionary()
_MOST_KINDS = 32


def network_of(cell: nn.Module, x: Tensor, state: State) -> Network:
    """The network of a cell for inputs and states like these; traced when it is first asked for.

    Raises:
        TraceError: the step cannot be turned into a program; the same error whenever it is asked for again.
    """
    parts = tuple([(name, t.shape[1:], t.dtype) for name, t in named_tensors(state)])
    key = (x.shape[1:], x.dtype, parts, signature_of(cell))
    with MAKING:
        kinds = _networks.setdefault(cell, {})
        found = kinds.get(key)
        if found is None:
            if len(kinds) >= _MOST_KINDS:
                kinds.pop(next(iter(kinds)))
            try:
                found = Network(cell, tuple(x.shape[1:]), x.dtype, state)
            except TraceError as error:
                found = error.with_traceback(None)
            kinds[key] = found
    if isinstance(found, TraceError):
        raise found
    return found
