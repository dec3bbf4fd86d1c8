"""A network over time as one operator of PyTorch, for `torch.compile`.

That traces what a model does with tensors that hold no numbers; our engines work on memory. So while it traces,
`treadle.Recurrent` is the single operator ``treadle::sequence``: the compiler sees what goes in and what shapes come
out, with no break in its graph, and the engine runs inside of it. Its derivative is the operator
``treadle::sequence_backward``, which runs forwards once more: no memory is handed from one to the other. What the
forward pass depended on besides tensors, it gives along as bytes, the ticket, for the way back.

A graph names a network by a random number, which is known in this process alone. What leaves the process is exported in
PyTorch's own operators, see ``plain_operators.py``.
"""

import concurrent.futures
import secrets
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.engines import autocast_dtype
from treadle.engines.autograd import gradients_of
from treadle.engines.network import Network, network_of
from treadle.errors import EngineError
from treadle.protocol import State
from treadle.running.copies import detached_copy
from treadle.torch_internals import real_tensors

_networks: "weakref.WeakValueDictionary[int, nn.Module]" = weakref.WeakValueDictionary()
_SEED = len(torch.get_rng_state())
_HASH = 8


def number(recurrent: nn.Module) -> int:
    """A number by which the operator finds a network: of no other one, in no other process."""
    handle = secrets.randbits(62)
    _networks[handle] = recurrent
    return handle


class _Arguments(NamedTuple):
    """What the operator takes, and its derivative after what comes from above: plain values, as PyTorch asks for."""

    handle: int
    xs: Tensor
    state: Sequence[Tensor]
    tensors: Sequence[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    return_states: bool
    bfloat16: bool
    mask: Tensor | None

    @property
    def network(self) -> Any:
        """The `treadle.Recurrent`."""
        found = _networks.get(self.handle)
        if found is None:
            raise EngineError(
                "a compiled graph runs a treadle.Recurrent that is not in this process: it was deleted, or the graph"
                " was compiled in another process. Compile the model here, or save it with torch.export, whose"
                " programs hold the network themselves"
            )
        return found

    @property
    def sources(self) -> list[Tensor]:
        """What may have gradients."""
        return [self.xs, *self.state, *self.tensors]

    def with_sources(self, sources: Sequence[Tensor]) -> "_Arguments":
        """The same with other tensors in their place."""
        count = 1 + len(self.state)
        return self._replace(xs=sources[0], state=sources[1:count], tensors=sources[count:])

    def call(self, recurrent: Any) -> list[Tensor]:
        """Run the network: outputs, final states, the states at every step if they are asked for."""
        before = states.with_tensors(recurrent.initial_state(1), self.state) if self.state else None
        tensors = dict(zip(_tensors(recurrent), self.tensors, strict=True))
        given = (self.xs, before, self.lengths, self.resets, self.return_states, self.mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            ys, *parts = torch.func.functional_call(recurrent, tensors, given)
        return _own([ys, *(tensor for part in parts for _, tensor in states.named_tensors(part))])


_SCHEMA = (
    "int handle, Tensor xs, Tensor[] state, Tensor[] tensors, Tensor? lengths, Tensor? resets, bool return_states,"
    " bool bfloat16, Tensor? mask"
)


def _tensors(recurrent: nn.Module) -> dict[str, Tensor]:
    """What the operator reads of a network: its parameters and buffers."""
    return {**dict(recurrent.named_parameters()), **dict(recurrent.named_buffers())}


def _own(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies: an operator gives memory of its own, and two biases that are added up share one gradient."""
    return [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]


def run(
    recurrent: Any,
    xs: Tensor,
    state: State,
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
    mask: Tensor | None,
) -> Any:
    """What `treadle.Recurrent` gives, by the operator."""
    like = recurrent.initial_state(1)
    parts = [] if state is None else [tensor for _, tensor in states.named_tensors(state)]
    tensors = list(_tensors(recurrent).values())
    given = (lengths, resets, mask)
    lengths, resets, mask = (None if one is None else torch.as_tensor(one) for one in given)
    # What is compiled runs where autocast is off.
    bfloat16 = autocast_dtype(xs.device) is torch.bfloat16
    results = torch.ops.treadle.sequence(
        *_Arguments(recurrent.handle, xs, parts, tensors, lengths, resets, return_states, bfloat16, mask)
    )
    count = len(states.named_tensors(like))
    parts = [results[1 : 1 + count]] + ([results[1 + count : -1]] if return_states else [])
    return (results[0], *(states.with_tensors(like, part) for part in parts))


@torch.library.custom_op("treadle::sequence", mutates_args=(), schema=f"({_SCHEMA}) -> Tensor[]")
def sequence(*arguments: Any) -> list[Tensor]:
    """Run a network over a sequence. The last tensor is the ticket for the way back."""
    given = _Arguments(*arguments)
    with torch.no_grad():
        ticket = _ticket(given.network, given.xs)
        return [*given.call(given.network), ticket]


def _network(recurrent: Any, xs: Tensor) -> Network:
    """The program of the network's step."""
    row_shape, dtype = tuple(int(size) for size in xs.shape[2:]), xs.dtype
    floating = next((p.dtype for p in recurrent.parameters() if p.is_floating_point()), dtype)
    x = torch.empty(1, *row_shape, dtype=floating if dtype.is_floating_point else dtype, device="cpu")
    return network_of(recurrent.cell, x, recurrent.initial_state(1))


def _ticket(recurrent: Any, xs: Tensor) -> Tensor:
    """What a pass depends on besides tensors, as bytes: the random generator, each module's mode, the program."""
    network = _network(recurrent, xs)
    numbers = [float(get()) for name, get in network.getters.items() if name.startswith("number/")]
    program = hash((*network.program.outputs.values(), *numbers)).to_bytes(_HASH, "little", signed=True)
    modes = [module.training for module in recurrent.modules()]
    return torch.cat([torch.get_rng_state(), torch.tensor([*modes, *program], dtype=torch.uint8, device="cpu")])


def _as_it_was(recurrent: Any, xs: Tensor, ticket: Tensor) -> Any:
    """The network as it was when the ticket was made: itself, or a copy in the modes that it had.

    Raises:
        EngineError: its attributes are others now.
    """
    modes = ticket[_SEED:-_HASH].tolist()
    if modes != [module.training for module in recurrent.modules()]:
        # A copy, because another thread may run the network in its present modes.
        recurrent = detached_copy(recurrent)
        for module, mode in zip(recurrent.modules(), modes, strict=True):
            module.training = bool(mode)
    if not torch.equal(_ticket(recurrent, xs)[_SEED:], ticket[_SEED:]):
        raise EngineError(
            f"attributes of {type(recurrent.cell).__name__} changed between the forward and the backward pass: under"
            " torch.compile a network runs forwards once more for its derivative, so change it after backward()"
        )
    return recurrent


@sequence.register_fake
def _(*arguments: Any) -> list[Tensor]:
    given = _Arguments(*arguments)
    recurrent, xs = given.network, given.xs
    with real_tensors():
        initial = recurrent.initial_state(1)
        y = _network(recurrent, xs).program.outputs["y"]
    rows = xs.shape[0 if recurrent.batch_first else 1]
    results = [xs.new_empty(*xs.shape[:2], *y.row_shape, dtype=y.dtype)]
    parts = [tensor for _, tensor in states.named_tensors(initial)]
    results += [xs.new_empty(rows, *part.shape[1:], dtype=part.dtype) for part in parts]
    if given.return_states:
        results += [xs.new_empty(*xs.shape[:2], *part.shape[1:], dtype=part.dtype) for part in parts]
    ticket = _SEED + len(list(recurrent.modules())) + _HASH
    return [*results, torch.empty(ticket, dtype=torch.uint8, device="cpu")]


@torch.library.custom_op(
    "treadle::sequence_backward", mutates_args=(), schema=f"(Tensor[] gradients, Tensor ticket, {_SCHEMA}) -> Tensor[]"
)
def sequence_backward(gradients: Sequence[Tensor], ticket: Tensor, *arguments: Any) -> list[Tensor]:
    """The gradients of ``xs``, the state and the parameters; runs forwards once more."""
    # Inside an operator autograd does not record, in this thread.
    with concurrent.futures.ThreadPoolExecutor(1) as another:
        return another.submit(_gradients, gradients, ticket, _Arguments(*arguments)).result()


def _gradients(gradients: Sequence[Tensor], ticket: Tensor, given: _Arguments) -> list[Tensor]:
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in given.sources]
    recurrent = _as_it_was(given.network, given.xs, ticket)
    # Only where it counts: meanwhile other threads would draw what was drawn then.
    draws = bool(_network(recurrent, given.xs).plan(given.return_states).random)
    with torch.random.fork_rng(devices=[], enabled=draws):
        if draws:
            torch.set_rng_state(ticket[:_SEED])
        outputs = given.with_sources(leaves).call(recurrent)
    found = gradients_of(leaves, [leaf.requires_grad for leaf in leaves], outputs, gradients)
    return _own([torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)])


@sequence_backward.register_fake
def _(gradients: Sequence[Tensor], ticket: Tensor, *arguments: Any) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in _Arguments(*arguments).sources]


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    given = _Arguments(*inputs)
    ctx.handle, ctx.states, ctx.modes = given.handle, len(given.state), (given.return_states, given.bfloat16)
    # Autograd saves the tensors, and sees to it that nobody writes into them.
    ctx.save_for_backward(given.lengths, given.resets, given.mask, output[-1], *given.sources)


def _derivative(ctx: Any, gradients: Sequence[Tensor]) -> Any:
    lengths, resets, mask, ticket, xs, *rest = ctx.saved_tensors
    given = _Arguments(ctx.handle, xs, rest[: ctx.states], rest[ctx.states :], lengths, resets, *ctx.modes, mask=mask)
    found = torch.ops.treadle.sequence_backward(gradients[:-1], ticket, *given)
    return None, found[0], found[1 : 1 + ctx.states], found[1 + ctx.states :], None, None, None, None, None


sequence.register_autograd(_derivative, setup_context=_remember)
