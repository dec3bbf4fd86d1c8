"""Everything that a run of a network gives, by name, so that two ways of running it can be compared."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from treadle.state import map_state, named_tensors

Run = Callable[[Any, Tensor, Any], tuple[Tensor, Any, Any]]


def whole(rnn: Any, xs: Tensor, state: Any) -> tuple[Tensor, Any, Any]:
    """The sequence at once."""
    return rnn(xs, state, return_states=True)


def chunked(*sizes: int) -> Run:
    """The sequence in pieces of these sizes, each going on from where the last one ended."""

    def run(rnn: Any, xs: Tensor, state: Any) -> tuple[Tensor, Any, Any]:
        outputs, moments = [], []
        for chunk in xs.split(sizes, 1):
            ys, state, every = rnn(chunk, state, return_states=True)
            outputs.append(ys)
            moments.append(every)
        every = map_state(lambda *parts: torch.cat(parts, 1), moments[0], *moments[1:])
        return torch.cat(outputs, 1), state, every

    return run


def stepped(rnn: Any, xs: Tensor, state: Any) -> tuple[Tensor, Any, Any]:
    """One step at a time."""
    outputs, moments = [], []
    for x in xs.unbind(1):
        y, state = rnn.step(x, state)
        outputs.append(y)
        moments.append(state)
    every = map_state(lambda *parts: torch.stack(parts, 1), moments[0], *moments[1:])
    return torch.stack(outputs, 1), state, every


def row_by_row(lengths: Any = None, resets: Any = None, mask: Any = None) -> Run:
    """What lengths, resets and masks mean, spelled out: every row for itself, the steps that it takes, one by one."""

    def run(rnn: Any, xs: Tensor, state: Any) -> tuple[Tensor, Any, Any]:
        B, T = xs.shape[:2]
        state = rnn.initial_state(B) if state is None else state
        rows = []
        for b in range(B):
            row_state = map_state(lambda s, b=b: s[b : b + 1], state)
            ys, moments = [], []
            for t in range(T):
                if (lengths is not None and t >= int(lengths[b])) or not (mask is None or mask[b][t]):
                    y = torch.zeros_like(rnn.step(torch.zeros_like(xs[b : b + 1, t]), row_state)[0])
                else:
                    if resets is not None and resets[b][t]:
                        row_state = rnn.initial_state(1)
                    y, row_state = rnn.step(xs[b : b + 1, t], row_state)
                ys.append(y)
                moments.append(row_state)
            every = map_state(lambda *parts: torch.stack(parts, 1), moments[0], *moments[1:])
            rows.append((torch.stack(ys, 1), row_state, every))
        ends, everys = [row[1] for row in rows], [row[2] for row in rows]
        join = lambda *parts: torch.cat(parts, 0)  # noqa: E731
        return torch.cat([row[0] for row in rows]), map_state(join, *ends), map_state(join, *everys)

    return run


def outcome(run: Run, rnn: Any, xs: Tensor, state: Any = None) -> dict[str, Tensor]:
    """Outputs, final state, the states at every step, and the gradients of a random weighting of all of them.

    The weights depend on the names and shapes alone, so two runs that ought to agree get the same gradient from above.
    """

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.is_floating_point())

    xs = leaf(xs)
    state = None if state is None else map_state(leaf, state)
    ys, end, every = run(rnn, xs, state)
    results = {"ys": ys}
    results |= {f"end {name}": tensor for name, tensor in named_tensors(end)}
    results |= {f"every {name}": tensor for name, tensor in named_tensors(every)}
    leaves = {"xs": xs} | dict(rnn.named_parameters())
    leaves |= {} if state is None else {f"initial {name}": tensor for name, tensor in named_tensors(state)}
    leaves = {name: tensor for name, tensor in leaves.items() if tensor.requires_grad}
    random = torch.Generator().manual_seed(4)
    total = xs.new_zeros((), dtype=torch.float64)
    for _, tensor in sorted(results.items()):
        if tensor.is_floating_point():
            weights = torch.randn(tensor.shape, generator=random, dtype=torch.float64)
            total = total + (tensor * weights.to(tensor.dtype)).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    results = {name: tensor.detach() for name, tensor in results.items()}
    return results | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}
