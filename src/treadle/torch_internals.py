"""The private names of PyTorch that treadle needs, in one place, each with the reason why.

A release of PyTorch may move or rename them; then this file is mended, and nothing else. The tables of a module
(``_parameters``, ``_buffers``, ``_modules``) are no secret: they are read where they are needed.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._dynamo.eval_frame import reset_code
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    is_functorch_wrapped_tensor,
    is_legacy_batchedtensor,
    maybe_current_level,
)
from torch._higher_order_ops.scan import scan as torch_scan
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import is_fake, unset_fake_temporarily
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.jit._trace import is_tracing
from torch.nn.modules import module as modules
from torch.nn.utils import parametrize
from torch.utils import _pytree
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "BatchNorm", "NormWithStatistics", "OpOverload", "TorchDispatchMode", "a_function_transform_is_active",
    "a_mode_is_active", "can_be_decomposed", "checked_later", "forward_mode_is_active", "function_of",
    "hooks_on_all_modules", "is_batched", "is_compiled", "is_exported", "is_followed", "is_noted_down",
    "jit_is_tracing", "no_function_modes", "no_modes", "ran_out_of_memory", "real_tensors", "register_namedtuple",
    "scan", "schema_of", "tensor_without_numbers", "vmap_is_active",
    "weights_are_not_cached",
]  # fmt: skip

BatchNorm = nn.modules.batchnorm._BatchNorm
"""The batch normalisations of all dimensions."""

NormWithStatistics = nn.modules.batchnorm._NormBase
"""These, and the instance normalisations."""

checked_later = torch._assert_async  # pyright: ignore
"""Has a program that is exported raise an error where a condition does not hold, of numbers that are not there yet."""

register_namedtuple = _pytree._register_namedtuple
"""Gives a named tuple a name, by which `torch.export` writes it into files."""

no_modes = _disable_current_modes
"""A context in which operations are PyTorch's own, whatever mode notes them."""

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


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for many, as in ``vmap`` and in gradients ``is_grads_batched``: it has no memory."""
    return is_functorch_wrapped_tensor(tensor) or is_legacy_batchedtensor(tensor)


def vmap_is_active() -> bool:
    """Whether `torch.func.vmap` is at work, on its own or around another transform."""
    return any(level.key() == TransformType.Vmap for level in get_interpreter_stack() or ())


def is_followed() -> bool:
    """Whether something follows every operation, which a kernel or an autograd node of our own would hide from it."""
    return a_function_transform_is_active() or forward_mode_is_active() or is_tracing()


def a_mode_is_active() -> bool:
    """Whether a mode of the user's follows every operation; the mode that presets a device does not."""
    if torch._C._len_torch_dispatch_stack():
        return True
    count = torch._C._len_torch_function_stack()
    return count > 0 and not all(isinstance(torch._C._get_function_stack_at(i), DeviceContext) for i in range(count))


def hooks_on_all_modules() -> bool:
    """Whether there are hooks that every module calls."""
    return bool(
        modules._global_forward_hooks
        or modules._global_forward_pre_hooks
        or modules._global_backward_hooks
        or modules._global_backward_pre_hooks
    )


@contextlib.contextmanager
def no_function_modes() -> Iterator[None]:
    """A context in which functions of PyTorch are its own, and no device is preset."""
    stack = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    try:
        yield
    finally:
        for mode in reversed(stack):
            torch._C._push_on_torch_function_stack(mode)


class _Forgetful(dict[Any, Any]):
    """A dict that keeps nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


@contextlib.contextmanager
def weights_are_not_cached() -> Iterator[None]:
    """A context in which ``parametrize.cached`` neither gives back what it has kept, nor keeps anything."""
    before, parametrize._cache = parametrize._cache, _Forgetful()
    try:
        yield
    finally:
        parametrize._cache = before if parametrize._cache_enabled else {}


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory on the CPU, for PyTorch or for us. PyTorch has no class for that error."""
    texts = ("DefaultCPUAllocator", "not enough memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def is_noted_down(x: Any) -> bool:
    """Whether what is done with a tensor becomes a program: by `torch.jit.trace`, `torch.export`, or ``make_fx``."""
    return is_tracing() or get_proxy_mode() is not None or is_fake(x)


def is_compiled(x: Any) -> bool:
    """Whether `torch.compile` or `torch.export` traces what is done with a tensor.

    ``torch.compiler.is_compiling()`` says that some thread compiles, and is asked first because it takes least.
    """
    compiler = torch.compiler
    return compiler.is_compiling() and (compiler.is_dynamo_compiling() or get_proxy_mode() is not None or is_fake(x))


def is_exported(x: Any) -> bool:
    """Whether `torch.export` does."""
    return torch.compiler.is_exporting() and is_compiled(x)


def scan(step: Callable[..., Any], initial: Any, by_step: Any) -> Any:
    """A loop over time as one operator of PyTorch, of which a program holds one step: its ``scan``."""
    if not torch.compiler.is_dynamo_compiling():
        # It compiles the step by a function of its own, and would take what it made for another network or other sizes.
        for code in torch_scan.__code__.co_consts:
            if isinstance(code, CodeType):
                reset_code(code)
    return torch_scan(step, initial, by_step)


def schema_of(function: OpOverload) -> Any:
    """What an operation takes and gives, and which of that it writes into."""
    return function._schema


def can_be_decomposed(function: OpOverload) -> bool:
    """Whether PyTorch says what an operation is in terms of others: ``function.decompose`` does."""
    return function._can_decompose()


def tensor_without_numbers(kind: type[Tensor], sizes: list[Any], dtype: torch.dtype, requires_grad: bool) -> Any:
    """A tensor of a subclass that has a form, but no memory."""
    return Tensor._make_wrapper_subclass(kind, sizes, dtype=dtype, requires_grad=requires_grad)  # pyright: ignore


def function_of(node: Any) -> type[torch.autograd.Function] | None:
    """The user's own function whose derivative a node of autograd is; None where it is one of PyTorch's operations."""
    return type(node)._forward_cls if isinstance(node, torch.autograd.function.BackwardCFunction) else None  # pyright: ignore
