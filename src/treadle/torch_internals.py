"""The private names of PyTorch that treadle needs, in one place, each with the reason why.

A release of PyTorch may move or rename them; then this file is mended, and nothing else. The compiler's own, with which
it traces a step, are in ``compiler/trace.py``.
"""

from torch._C._functorch import maybe_current_level
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing

jit_is_tracing = is_tracing
"""Whether `torch.jit.trace` records. The public name of this function is going to warn of its age."""

real_tensors = unset_fake_temporarily
"""A context in which tensors hold numbers, although `torch.compile` traces with tensors that hold none."""


def a_function_transform_is_active() -> bool:
    """Whether `torch.func` is at work (``vmap``, ``grad``, …): its tensors are wrapped, and have no memory to read."""
    return maybe_current_level() is not None


def forward_mode_is_active() -> bool:
    """Whether `torch.autograd.forward_ad` is at work: tensors carry tangents that only PyTorch's operations know."""
    return forward_ad._current_level >= 0


def is_followed() -> bool:
    """Whether something follows every operation, which a kernel or an autograd node of our own would hide from it."""
    return a_function_transform_is_active() or forward_mode_is_active() or is_tracing()
