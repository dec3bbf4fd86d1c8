"""What every method of taking gradients back in time has."""

from typing import Any

from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing

__all__ = ["GradientMethod", "is_followed"]


class GradientMethod:
    """How gradients go back in time: one of `FullBPTT`, `TruncatedBPTT`, `CheckpointedBPTT`."""

    def run(self, engine: Any, *arguments: Any) -> Any:
        """Run a cell over a sequence that has steps, on an engine; the arguments are those of the engine's ``run``."""
        raise NotImplementedError


def is_followed() -> bool:
    """Whether something follows every operation, which a node of autograd of our own would hide from it."""
    return maybe_current_level() is not None or forward_ad._current_level >= 0 or is_tracing()
