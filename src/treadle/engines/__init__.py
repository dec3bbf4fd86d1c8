"""What runs a cell over time.

``reference/`` is the cell's own Python, step by step: it takes every cell. The other two run the cell's *program* (see
`treadle.compiler`): the interpreter in plain PyTorch, ``cpu/`` as machine code. ``"auto"`` is the fastest that can do
the work, and says why, once, where that is the reference.

An engine has a method ``run(cell, initial, xs, state, lengths, resets, return_states)``, which gets time first
([T, B, ...]) and arguments that `treadle.Recurrent` has checked.
"""

import functools
import logging
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing

from treadle.engines import cpu, network, reference
from treadle.errors import EngineError, TraceError
from treadle.protocol import first_weight
from treadle.state import map_state, named_tensors

__all__ = ["ENGINES", "choose", "live_step", "say_once"]

logger = logging.getLogger("treadle")


class Engine(Protocol):
    """What every engine has."""

    def run(self, *arguments: Any) -> Any:
        """Run a cell over a sequence."""
        ...


class _Programs:
    """An engine for programs: takes what has one, and raises what it cannot take."""

    def __init__(self, name: str, take: Any):
        self.name, self.take = name, take

    def run(self, cell: nn.Module, initial: Any, xs: Tensor, state: Any, *options: Any) -> Any:
        """Run a cell by its program.

        Raises:
            EngineError: this engine cannot, with the reason.
        """
        reason = _why_not(cell, xs, state, options[0]) or (self.take is not None and _why_not_cpu(xs))
        if reason:
            raise EngineError(f"engine {self.name!r} cannot run {type(cell).__name__}: {reason}")
        take, initial, xs, state = _under_autocast(self.take, cell, initial, xs, state)
        try:
            found = network.network_of(cell, xs[0], state)
        except TraceError as error:
            raise EngineError(f"engine {self.name!r} cannot run {type(cell).__name__}: {error}") from error
        if take is not None:
            # An engine that was asked for by name runs every loop itself.
            for states, why in found.left_out(take, options[-1]):
                name = type(cell).__name__
                raise EngineError(f"engine {self.name!r} cannot run the loop over {states} of {name}: {why}")
        return network.run(found, take, initial, xs, state, *options)


class _Automatic:
    """The fastest engine that can do the work."""

    def run(self, cell: nn.Module, initial: Any, xs: Tensor, state: Any, *options: Any) -> Any:
        """Run a cell by its program if there is one, and by its Python if not."""
        reason = _why_not(cell, xs, state, options[0]) or _why_not_cpu(xs)
        if reason is None:
            given: list[Any]
            take, *given = _under_autocast(cpu.CPU, cell, initial, xs, state)
            try:
                found = network.network_of(cell, given[1][0], given[2])
            except TraceError as error:
                reason = str(error)
            else:
                for states, why in found.left_out(take, options[-1]):
                    say_once(f"the loop over {states} of {type(cell).__name__} runs in PyTorch, step by step: {why}")
                return network.run(found, take, *given, *options)
        if xs.numel():
            say_once(f"{type(cell).__name__} runs step by step in Python, much slower than compiled: {reason}")
        return reference.run(cell, initial, xs, state, *options)


ENGINES: dict[str, Any] = {
    "cpu": _Programs("cpu", cpu.CPU),
    "interpreter": _Programs("interpreter", None),
    "reference": reference,
}
"""The engines by name."""


def choose(name: str) -> Any:
    """The engine of that name; ``"auto"`` is the fastest that there is.

    Raises:
        EngineError: there is no such engine.
    """
    if name == "auto":
        return _Automatic()
    if name not in ENGINES:
        raise EngineError(f"there is no engine {name!r}: choose one of auto, {', '.join(ENGINES)}")
    return ENGINES[name]


def _why_not(cell: nn.Module, xs: Tensor, state: Any, lengths: Tensor | None) -> str | None:
    """Why a cell cannot run by its program here and now, whatever the engine."""
    tensors = [xs, *(tensor for _, tensor in named_tensors(state))]
    reason = None
    if not xs.shape[0] or not xs.shape[1] or (lengths is not None and not bool(lengths.any())):
        reason = "there are no rows or no steps"
    elif any(type(tensor) is not Tensor and not isinstance(tensor, nn.Parameter) for tensor in tensors):
        reason = f"an input is a {next(type(t).__name__ for t in tensors if type(t) is not Tensor)}, not a plain tensor"
    elif maybe_current_level() is not None:
        reason = "a transform of torch.func is at work"
    elif forward_ad._current_level >= 0:
        reason = "forward-mode differentiation is at work"
    elif _autocast(xs) and torch.get_autocast_dtype(xs.device.type) != torch.bfloat16:
        reason = f"autocast to {torch.get_autocast_dtype(xs.device.type)} is on"
    elif is_tracing():
        reason = "torch.jit traces"
    return reason


def _under_autocast(take: Any, cell: nn.Module, initial: Any, xs: Tensor, state: Any) -> tuple[Any, Any, Tensor, Any]:
    """Under autocast to bfloat16: everything stays in the precision of the weights, products multiply in bfloat16."""
    if not _autocast(xs):
        return take, initial, xs, state
    weight = first_weight(cell)
    weight = xs if weight is None else weight

    def widened(tensor: Tensor) -> Tensor:
        return tensor.to(weight.dtype) if tensor.is_floating_point() else tensor

    take = cpu.CPU_BFLOAT16 if take is cpu.CPU else take
    return take, map_state(widened, initial), widened(xs), map_state(widened, state)


def _autocast(xs: Tensor) -> bool:
    # Some devices, such as "meta", know nothing of it, and PyTorch raises if it is asked about them.
    return torch.amp.is_autocast_available(xs.device.type) and torch.is_autocast_enabled(xs.device.type)


def _why_not_cpu(xs: Tensor) -> str | None:
    if xs.device.type != "cpu":
        return f"the CPU engine runs on the CPU, but x is on {xs.device}"
    return None


def live_step(recurrent: Any, batch_size: int, state: Any, bfloat16: bool) -> Any:
    """A network's step as one kernel with its state inside, or None where the network's own Python has to step.

    Raises:
        EngineError: the network asks for an engine by name that cannot.
    """
    if recurrent.engine not in ("auto", "cpu"):
        return None
    cell = recurrent.cell
    weight = first_weight(cell)
    size = recurrent.input_size
    if weight is None or size is None:
        reason: str | None = "the cell does not say what it reads, or has no weights"
    else:
        row = (size,) if isinstance(size, int) else tuple(size)
        x = torch.zeros(batch_size, *row, dtype=weight.dtype if row else torch.long, device=weight.device)
        reason = _why_not(cell, x[None], state, None) or _why_not_cpu(x)
        if reason is None:
            try:
                found = network.network_of(cell, x, state)
                from treadle.engines.cpu.plan import live_step, whole_step  # LLVM is loaded when it is needed

                reason = whole_step.reason_against(found)
                if reason is None:
                    return live_step.LiveStep(found, batch_size, bfloat16)
            except TraceError as error:
                reason = str(error)
    if recurrent.engine == "cpu":
        raise EngineError(f"engine 'cpu' cannot step {type(cell).__name__}: {reason}")
    say_once(f"a session of {type(cell).__name__} steps in Python, much slower than compiled: {reason}")
    return None


@functools.cache
def say_once(text: str) -> None:
    """A warning in the log, the first time."""
    logger.warning(text)
