"""A network as it was at one moment: what sessions run, and share as long as the network is as it was."""

from typing import Any

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.engines import (
    Asked,
    Engine,
    Live,
    LivePool,
    LiveProgram,
    LiveStep,
    Network,
    first_engine,
    live,
    program_of_step,
)
from treadle.engines.passes.int8 import round_parameters, rows_of_matrices, summed_axes
from treadle.protocol import State, example_input, first_weight, is_lazy
from treadle.running.copies import evaluated_copy
from treadle.running.likeness import are_one
from treadle.running.made_last import MadeLast
from treadle.state import named_tensors

WEIGHTS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "int8": torch.int8}
"""What the weights of a session can be: as they are, or matrices of products in fewer bits."""


class Snapshot:
    """A copy of a network over time, in evaluation mode, which nobody writes into; and its step, once it is compiled.

    Args:
        recurrent: the network, a `treadle.Recurrent`.
        before: a snapshot of the same network with other numbers, whose programs are taken over.

    Attributes:
        recurrent: the copy.
        weights: ``"float32"``; ``"bfloat16"`` where every matrix is rounded to that; ``"int8"`` where those of products
            are, each output feature with a factor.
        dtype, device: of its weights; None where it has none.
    """

    def __init__(self, recurrent: Any, before: "Snapshot | None" = None):
        self.weights = "float32"
        self.recurrent = evaluated_copy(recurrent)
        weight = first_weight(recurrent)
        self.dtype = None if weight is None else weight.dtype
        self.device = None if weight is None else weight.device
        self._lives: dict[Any, Live] = {}
        self._rounded: dict[str, Snapshot] = {}
        known = {} if before is None else before._networks()
        self._known = {form: (network.of(self.recurrent.cell), engine) for form, (network, engine) in known.items()}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lives": {}, "_known": {}}  # programs and machine code are this process's

    def _networks(self) -> dict[Any, tuple[Network, Engine]]:
        """By the form of the input, the program that was found for it, and the engine that runs it."""
        rounded = {form: one for other in self._rounded.values() for form, one in other._networks().items()}
        return self._known | rounded | {form: (one.network, one.engine) for form, one in self._lives.items()}

    def in_weights(self, weights: str) -> "Snapshot":
        """The same, with matrices as ``weights`` says: see `WEIGHTS`.

        Raises:
            ValueError: they cannot be rounded so.
        """
        if weights == self.weights or is_lazy(self.recurrent):
            return self
        if weights not in self._rounded:
            axes = self._int8_axes() if weights == "int8" else {}
            rounded = Snapshot(self.recurrent, self)
            rounded.weights = weights
            if weights == "int8":
                round_parameters(dict(rounded.recurrent.cell.named_parameters(remove_duplicate=False)), axes)
            else:
                for parameter in rounded.recurrent.parameters():
                    if parameter.ndim > 1 and parameter.is_floating_point():
                        parameter.copy_(parameter.bfloat16())
            self._rounded[weights] = rounded
        return self._rounded[weights]

    def _int8_axes(self) -> dict[str, int]:
        """Of the cell's matrices, by name: along which axis products add up, so that all along it has one factor."""
        if self.dtype not in (None, torch.float32):
            own = str(self.dtype).removeprefix("torch.")
            raise ValueError(
                f"weights='int8' is for networks in float32, but this one is in {own}:"
                " call float() on it first, or pass weights='float32', which keeps its weights as they are"
            )
        network = self._traced()
        return rows_of_matrices(self.recurrent.cell) if network is None else summed_axes(network.program)

    def _traced(self) -> Network | None:
        """The program of the step, if it has one, for such inputs as the cell says that it reads."""
        x = example_input(self.recurrent.cell, 1)
        if x is None:
            return None
        form, asked = (x.shape[1:], x.dtype), self._asked(x, self.initial_state(1))
        known = self._networks().get(form)
        network = program_of_step(asked) if known is None else known[0]
        if not isinstance(network, Network):
            return None
        engine = first_engine(asked)
        if engine is not None and self.recurrent.engine == "auto" and engine.left_out_live(network) == "":
            self._known.setdefault(form, (network, engine))  # it is not traced again for the copy that is rounded
        return network

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step."""
        return self.recurrent.initial_state(batch_size)

    @kept_property
    def starts_the_same(self) -> bool:
        """Whether the initial state is always the same: nothing random is in it."""
        before = torch.get_rng_state()
        first, second = (dict(named_tensors(self.initial_state(1))) for _ in range(2))
        same = torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
        return same and first.keys() == second.keys() and all(are_one(first[name], second[name]) for name in first)

    def live(self, x: Tensor, state: State) -> LiveStep | None:
        """The step of as many rows as ``x`` and ``state`` have, in that state; None where its own Python has to step.

        Raises:
            EngineError: the engine that was asked for by name cannot.
        """
        asked = self._asked(x, state)
        found = self._live(asked)
        return None if found is None else found.step(asked)

    def pool(self, x: Tensor, capacity: int) -> LivePool | None:
        """The step of any of so many rows, for inputs like ``x`` [1, ...]; None where they are stepped one by one.

        Raises:
            EngineError: the engine that was asked for by name cannot.
        """
        asked = self._asked(x.expand(2, *x.shape[1:]), self.initial_state(2))
        found = self._live(asked)
        return None if found is None else found.pool(asked, capacity)

    def programs(self) -> list[LiveProgram]:
        """The live steps that are compiled, of inputs of each form."""
        return [one.program for one in self._lives.values()]

    def _asked(self, x: Tensor, state: State) -> Asked:
        return Asked(self.recurrent.cell, self.recurrent.engine, x, state, WEIGHTS[self.weights])

    def _live(self, asked: Asked) -> Live | None:
        """Who steps it: found out once for inputs of one form, and again when what it reads outside has changed."""
        form = (asked.x.shape[1:], asked.x.dtype)
        found = self._lives.get(form)
        if found is None and form in self._known:
            found = Live.of(*self._known[form], asked.products)
        if found is None or not found.holds:
            found = live(asked)
        if found is not None:
            self._lives[form] = found
        return found


_SNAPSHOTS: MadeLast[Snapshot] = MadeLast(Snapshot, lambda snapshot: snapshot.recurrent)


def snapshot_of(recurrent: Any) -> Snapshot:
    """A network as it is now: the snapshot that was made last, while the network holds what it held then."""
    return _SNAPSHOTS.of(recurrent)
