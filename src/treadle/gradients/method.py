"""What every method of taking gradients back in time has."""

from typing import Any

from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing

from treadle.protocol import State

__all__ = ["GradientMethod", "is_followed"]


class GradientMethod:
    """How gradients go back in time: one of `FullBPTT`, `TruncatedBPTT`, `CheckpointedBPTT`."""

    def run(
        self,
        engine: Any,
        cell: Any,
        initial: State,
        xs: Tensor,
        state: State,
        lengths: Tensor | None,
        resets: Tensor | None,
        return_states: bool,
    ) -> tuple[Tensor, State, State | None]:
        """Run a cell over a sequence that has steps; the arguments are those of an engine's ``run``, after it."""
        raise NotImplementedError


def is_followed() -> bool:
    """Whether something follows every operation, which a node of autograd of our own would hide from it."""
    return maybe_current_level() is not None or forward_ad._current_level >= 0 or is_tracing()

