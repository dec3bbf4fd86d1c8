"""A network over time as one operator of PyTorch, for `torch.compile` and `torch.export`.

Those trace what a model does with tensors that hold no numbers; our engines work on memory. So while they trace,
`treadle.Recurrent` is the single operator ``treadle::sequence``: they see what goes in and what shapes come out, with
no break in their graph, and the engine runs inside of it. Its derivative is the operator
``treadle::sequence_backward``, which runs forwards once more: no memory is handed from one to the other.

A graph names a network by a number of this process: an exported program runs in the process that exported it.
"""

import concurrent.futures
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from treadle import state as states
from treadle.engines import network
from treadle.protocol import State

__all__ = ["number", "run"]

_numbers = itertools.count(1)
_SEED = len(torch.get_rng_state())
_networks: "weakref.WeakValueDictionary[int, nn.Module]" = weakref.WeakValueDictionary()


def number(recurrent: nn.Module) -> int:
    """A number by which the operator finds a network."""
    handle = next(_numbers)
    _networks[handle] = recurrent
    return handle


def run(
    recurrent: Any, xs: Tensor, state: State, lengths: Tensor | None, resets: Tensor | None, return_states: bool
) -> Any:
    """What `treadle.Recurrent` gives, by the operator."""
    like = recurrent.initial_state(1)
    parts = [] if state is None else [tensor for _, tensor in states.named_tensors(state)]
    parameters = [tensor for _, tensor in recurrent.named_parameters()]
    results = torch.ops.treadle.sequence(
        recurrent.handle, xs, parts, parameters, lengths, resets, return_states, recurrent.training
    )
    count = len([name for name, _ in states.named_tensors(like)])
    end, every = results[1 : 1 + count], results[1 + count : -1]
    return (results[0], _rebuilt(like, end), *([_rebuilt(like, every)] if return_states else []))


def _rebuilt(like: State, tensors: Sequence[Tensor]) -> State:
    names = [name for name, _ in states.named_tensors(like)]
    return states.rebuild(like, dict(zip(names, tensors, strict=True)))


def _call(
    handle: int,
    xs: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
) -> list[Tensor]:
    recurrent: Any = _networks[handle]
    names = [name for name, _ in recurrent.named_parameters()]
    before = _rebuilt(recurrent.initial_state(1), state) if state else None
    given = dict(zip(names, parameters, strict=True))
    options = {"lengths": lengths, "resets": resets, "return_states": return_states}
    ys, end, *every = torch.func.functional_call(recurrent, given, (xs, before), options)
    tensors = [ys, *(tensor for part in (end, *every) for _, tensor in states.named_tensors(part))]
    return [
        tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors
    ]  # an operator gives memory of its own


@torch.library.custom_op("treadle::sequence", mutates_args=())
def sequence(
    handle: int,
    xs: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
    training: bool,
) -> list[Tensor]:
    """Run a network over a sequence: outputs, final states, the states at every step if they are asked for.

    The last tensor is the random generator as it was: the backward pass starts from it, so that masks fall alike.
    """
    seed = torch.get_rng_state()
    with torch.no_grad():
        return [*_call(handle, xs, state, parameters, lengths, resets, return_states), seed]


@sequence.register_fake
def _(
    handle: int,
    xs: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
    training: bool,
) -> list[Tensor]:
    recurrent: Any = _networks[handle]
    row_shape, dtype = tuple(int(size) for size in xs.shape[2:]), xs.dtype
    with unset_fake_temporarily():
        initial = recurrent.initial_state(1)
        floating = next((p.dtype for p in recurrent.parameters() if p.is_floating_point()), dtype)
        dtype = floating if dtype.is_floating_point else dtype
        found = network.network_of(recurrent.cell, torch.empty(1, *row_shape, dtype=dtype), initial)
    y = found.program.outputs["y"]
    rows = xs.shape[0 if recurrent.batch_first else 1]
    results = [xs.new_empty(*xs.shape[:2], *y.row_shape, dtype=y.dtype)]
    parts = [tensor for _, tensor in states.named_tensors(initial)]
    results += [xs.new_empty(rows, *part.shape[1:], dtype=part.dtype) for part in parts]
    if return_states:
        results += [xs.new_empty(*xs.shape[:2], *part.shape[1:], dtype=part.dtype) for part in parts]
    return [*results, torch.empty(_SEED, dtype=torch.uint8)]


@torch.library.custom_op("treadle::sequence_backward", mutates_args=())
def sequence_backward(
    handle: int,
    gradients: Sequence[Tensor],
    xs: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
    seed: Tensor,
) -> list[Tensor]:
    """The gradients of ``xs``, the state and the parameters; runs forwards once more."""
    given = handle, gradients, xs, state, parameters, lengths, resets, return_states, seed
    # Inside an operator autograd does not record, in this thread.
    with concurrent.futures.ThreadPoolExecutor(1) as another:
        return another.submit(_gradients, *given).result()


def _gradients(
    handle: int,
    gradients: Sequence[Tensor],
    xs: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
    seed: Tensor,
) -> list[Tensor]:
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in (xs, *state, *parameters)]
    count = 1 + len(state)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(seed)
        outputs = _call(handle, leaves[0], leaves[1:count], leaves[count:], lengths, resets, return_states)
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True, materialize_grads=True
        )
    )
    # An operator gives memory of its own, and two biases that are added up share one gradient.
    dense = torch.contiguous_format
    return [next(found).clone(memory_format=dense) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves]


@sequence_backward.register_fake
def _(
    handle: int,
    gradients: Sequence[Tensor],
    xs: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
    seed: Tensor,
) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (xs, *state, *parameters)]


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    handle, xs, state, parameters, lengths, resets, return_states, _ = inputs
    ctx.handle, ctx.return_states, ctx.states = handle, return_states, len(state)
    ctx.options = [lengths is not None, resets is not None]
    kept = [t for t in (lengths, resets) if t is not None]
    ctx.save_for_backward(xs, *state, *parameters, *kept, output[-1])


def _derivative(ctx: Any, gradients: Sequence[Tensor]) -> Any:
    *tensors, seed = ctx.saved_tensors
    resets = tensors.pop() if ctx.options[1] else None
    lengths = tensors.pop() if ctx.options[0] else None
    xs, *rest = tensors
    state, parameters = rest[: ctx.states], rest[ctx.states :]
    found = torch.ops.treadle.sequence_backward(
        ctx.handle, gradients[:-1], xs, state, parameters, lengths, resets, ctx.return_states, seed
    )
    count = 1 + len(state)
    return None, found[0], found[1:count], found[count:], None, None, None, None


sequence.register_autograd(_derivative, setup_context=_remember)
