"""Who steps a network live, one step a call, for sessions; and why nobody does."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from treadle.engines import verification
from treadle.engines.call import Call, autocast_dtype
from treadle.engines.decision import program_of, say_once
from treadle.engines.engine import Engine, LivePool, LiveProgram, LiveStep, Refusal
from treadle.engines.network import Network
from treadle.engines.registry import candidates
from treadle.engines.stages import staged
from treadle.errors import EngineError
from treadle.protocol import State, first_weight


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What is to be stepped live.

    Args:
        cell: whose step it is; its tensors are not written to as long as what is found lives.
        engine: the name of an engine, or ``"auto"``.
        x: an input [B, ...].
        state: of as many rows.
        products: see `Engine.take`.
    """

    cell: torch.nn.Module
    engine: str
    x: Tensor
    state: State
    products: torch.dtype | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Live:
    """A network's step, and the engine that runs it."""

    network: Network
    engine: Engine
    program: LiveProgram

    @classmethod
    def of(cls, network: Network, engine: Engine, products: torch.dtype | None) -> "Live | None":
        """The step of a network whose program is known; None if the engine refuses it."""
        program = engine.live_program(network, products)
        return None if isinstance(program, Refusal) else cls(network, engine, program)

    @property
    def holds(self) -> bool:
        """Whether what the step reads that belongs to no cell is as it was."""
        return self.network.outside is None or self.network.outside()

    def step(self, asked: Asked) -> LiveStep | None:
        """The step of as many rows as are asked for, in their state; None if it is not to be trusted.

        Raises:
            EngineError: the engine was asked for by name, and is not to be trusted with it.
        """
        found = self.program.step(asked.x.shape[0])
        doubt = verification.doubts_about_step(self.network, self.engine, found, _call(asked), asked.products)
        return _refused(asked, Refusal(doubt)) if doubt else found

    def pool(self, asked: Asked, capacity: int) -> LivePool | None:
        """The step of any of so many rows; None if there is no such, or if it is not to be trusted."""
        found = self.program.pool(max(capacity, asked.x.shape[0]))
        if found is not None:
            step = _FirstRows(found, asked.x.shape[0])
            doubt = verification.doubts_about_step(
                self.network, self.engine, step, _call(asked), asked.products, "pool"
            )
            found = _refused(asked, Refusal(doubt)) if doubt else found
        return found


class _FirstRows:
    """The first rows of a pool as a live step."""

    def __init__(self, pool: LivePool, rows: int):
        self.pool, self.rows = pool, np.arange(rows)

    def step(self, x: Tensor) -> Tensor:
        return self.pool.step(self.rows, x)

    def named(self) -> dict[str, Tensor]:
        return {name: tensor[: len(self.rows)] for name, tensor in self.pool.named().items()}


def program_of_step(asked: Asked) -> Network | Refusal:
    """The program of a step, whoever runs it; or why there is none."""
    return program_of(_call(asked))


def first_engine(asked: Asked) -> Engine | None:
    """The engine that is asked for a live step first; None where Python has to step."""
    if first_weight(asked.cell) is None:
        return None
    call = _call(asked)
    return next((one for one in candidates(asked.engine) if one.steps_live and not one.refusal(call)), None)


def live(asked: Asked) -> Live | None:
    """Who steps a network live; None where its own Python has to.

    Raises:
        EngineError: the engine that was asked for by name cannot.
    """
    engines = [one for one in candidates(asked.engine) if one.steps_live]
    if not engines:
        return None
    if first_weight(asked.cell) is None:
        return _refused(asked, Refusal("it has no weights"))
    call, refusals = _call(asked), []
    for one in engines:
        found = one.refusal(call) or program_of(call)
        if isinstance(found, Network):
            network, found = found, _program(found, one, asked)
            if not isinstance(found, Refusal):
                if found.left_out:
                    name = type(asked.cell).__name__
                    say_once(f"a session of {name} leaves a part of each step to PyTorch: {found.left_out}")
                return Live(network, one, found)
        refusals.append(found)
    return _refused(asked, min(refusals, key=lambda refusal: refusal.elsewhere))


def _program(network: Network, engine: Engine, asked: Asked) -> LiveProgram | Refusal:
    """An engine's step of a network; one that was asked for by name runs every loop itself, as in `decide`."""
    left_out = () if asked.engine == "auto" else staged(network, engine, asked.products, False).left_out
    return left_out[0] if left_out else engine.live_program(network, asked.products)


def _call(asked: Asked) -> Call:
    """One step, as a call."""
    products = autocast_dtype(asked.x.device)
    return Call(asked.cell, asked.state, asked.x[None], asked.state, engine=asked.engine, products=products)


def _refused(asked: Asked, refusal: Refusal) -> None:
    name = type(asked.cell).__name__
    if asked.engine != "auto":
        raise EngineError(f"engine {asked.engine!r} cannot step {name}: {refusal}")
    say_once(f"a session of {name} steps in Python, much slower than compiled: {refusal}")
