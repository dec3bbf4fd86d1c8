"""Who runs a call, and why not the others: one answer for running, sessions, `treadle.explain` and the drop-ins."""

import dataclasses
import functools
import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from treadle.engines import execution, reference, verification
from treadle.engines.call import Call, Result
from treadle.engines.engine import Engine, Refusal
from treadle.engines.network import Network, network_of
from treadle.engines.registry import ENGINES, candidates
from treadle.engines.stages import staged
from treadle.errors import EngineError, TraceError
from treadle.state import named_tensors
from treadle.torch_internals import (
    a_function_transform_is_active,
    a_mode_is_active,
    forward_mode_is_active,
    hooks_on_all_modules,
)

logger = logging.getLogger("treadle")


@functools.cache
def say_once(text: str) -> None:
    """A warning in the log, the first time: what is slower than a user may think is audible."""
    logger.warning(text)


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """Who runs a call.

    Args:
        call: the call, as the engine gets it.
        engine: what runs it; None if the one that was asked for by name refuses.
        network: the cell's program; None where its own Python is run.
        refusals: what engines said that were asked and refused.
        left_out: the loops that the engine leaves to PyTorch, step by step, and why.
        asked: the call as it was asked for.
    """

    call: Call
    engine: Engine | None
    network: Network | None
    refusals: Mapping[str, Refusal]
    left_out: tuple[Refusal, ...] = ()
    asked: Call | None = None

    @property
    def refusal(self) -> Refusal | None:
        """Why the first engine refuses that runs calls on this device; or why the first one does."""
        every = list(self.refusals.values())
        return next((one for one in every if not one.elsewhere), every[0] if every else None)

    @property
    def reasons(self) -> dict[str, Refusal]:
        """Of each engine that was passed over, why."""
        others = [engine for engine in ENGINES.values() if engine is not self.engine]
        return {one.name: self.refusals.get(one.name) or Refusal(self._passed_over(one)) for one in others}

    def _passed_over(self, engine: Engine) -> str:
        if self.call.engine != "auto":
            return f"engine={self.call.engine!r} was asked for"
        if engine.automatic or not engine.by_program:
            return f"engine {self.engine.name!r} comes first" if self.engine else ""
        return "it runs where it is asked for by name"

    def run(self) -> Result:
        """Run the call; say once if that is slower than the user may think.

        Raises:
            EngineError: the engine that was asked for by name cannot, with the reason.
        """
        call = self.call
        if self.engine is None:
            assert self.refusal is not None
            raise EngineError(
                f"engine {call.engine!r} cannot run {_the_loop(self.refusal)}{_name(call)}: {self.refusal}"
            )
        if self.network is None:
            if self.refusal is not None and call.xs.numel():
                say_once(f"{_name(call)} runs step by step in Python, much slower than compiled: {self.refusal}")
            return reference.run(call)
        if verification.doubts(self.network, self.engine, call):
            return decide(self.asked or call).run()  # without this engine
        for loop in self.left_out:
            say_once(f"{_the_loop(loop)}{_name(call)} runs in PyTorch, step by step: {loop}")
        return execution.run(self.network, self.engine, call)


def _name(call: Call) -> str:
    return type(call.cell).__name__


def _the_loop(refusal: Refusal) -> str:
    return f"the loop over {refusal.loop} of " if refusal.loop else ""


def decide(call: Call) -> Decision:
    """Who runs a call: the engine that was asked for; or the first that can, of all that ``"auto"`` tries.

    Where none of those can, the cell's own Python is run.

    Raises:
        EngineError: there is no such engine.
    """
    refusals: dict[str, Refusal] = {}
    for engine in candidates(call.engine):
        if not engine.by_program:
            return Decision(call, engine, None, refusals)
        own = call if call.products is None else call.in_precision_of_weights()
        network = engine.refusal(call) or program_of(own)
        if isinstance(network, Network) and verification.mode() != "never":
            doubt = network.made.doubts.get(engine.name)
            network = Refusal(doubt) if doubt else network
        if isinstance(network, Network):
            left_out = staged(network, engine, own.products, own.return_states).left_out
            # An engine that was asked for by name runs every loop itself.
            if not left_out or call.engine == "auto":
                return Decision(own, engine, network, refusals, left_out, call)
            network = left_out[0]
        refusals[engine.name] = network
    return Decision(call, ENGINES["reference"] if call.engine == "auto" else None, None, refusals)


def run(call: Call) -> Result:
    """Run a call: see `decide` and `Decision.run`."""
    return decide(call).run()


def program_of(call: Call) -> Network | Refusal:
    """The program by which a cell can run, here and now; or why there is none, whatever the engine."""
    refusal = why_no_program(call)
    if refusal is not None:
        return refusal
    try:
        return network_of(call.cell, call.xs[0], call.state)
    except TraceError as error:
        return Refusal(str(error))


def why_no_program(call: Call) -> Refusal | None:
    """Why no program runs a call, whatever the cell is; None where one may."""
    xs, counts = call.xs, call.counts
    tensors = (xs, *(tensor for _, tensor in named_tensors(call.state)))
    others = [tensor for tensor in tensors if type(tensor) is not Tensor and not isinstance(tensor, nn.Parameter)]
    reason = None
    if not xs.shape[0] or not xs.shape[1] or (counts is not None and not bool(counts.any())):
        reason = "there are no rows or no steps"
    elif others:
        reason = f"an input is a {type(others[0]).__name__}, not a plain tensor"
    elif a_mode_is_active():
        reason = "a mode of torch.overrides or torch.utils._python_dispatch follows every operation"
    elif hooks_on_all_modules():
        reason = "there are hooks that every module calls"
    elif a_function_transform_is_active():
        reason = "a transform of torch.func is at work"
    elif forward_mode_is_active():
        reason = "forward-mode differentiation is at work"
    elif call.products not in (None, torch.bfloat16):
        reason = f"autocast to {call.products} is on"
    return None if reason is None else Refusal(reason)
