"""A call like one that was made before: what was decided for that one is done again, on other numbers.

Most calls are like the one before. What has to be looked at each time, because it may have changed without a word, is
looked at here; what follows from the form of the call alone was found out the first time.
"""

from typing import Any

import torch
from torch import Tensor

from treadle.engines import verification
from treadle.engines.call import Call
from treadle.engines.decision import Decision
from treadle.engines.layout import whole
from treadle.engines.second_try import with_second_try
from treadle.engines.stages import Alone, staged
from treadle.engines.state_form import StateForm
from treadle.protocol import State
from treadle.torch_internals import a_mode_is_active, hooks_on_all_modules, is_followed


class Repeat:
    """A call on the CPU, of rows that all have all steps, that is a single run of an engine's.

    Args:
        decision: who runs the call.
        alone: the run.
    """

    def __init__(self, decision: Decision, alone: Alone):
        assert decision.network is not None
        assert decision.engine is not None
        call = decision.call
        self._alone, self._network, self._engine = alone, decision.network, decision.engine
        self._shape, self._dtype = call.xs.shape, call.xs.dtype
        self._default_dtype, self._grad = torch.get_default_dtype(), torch.is_grad_enabled()
        self._requires_grad = call.xs.requires_grad
        self._form = StateForm(call.state)
        self._layout = whole(call.xs.shape[0], call.xs.shape[1], call.xs.device)
        self._way = verification.way_of(decision.engine, call)

    @staticmethod
    def of(decision: Decision) -> "Repeat | None":
        """What a call is to be repeated by; None where every call has to be decided for itself."""
        call, network, engine = decision.call, decision.network, decision.engine
        if network is None or engine is None or network.holds is None or decision.left_out:
            return None
        if call.xs.device.type != "cpu" or not _is_plain(call):
            return None
        alone = staged(network, engine, None, False).alone
        return None if alone is None else Repeat(decision, alone)

    def run(self, xs: Tensor, state: State, groups: tuple[tuple[int, ...], ...] = ()) -> tuple[Tensor, Any] | None:
        """Outputs [T, B, ...] and the state after the last step; None if it is no call like that one.

        Where there are ``groups`` of the state's tensors, there is a list in its place: of each group one tensor,
        [L, B, ...].
        """
        if (
            type(xs) is not Tensor
            or xs.shape != self._shape
            or xs.dtype is not self._dtype
            or not xs.is_cpu
            or torch.is_grad_enabled() is not self._grad
            or (self._grad and xs.requires_grad is not self._requires_grad)
            or torch.is_autocast_enabled("cpu")
            or torch.get_default_dtype() is not self._default_dtype
            or is_followed()
            or a_mode_is_active()
            or hooks_on_all_modules()
        ):
            return None
        starts = self._form.tensors(state)
        network = self._network
        if starts is None or not network.holds() or not verification.is_trusted(network, self._engine, self._way):  # pyright: ignore
            return None
        given = network, self._layout, xs, starts, groups
        ys, finals = with_second_try(lambda: self._alone.run(*given), self._engine.release_memory)
        return ys, finals if groups else self._form.rebuilt(iter(finals))


def _is_plain(call: Call) -> bool:
    parts = call.lengths, call.resets, call.mask, call.products
    return all(part is None for part in parts) and not call.return_states
