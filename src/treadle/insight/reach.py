"""How far back in time the gradient reaches, measured."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.errors import ShapeError
from treadle.generators import generators, generators_at
from treadle.insight.reach_curves import GradientReach
from treadle.protocol import State
from treadle.running.recurrent import Recurrent
from treadle.running.taken_steps import taken_steps

_STEPS = 16
"""Steps whose loss is followed back, unless some are named."""
_NUMBERS = 4_000_000
"""How many numbers the outputs of one backward pass have at most; more steps take several."""


def gradient_reach(
    rnn: Any,
    xs: Tensor,
    loss: Callable[[Tensor], Tensor] | None = None,
    steps: Sequence[int] | None = None,
    lags: int | None = None,
    state: State = None,
    lengths: Any = None,
    resets: Tensor | None = None,
    mask: Any = None,
) -> GradientReach:
    """Measure how much gradient of the loss at step t flows back to step t - k, under the network's own ``gradient=``.

    A gradient that vanishes falls with k, one that explodes rises, and the horizon of `treadle.TruncatedBPTT` is a
    cliff, which begins ``horizon - steps`` steps back and ends at ``horizon``, depending on where in its block a step
    lies.

    Time and memory: those of a training step on as many copies of ``xs`` as there are steps to follow; each copy
    follows one step, all of them in one backward pass (in several, where they are long). Nothing is left in ``.grad``.

    Source: Pascanu, Mikolov and Bengio, *On the Difficulty of Training Recurrent Neural Networks*, 2013.

    Args:
        rnn: a `treadle.Recurrent` or drop-in; in evaluation mode, unless random masks should take part.
        xs: [B, T, I] as the network takes it.
        loss: from outputs [B, T, H] to the losses of all steps, [B, T] (both [T, B] if the network is not
            ``batch_first``), each from the output of its own step. Without it, the loss is the output along a random
            direction of length one, different at each step.
        steps: which steps' losses to follow; up to 16 in the second half of the sequence, unless given.
        lags: how far to look, K; as far as the first of the steps has a past, unless given.
        state: as `treadle.Recurrent` takes it.
        lengths: likewise. Rows that have ended before a step do not count for it.
        resets: likewise.
        mask: likewise. Where it is false, a row has no step whose loss could be followed, or that could be reached.

    Raises:
        ShapeError: there are no rows or steps, or a loss is not one number a step.
        ValueError: a step that the sequence does not have; ``lags`` is not positive.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.LSTMCell(2, 8), gradient=td.TruncatedBPTT(steps=5, horizon=10))
        >>> reach = td.gradient_reach(rnn, torch.randn(4, 40, 2))
        >>> bool(reach.states[9] > 0), bool(reach.states[10] > 0)
        (True, False)
        >>> reach.plot("reach.svg").name
        'reach.svg'
    """
    rnn = states.over_time(rnn)
    rnn.check_input(xs, 2, "sequence")
    if not rnn.batch_first:
        xs = xs.transpose(0, 1)
    rows, length = xs.shape[:2]
    if not rows or not length:
        raise ShapeError(f"there is nothing to follow in {rows} rows of {length} steps: pass at least one of each")
    if steps is None:
        steps = np.unique(np.linspace(length // 2, length - 1, _STEPS).round().astype(int)).tolist()
    steps = [int(step) for step in steps]  # pyright: ignore[reportOptionalIterable]
    wrong = next((step for step in steps if not 0 <= step < length), None)
    if wrong is not None or not steps:
        what = "none was passed" if wrong is None else f"{wrong} was passed"
        raise ValueError(f"steps are numbers from 0 to {length - 1}, but {what}")
    lags = min(steps) + 1 if lags is None else lags
    if lags < 1:
        raise ValueError(f"lags is a positive whole number, but is {lags}")
    device = xs.device
    lengths = rnn.checked_lengths(lengths, xs.transpose(0, 1))
    resets = None if resets is None else rnn.checked_resets(resets, xs.transpose(0, 1)).T
    everywhere = torch.ones(rows, length, dtype=torch.bool, device=device)
    taken = taken_steps(everywhere if mask is None else mask, lengths, xs.transpose(0, 1)).mask
    mask = None if mask is None else taken

    probed = Recurrent(_Probed(rnn, xs), True, rnn.gradient, "auto" if rnn.engine == "cpu" else rnn.engine)
    like = states.initial_state(rnn, xs[:, 0])
    state = states.detach(like if state is None else state)
    inputs = xs.detach().reshape(rows, length, -1)
    with generators_at(device, generators(device)):
        from_above = _from_above(rnn, xs, loss, state, lengths, resets, mask)
        from_above = torch.where(taken.reshape(rows, length, *[1] * (from_above.ndim - 2)), from_above, 0)
        group = max(1, _NUMBERS // max(1, from_above.numel()))
        sums = torch.zeros(2, lags, dtype=torch.float64)
        counts = torch.zeros(lags, dtype=torch.float64)
        for first in range(0, len(steps), group):
            some = steps[first : first + group]
            squares = _squares(probed, inputs, from_above, some, state, lengths, resets, mask)
            for step, of_step in zip(some, squares, strict=True):
                count = min(lags, step + 1)
                sums[:, :count] += of_step[:, : step + 1].flip(1)[:, :count]
                both = taken[:, : step + 1] & taken[:, step, None]
                counts[:count] += both.sum(0).flip(0)[:count].cpu()
    norms = (sums / counts.clamp(min=1)).sqrt().numpy()
    followed = norms[1] if xs.is_floating_point() else None
    return GradientReach(norms[0], followed, np.array(steps), repr(rnn.gradient))


def _squares(
    rnn: Any, inputs: Tensor, from_above: Tensor, steps: list[int], state: State, lengths: Any, resets: Any, mask: Any
) -> Tensor:
    """[len(steps), 2, T]: the squared norms of the gradients of states and inputs, summed over rows."""
    copies, rows = len(steps), len(inputs)
    size = rnn.cell.state_size

    def copied(tensor: Tensor) -> Tensor:
        return tensor.repeat(copies, *[1] * (tensor.ndim - 1))

    dtype = from_above.dtype
    nothing = torch.zeros(copies * rows, inputs.shape[1], size, dtype=dtype, device=inputs.device)
    xs = torch.cat([copied(inputs).to(dtype), nothing], 2).requires_grad_()
    above = torch.zeros(copies * rows, *from_above.shape[1:], dtype=dtype, device=inputs.device)
    for i, step in enumerate(steps):
        above[i * rows : (i + 1) * rows, step] = from_above[:, step]
    with torch.enable_grad():
        given = {"lengths": lengths, "resets": resets, "mask": mask}
        given = {name: None if tensor is None else copied(tensor) for name, tensor in given.items()}
        ys, _ = rnn(xs, states.map_state(copied, state), **given)
        (found,) = torch.autograd.grad(ys, xs, above)
    found = found.double().square().reshape(copies, rows, *found.shape[1:]).sum(1)
    width = inputs.shape[2]
    return torch.stack([found[..., width:].sum(-1), found[..., :width].sum(-1)], 1).cpu()


def _from_above(rnn: Any, xs: Tensor, loss: Any, state: State, lengths: Any, resets: Any, mask: Any) -> Tensor:
    """The gradient of each step's loss with respect to its own output, [B, T, ...]."""
    with torch.no_grad():
        ys, _ = rnn(xs if rnn.batch_first else xs.transpose(0, 1), state, lengths, resets, mask=mask)
    if loss is None:
        random = torch.Generator().manual_seed(0)
        above = torch.randn(ys.shape, generator=random, dtype=torch.float64).to(ys)
        lengths_of_all = above.reshape(*ys.shape[:2], -1).norm(dim=2).clamp(min=1e-30)
        above /= lengths_of_all.reshape(*ys.shape[:2], *[1] * (ys.ndim - 2))
    else:
        with torch.enable_grad():
            leaf = ys.detach().requires_grad_()
            losses = loss(leaf)
            if losses.shape != ys.shape[:2]:
                raise ShapeError(
                    f"loss gives one number for each step, {list(ys.shape[:2])}, but gave {states.shape(losses)}: use"
                    " reduction='none'"
                )
            (above,) = torch.autograd.grad(losses.sum(), leaf)
    return above if rnn.batch_first else above.transpose(0, 1)


class _Probed(nn.Module):
    """A cell that reads, besides its input, what is added to its state: the gradient of that is the state's."""

    def __init__(self, rnn: Any, xs: Tensor):
        super().__init__()
        self.cell = rnn.cell
        self.begin: Any
        self.__dict__["begin"] = rnn.initial_state  # the network itself is no part of this module
        self.row, self.is_floating = tuple(xs.shape[2:]), xs.is_floating_point()
        self.width = math.prod(self.row)
        like = states.named_tensors(states.detach(rnn.initial_state(1)))
        self.added = [(name, tuple(t.shape[1:]), t.numel()) for name, t in like if t.is_floating_point()]
        self.state_size = sum(size for _, _, size in self.added)

    def initial_state(self, batch_size: int) -> State:
        return self.begin(batch_size)

    def forward(self, x: Tensor, state: State) -> Any:
        rows = x.shape[0]
        row = x[:, : self.width].reshape(rows, *self.row)
        row = row if self.is_floating else row.round().long()
        parts, begin = dict(states.named_tensors(state)), self.width
        for name, shape, size in self.added:
            parts[name] = parts[name] + x[:, begin : begin + size].reshape(rows, *shape)
            begin += size
        return self.cell(row, states.rebuild(state, parts))
