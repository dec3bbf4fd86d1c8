"""Verified before it is trusted: the first time that a program runs in a way, a small part is run by the cell's Python.

That part is two rows and three steps of the user's own numbers, from a state that is not the initial one, with lengths
and resets where the call has them; and where gradients are wanted, the gradients of all that it gives. Where the two
differ by more than rounding explains, the engine is not used. What was found right is kept on disk, if the engine
keeps anything there.

The environment variable ``TREADLE_VERIFY`` says when: ``first`` (unless said), ``always`` (every call), ``never``.
With ``first`` a few later calls are looked at as well, since what a step reads from outside could change unseen.
"""

import contextlib
import contextvars
import copy
import hashlib
import os
from collections.abc import Hashable, Iterator, Mapping
from types import CodeType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from treadle.compiler.neutral import neutral
from treadle.compiler.program import Value, show
from treadle.compiler.reads import random_states, restore_random_states
from treadle.engines import execution, reference
from treadle.engines.call import Call, Result
from treadle.engines.engine import Engine
from treadle.engines.network import Network
from treadle.errors import EngineError
from treadle.generators import generators, generators_at
from treadle.state import map_state, named_tensors

_STEPS = 3
_LATER = frozenset({2, 16, 256, 4096, 65536})
"""Of the later calls, those that are looked at again."""
_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_SMALL = 1e-2
"""Beside values so many times as large, rounding is that of the larger ones."""
_PERTURBATIONS, _PERTURBED_BY, _EXPLAINED = 4, 4.0, 10.0


_switched: contextvars.ContextVar[str] = contextvars.ContextVar("switched", default="")


@contextlib.contextmanager
def switched(when: str) -> Iterator[None]:
    """A context in which it is this that says when to verify, in place of ``TREADLE_VERIFY``."""
    token = _switched.set(when)
    try:
        yield
    finally:
        _switched.reset(token)


def mode() -> str:
    """When to verify: what ``TREADLE_VERIFY`` says.

    Raises:
        EngineError: it says something else.
    """
    chosen = _switched.get() or os.environ.get("TREADLE_VERIFY") or "first"
    if chosen not in ("first", "always", "never"):
        raise EngineError(f"TREADLE_VERIFY is first, always or never, but is {chosen!r}")
    return chosen


def doubts(network: Network, engine: Engine, call: Call) -> str:
    """Why an engine is not to be trusted with a call; empty if it is.

    What was once found right is not looked at again, unless `mode` says so.
    """
    way, chosen = way_of(engine, call), mode()
    if chosen == "never":
        return ""
    count = network.trusted[way] = network.trusted.get(way, 0) + 1
    if chosen == "first" and count > 1 and count not in _LATER:
        return ""
    written = _written(network, way) if chosen == "first" and count == 1 else ""
    if written and engine.remembers(written):
        return ""
    doubt = _compared(network, engine, call)
    if doubt:
        network.made.doubts[engine.name] = doubt
    elif written:
        engine.remember(written)
    return doubt


class SteppedLive(Protocol):
    """What is compared of a live step, or of a pool's."""

    def step(self, x: Tensor) -> Tensor:
        """One step on [B, ...]."""
        ...

    def named(self) -> dict[str, Tensor]:
        """The state by name: the memory itself."""
        ...


def doubts_about_step(
    network: Network,
    engine: Engine,
    live: SteppedLive,
    call: Call,
    products: torch.dtype | None,
    kind: str = "live",
) -> str:
    """Why a live step is not to be trusted; empty if its steps are those of the cell's own Python.

    The call has one step, of the form that the live step takes, and its state, which the live step is left in. Steps of
    another ``kind`` are compared by themselves.
    """
    way = (engine.name, kind, call.xs.shape[1], products)
    chosen = mode()
    if chosen == "never" or (chosen == "first" and way in network.trusted):
        return ""
    written = "" if chosen == "always" else _written(network, way)
    if not (written and engine.remembers(written)):
        with neutral(), torch.no_grad(), _generators_as_before(network):
            try:
                doubt = _difference(network, *_live_steps(network, live, call), products)
            except Exception as error:
                doubt = f"two steps that are to be compared fail ({_first_line(error)})"
        if doubt:
            return doubt
        if written:
            engine.remember(written)
    network.trusted[way] = 1
    return ""


def _live_steps(network: Network, live: SteppedLive, call: Call) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two steps, live and by the cell's own Python."""
    memory = live.named()
    found: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    xs = [call.xs[0] + _weights(call.xs[0]) if call.xs.is_floating_point() else call.xs[0]] * 2
    state = call.state
    with _generators_as_before(network):
        for number, x in enumerate(xs):
            right[f"the output of step {number}"], state = call.cell(x, state)
    right |= {f"the state {name}": tensor for name, tensor in named_tensors(state)}
    try:
        for name, tensor in named_tensors(call.state):
            memory[name].copy_(tensor)
        for number, x in enumerate(xs):
            found[f"the output of step {number}"] = live.step(x).clone()
        found |= {f"the state {name}": memory[name].clone() for name, _ in named_tensors(state)}
    finally:
        for name, tensor in named_tensors(call.state):
            memory[name].copy_(tensor)
    return found, right


def is_trusted(network: Network, engine: Engine, way: tuple[Hashable, ...]) -> bool:
    """Whether a call that runs in this way (see `way_of`) need not be looked at; counts it if so."""
    chosen = mode()
    if chosen == "never":
        return True
    count = network.trusted.get(way, 0) + 1
    if chosen == "always" or count == 1 or count in _LATER or network.made.doubts:
        return False
    network.trusted[way] = count
    return True


def way_of(engine: Engine, call: Call) -> tuple[Hashable, ...]:
    """What decides which kernels a call runs, beside the network."""
    gradients: Any = None
    if torch.is_grad_enabled():
        state = [tensor.requires_grad for _, tensor in named_tensors(call.state)]
        initial = [] if call.resets is None else [t.requires_grad for _, t in named_tensors(call.initial)]
        gradients = (call.xs.requires_grad, *state, *initial)
    lengths, resets = call.lengths is not None, call.resets is not None
    return engine.name, call.products, call.return_states, lengths, resets, gradients


def _written(network: Network, way: tuple[Hashable, ...]) -> str:
    """A way of running a network as a text: its program, and the code that was traced, of which two may have one."""
    needs = [tensor.requires_grad for tensor in network.constants().values()]
    codes = sorted(map(_checksum, network.codes))
    types = [(name, value.dtype) for name, value in network.program.inputs.items()]
    text = repr((torch.__version__, way, needs, types, show(network.program), codes))
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(code: CodeType) -> str:
    constants = [_checksum(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    text = repr((code.co_name, code.co_code, code.co_names, code.co_varnames, code.co_freevars, sorted(constants)))
    return hashlib.sha256(text.encode()).hexdigest()


def _compared(network: Network, engine: Engine, call: Call) -> str:
    """What differs between an engine and the cell's own Python; empty if nothing does."""
    recording = torch.is_grad_enabled()
    with neutral(), _generators_as_before(network), torch.set_grad_enabled(recording):
        cell = call.cell
        if recording and any(parameter._backward_hooks for parameter in cell.parameters()):
            cell = copy.deepcopy(cell)  # the user's hooks are for the user's gradients
        try:
            part = _part(call, cell, recording)
            python = _ByPython(network, part, recording)
            right = python.outcome(part)
        except Exception as error:  # its own Python is to say so, wherever it may
            return f"its own Python fails on two rows and {_STEPS} steps ({_first_line(error)})"
        try:
            with _generators_as_before(network):
                found = _outcome(execution.run(network.of(cell), engine, part), part, recording)
        except Exception as error:
            return f"what was compiled fails ({_first_line(error)})"
        return _difference(network, found, right, call.products, python)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _part(call: Call, cell: nn.Module, recording: bool) -> Call:
    """Two rows and three steps of a call, from a state that is not the initial one."""
    if call.mask is not None:  # kernels know nothing of it
        call = call.beginning(_STEPS)
    steps, rows = call.xs.shape[:2]
    if call.lengths is None:
        chosen, steps = torch.tensor([0, rows - 1]), min(steps, _STEPS)
    else:
        longest = call.lengths.argsort(descending=True)
        chosen = longest[[0, 1 if rows > 1 else 0]]
        steps = max(1, min(int(call.lengths[chosen[0]]), _STEPS))

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach()[chosen].clone().requires_grad_(tensor.requires_grad)

    xs = call.xs.detach()[:steps, chosen].clone()
    state = map_state(lambda tensor: tensor.detach()[chosen].clone(), call.state)
    if recording:  # a step may ask for that
        state = map_state(lambda t: t.requires_grad_(t.is_floating_point()), state)
    state = cell(xs[-1], state)[1]
    state = map_state(
        lambda moved, given: moved.detach().to(given.dtype).clone().requires_grad_(given.requires_grad),
        state,
        call.state,
    )
    resets = None
    if call.resets is not None:
        resets = torch.zeros(steps, 2, dtype=torch.bool, device=call.xs.device)
        resets[-1, 1] = True
    lengths = None if call.lengths is None else torch.tensor([steps, max(1, steps - 1)], device=call.xs.device)
    return Call(
        cell,
        map_state(leaf, call.initial),
        xs.requires_grad_(call.xs.requires_grad),
        state,
        lengths,
        resets,
        call.return_states,
        call.engine,
        call.products,
    )


def _outcome(result: Result, part: Call, recording: bool) -> dict[str, Tensor]:
    """All that a run gives, by name: outputs, states, and the gradients of a weighted sum of these."""
    found = {"the output": result.ys}
    found |= {f"the state {name}": tensor for name, tensor in named_tensors(result.state)}
    if result.states is not None:
        found |= {f"the state {name} at every step": tensor for name, tensor in named_tensors(result.states)}
    if not recording:
        return found
    total = [(tensor * _weights(tensor)).sum() for tensor in found.values() if tensor.requires_grad and tensor.numel()]
    leaves = {"x": part.xs}
    leaves |= {f"the state {name} before": tensor for name, tensor in named_tensors(part.state)}
    leaves |= {f"the initial state {name}": tensor for name, tensor in named_tensors(part.initial)}
    leaves |= dict(part.cell.named_parameters())
    leaves = {name: tensor for name, tensor in leaves.items() if tensor.requires_grad}
    if total and leaves:
        # What the weights are made of, if they are made of something, the user will go back through, too.
        whole = sum(total[1:], total[0])
        gradients = torch.autograd.grad(whole, [*leaves.values()], allow_unused=True, retain_graph=True)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            found[f"the gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: tensor.detach() for name, tensor in found.items()}


def _weights(tensor: Tensor) -> Tensor:
    """A weight for each number, none of them alike."""
    numbers = torch.arange(tensor.numel(), dtype=torch.float64, device="cpu")
    return (1 + 0.5 * torch.cos(1.7 * numbers + 0.3)).to(tensor).reshape(tensor.shape)


class _ByPython:
    """What the cell's own Python gives, and how far that moves if its input and state are other by a rounding.

    Attributes:
        repeats: whether it gives the same each time.
    """

    def __init__(self, network: Network, part: Call, recording: bool):
        self._network, self._part, self._recording = network, part, recording
        self._moves: dict[str, float] | None = None
        self.repeats = True

    def outcome(self, part: Call) -> dict[str, Tensor]:
        with _generators_as_before(self._network):
            return _outcome(reference.run(part), part, self._recording)

    def explains(self, name: str, by: float) -> bool:
        """Whether rounding explains that a result differs by so much."""
        if self._moves is None:
            self._moves = self._moved()
        return self.repeats and by <= _EXPLAINED * self._moves.get(name, 0.0)

    def _moved(self) -> dict[str, float]:
        moves: dict[str, float] = {}
        right, again = self.outcome(self._part), self.outcome(self._part)
        self.repeats = all(torch.equal(right[name].nan_to_num(), again[name].nan_to_num()) for name in right)
        for number in range(_PERTURBATIONS):
            generator = torch.Generator("cpu").manual_seed(number)
            for name, other in self.outcome(self._perturbed(generator)).items():
                if other.is_floating_point() and other.numel():
                    move = float((other - right[name]).abs().nan_to_num(0.0).max())
                    moves[name] = max(moves.get(name, 0.0), move)
        return moves

    def _perturbed(self, generator: torch.Generator) -> Call:
        def moved(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            by = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu").to(tensor)
            own = tensor.detach()
            scale = own.abs().max() if own.numel() else own.new_ones(())
            near = own + by * (_PERTURBED_BY * torch.finfo(self._part.products or tensor.dtype).eps) * scale
            return near.requires_grad_(tensor.requires_grad)

        part = self._part
        return Call(
            part.cell,
            map_state(moved, part.initial),
            moved(part.xs),
            map_state(moved, part.state),
            part.lengths,
            part.resets,
            part.return_states,
        )


def _difference(
    network: Network,
    found: Mapping[str, Tensor],
    right: Mapping[str, Tensor],
    products: torch.dtype | None,
    python: "_ByPython | None" = None,
) -> str:
    """The first result that differs, by how much, and the line of the step that it comes from."""
    for kind in (False, True):
        names = [name for name in right if name.startswith("the gradient") == kind]
        floats = [right[name] for name in names if right[name].is_floating_point() and right[name].numel()]
        largest = max([float(_finite(tensor).abs().max()) for tensor in floats], default=0.0)
        for name in names:
            if name not in found:
                continue
            mine, own = found[name], right[name].to(found[name].dtype)
            if mine.shape != own.shape:
                return f"{name} is {list(mine.shape)}, and by its own Python {list(own.shape)}"
            if not own.is_floating_point():
                if not torch.equal(mine, own):
                    return f"{_line(network, name)}{name} differs from that of its own Python"
                continue
            if not own.numel():
                continue
            tolerance = max(_TOLERANCES.get(own.dtype, 0.0), _TOLERANCES.get(products, 0.0) if products else 0.0)
            scale = max(float(_finite(own).abs().max()), _SMALL * largest)
            apart = torch.equal(mine.isnan(), own.isnan()) and torch.equal(mine.isinf(), own.isinf())
            by = float((_finite(mine) - _finite(own)).abs().max())
            if apart and by <= tolerance * scale:
                continue
            if apart and python is not None and python.explains(name, by):
                continue
            return f"{_line(network, name)}{name} differs by {by:.2g} from that of its own Python"
    return ""


def _finite(tensor: Tensor) -> Tensor:
    return tensor.nan_to_num(0.0, 0.0, 0.0)


def _line(network: Network, name: str) -> str:
    """The line that an output, or a state after the step, comes from."""
    parts = name.split()
    key = "y" if name == "the output" else f"state/{parts[2]}" if name.startswith("the state") else ""
    value: Value | None = network.program.outputs.get(key)
    line = "" if value is None else network.program.lines.get(value)
    return f"{line}: " if line else ""


@contextlib.contextmanager
def _generators_as_before(network: Network) -> Iterator[None]:
    """A context that leaves the generators of random numbers as they were."""
    own = [
        part
        for value in network.program.values()
        if value.draw is not None
        for part in (*value.call.arguments, *dict(value.call.options).values())
        if isinstance(part, torch.Generator)
    ]
    outside, device, states = random_states(), network.device, [generator.get_state() for generator in own]
    try:
        with generators_at(device, generators(device)):
            yield
    finally:
        restore_random_states(outside)
        for generator, before in zip(own, states, strict=True):
            generator.set_state(before)
