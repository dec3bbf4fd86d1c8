"""The calls that a network has made before, by form, each to be made again: see `treadle.engines.repeat`."""

from typing import Any

import torch
from torch import Tensor, nn

from treadle.cells.base import RecurrentCell
from treadle.engines import Call, Repeat, decide
from treadle.gradients import FullBPTT
from treadle.protocol import State
from treadle.state import map_state, tensors_of
from treadle.wiring.graph import Graph

_MOST_FORMS, _MOST_TIMES = 16, 16
_MOST_BYTES = 1 << 20
"""Of an initial state that is kept: to make a larger one takes no time beside the call."""


class Repeats:
    """The calls of one network. A copy of the network has none, and so has what comes out of a file."""

    def __init__(self) -> None:
        self._cell: Any = None
        self._known: dict[Any, tuple[KnownCall | None, int]] = {}

    def __reduce__(self) -> Any:
        return Repeats, ()

    def find(self, network: Any, xs: Tensor) -> "KnownCall | None":
        """A call of that form, if one is known."""
        known, _ = self._known.get(_form(network, xs), (None, 0))
        if known is None or self._cell is not network.cell or type(network.gradient) is not FullBPTT:
            return None
        return known

    def learn(self, network: Any, xs: Tensor, call: Call) -> None:
        """Keep how a call was made, if there was one of its form before."""
        if self._cell is not network.cell:
            self._cell, self._known = network.cell, {}
        key = _form(network, xs)
        times = self._known[key][1] + 1 if key in self._known else 0
        if times > _MOST_TIMES:  # something is different every time
            return
        known = None
        if times:
            repeat = Repeat.of(decide(call))
            known = None if repeat is None else KnownCall(network, repeat, call)
        elif len(self._known) >= _MOST_FORMS:
            self._known.pop(next(iter(self._known)), None)
        self._known[key] = known, times


class KnownCall:
    """A call that can be made again, and its initial state where that is known to be zeros.

    Attributes:
        run: see `Repeat.run`.
        zeros: the zeros. Nobody writes into them: what a call gives is new memory.
    """

    def __init__(self, network: Any, repeat: Repeat, call: Call):
        self.run = repeat.run
        is_small = sum(tensor.nbytes for tensor in tensors_of(call.initial)) <= _MOST_BYTES
        self._makers = _our_own(network.cell) if is_small and not network.learn_initial_state else None
        self.zeros: State = None
        if self._makers is not None:
            with torch.inference_mode(False):
                self.zeros = map_state(torch.zeros_like, call.initial)

    def starts_at_zero(self) -> bool:
        """Whether the initial state is `zeros`, because all that makes it is our own code, and still is."""
        if self._makers is None:
            return False
        for part, makes in self._makers:
            if type(part).initial_state is not makes or "initial_state" in part.__dict__:
                return False
        return True


def _form(network: Any, xs: Tensor) -> Any:
    return xs.shape, xs.dtype, network.engine, torch.is_grad_enabled()


def _our_own(cell: nn.Module) -> list[tuple[Any, Any]] | None:
    """The parts of a cell that have a state, and what makes it; None where that is code of somebody else's."""
    parts = []
    for part in cell.modules():
        makes = getattr(part, "initial_state", None)
        if makes is None:
            continue
        makes = getattr(makes, "__func__", None)
        is_ours = type(part).__module__.startswith(("treadle.cells.", "treadle.wiring."))
        if not is_ours or makes not in (RecurrentCell.initial_state, Graph.initial_state):
            return None
        parts.append((part, makes))
    return parts
