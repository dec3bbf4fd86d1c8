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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.engines.autograd import gradients_of
from treadle.engines.network import network_of
from treadle.protocol import State
from treadle.torch_internals import real_tensors

_numbers = itertools.count(1)
_SEED = len(torch.get_rng_state())
_networks: "weakref.WeakValueDictionary[int, nn.Module]" = weakref.WeakValueDictionary()


def number(recurrent: nn.Module) -> int:
    """A number by which the operator finds a network."""
    handle = next(_numbers)
    _networks[handle] = recurrent
    return handle


class _Arguments(NamedTuple):
    """What the operator takes, and its derivative after what comes from above: plain values, as PyTorch asks for."""

    handle: int
    xs: Tensor
    state: Sequence[Tensor]
    parameters: Sequence[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    return_states: bool
    training: bool

    @property
    def network(self) -> Any:
        """The `treadle.Recurrent`."""
        return _networks[self.handle]

    @property
    def sources(self) -> list[Tensor]:
        """What may have gradients."""
        return [self.xs, *self.state, *self.parameters]

    def with_sources(self, sources: Sequence[Tensor]) -> "_Arguments":
        """The same with other tensors in their place."""
        count = 1 + len(self.state)
        return self._replace(xs=sources[0], state=sources[1:count], parameters=sources[count:])

    def call(self) -> list[Tensor]:
        """Run the network: outputs, final states, the states at every step if they are asked for."""
        recurrent = self.network
        names = [name for name, _ in recurrent.named_parameters()]
        before = states.with_tensors(recurrent.initial_state(1), self.state) if self.state else None
        parameters = dict(zip(names, self.parameters, strict=True))
        given = (self.xs, before, self.lengths, self.resets, self.return_states)
        ys, *parts = torch.func.functional_call(recurrent, parameters, given)
        return _own([ys, *(tensor for part in parts for _, tensor in states.named_tensors(part))])


_SCHEMA = (
    "int handle, Tensor xs, Tensor[] state, Tensor[] parameters, Tensor? lengths, Tensor? resets, bool return_states,"
    " bool training"
)


def _own(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies: an operator gives memory of its own, and two biases that are added up share one gradient."""
    return [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]


def run(
    recurrent: Any, xs: Tensor, state: State, lengths: Tensor | None, resets: Tensor | None, return_states: bool
) -> Any:
    """What `treadle.Recurrent` gives, by the operator."""
    like = recurrent.initial_state(1)
    parts = [] if state is None else [tensor for _, tensor in states.named_tensors(state)]
    parameters = [tensor for _, tensor in recurrent.named_parameters()]
    results = torch.ops.treadle.sequence(
        *_Arguments(recurrent.handle, xs, parts, parameters, lengths, resets, return_states, recurrent.training)
    )
    count = len(states.named_tensors(like))
    parts = [results[1 : 1 + count]] + ([results[1 + count : -1]] if return_states else [])
    return (results[0], *(states.with_tensors(like, part) for part in parts))


@torch.library.custom_op("treadle::sequence", mutates_args=(), schema=f"({_SCHEMA}) -> Tensor[]")
def sequence(*arguments: Any) -> list[Tensor]:
    """Run a network over a sequence.

    The last tensor is the random generator as it was: the backward pass starts from it, so that masks fall alike.
    """
    seed = torch.get_rng_state()
    with torch.no_grad():
        return [*_Arguments(*arguments).call(), seed]


@sequence.register_fake
def _(*arguments: Any) -> list[Tensor]:
    given = _Arguments(*arguments)
    recurrent, xs = given.network, given.xs
    row_shape, dtype = tuple(int(size) for size in xs.shape[2:]), xs.dtype
    with real_tensors():
        initial = recurrent.initial_state(1)
        floating = next((p.dtype for p in recurrent.parameters() if p.is_floating_point()), dtype)
        dtype = floating if dtype.is_floating_point else dtype
        found = network_of(recurrent.cell, torch.empty(1, *row_shape, dtype=dtype, device="cpu"), initial)
    y = found.program.outputs["y"]
    rows = xs.shape[0 if recurrent.batch_first else 1]
    results = [xs.new_empty(*xs.shape[:2], *y.row_shape, dtype=y.dtype)]
    parts = [tensor for _, tensor in states.named_tensors(initial)]
    results += [xs.new_empty(rows, *part.shape[1:], dtype=part.dtype) for part in parts]
    if given.return_states:
        results += [xs.new_empty(*xs.shape[:2], *part.shape[1:], dtype=part.dtype) for part in parts]
    return [*results, torch.empty(_SEED, dtype=torch.uint8, device="cpu")]


@torch.library.custom_op(
    "treadle::sequence_backward", mutates_args=(), schema=f"(Tensor[] gradients, Tensor seed, {_SCHEMA}) -> Tensor[]"
)
def sequence_backward(gradients: Sequence[Tensor], seed: Tensor, *arguments: Any) -> list[Tensor]:
    """The gradients of ``xs``, the state and the parameters; runs forwards once more."""
    # Inside an operator autograd does not record, in this thread.
    with concurrent.futures.ThreadPoolExecutor(1) as another:
        return another.submit(_gradients, gradients, seed, _Arguments(*arguments)).result()


def _gradients(gradients: Sequence[Tensor], seed: Tensor, given: _Arguments) -> list[Tensor]:
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in given.sources]
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(seed)
        outputs = given.with_sources(leaves).call()
    found = gradients_of(leaves, [leaf.requires_grad for leaf in leaves], outputs, gradients)
    return _own([torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)])


@sequence_backward.register_fake
def _(gradients: Sequence[Tensor], seed: Tensor, *arguments: Any) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in _Arguments(*arguments).sources]


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    given = _Arguments(*inputs)
    ctx.handle, ctx.states, ctx.modes = given.handle, len(given.state), (given.return_states, given.training)
    # Autograd saves the tensors, and sees to it that nobody writes into them.
    ctx.save_for_backward(given.lengths, given.resets, output[-1], *given.sources)


def _derivative(ctx: Any, gradients: Sequence[Tensor]) -> Any:
    lengths, resets, seed, xs, *rest = ctx.saved_tensors
    given = _Arguments(ctx.handle, xs, rest[: ctx.states], rest[ctx.states :], lengths, resets, *ctx.modes)
    found = torch.ops.treadle.sequence_backward(gradients[:-1], seed, *given)
    return None, found[0], found[1 : 1 + ctx.states], found[1 + ctx.states :], None, None, None, None


sequence.register_autograd(_derivative, setup_context=_remember)
