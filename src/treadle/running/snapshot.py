"""A network as it was at one moment: what sessions run, and share as long as the network is as it was."""

from typing import Any

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.engines import Asked, Engine, Live, LivePool, LiveStep, Network, live
from treadle.protocol import State, first_weight, is_lazy
from treadle.running.copies import evaluated_copy
from treadle.running.likeness import are_one
from treadle.running.made_last import MadeLast
from treadle.state import named_tensors


class Snapshot:
    """A copy of a network over time, in evaluation mode, which nobody writes into; and its step, once it is compiled.

    Args:
        recurrent: the network, a `treadle.Recurrent`.
        before: a snapshot of the same network with other numbers, whose programs are taken over.

    Attributes:
        recurrent: the copy.
        weights: ``"float32"``; ``"bfloat16"`` where every matrix is rounded to that.
        dtype, device: of its weights; None where it has none.
    """

    def __init__(self, recurrent: Any, before: "Snapshot | None" = None):
        self.weights = "float32"
        self.recurrent = evaluated_copy(recurrent)
        weight = first_weight(recurrent)
        self.dtype = None if weight is None else weight.dtype
        self.device = None if weight is None else weight.device
        self._lives: dict[Any, Live] = {}
        self._rounded: Snapshot | None = None
        known = {} if before is None else before._networks()
        self._known = {form: (network.of(self.recurrent.cell), engine) for form, (network, engine) in known.items()}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lives": {}, "_known": {}}  # programs and machine code are this process's

    def _networks(self) -> dict[Any, tuple[Network, Engine]]:
        """By the form of the input, the program that was found for it, and the engine that runs it."""
        rounded = {} if self._rounded is None else self._rounded._networks()
        return self._known | rounded | {form: (one.network, one.engine) for form, one in self._lives.items()}

    def in_weights(self, weights: str) -> "Snapshot":
        """The same, with matrices in ``"float32"``, as they are, or ``"bfloat16"``."""
        if weights == self.weights or is_lazy(self.recurrent):
            return self
        if self._rounded is None:
            rounded = Snapshot(self.recurrent, self)
            rounded.weights = weights
            for parameter in rounded.recurrent.parameters():
                if parameter.ndim > 1 and parameter.is_floating_point():
                    parameter.copy_(parameter.bfloat16())
            self._rounded = rounded
        return self._rounded

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

    def _asked(self, x: Tensor, state: State) -> Asked:
        products = torch.bfloat16 if self.weights == "bfloat16" else None
        return Asked(self.recurrent.cell, self.recurrent.engine, x, state, products)

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
