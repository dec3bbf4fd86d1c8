"""The engine that defines what is meant: the cell's own Python, one step after another."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from treadle.engines.call import Call, Result
from treadle.engines.engine import Engine
from treadle.state import check_kept, check_results, map_state, where


class Reference(Engine):
    """Takes every cell, and has no use for a program."""

    name = "reference"
    by_program = False


def run(call: Call) -> Result:
    """Step a cell over a sequence."""
    cell, state, lengths = call.cell, call.state, call.lengths
    xs, resets, active = without_padding(call)
    steps = xs.shape[0]
    everyone_until = int(lengths.min()) if lengths is not None and lengths.numel() else steps
    everyone_until = everyone_until if call.mask is None else 0
    some_reset = resets.any(1).tolist() if resets is not None else [False] * steps

    ys, states = [], []
    # Where gradients are wanted, all steps are taken out at once after the first one: of each taken by itself, the
    # backward pass would be as large as the sequence. But PyTorch lets nobody write into what was taken out like that.
    at_once = steps > 1 and torch.is_grad_enabled() and xs.requires_grad
    version = xs._version if at_once else 0
    xs_of_steps = cast(Sequence[Tensor], xs)
    for t in range(steps):
        if t == 1 and at_once and xs._version == version:
            xs_of_steps = xs.unbind(0)
        x = xs_of_steps[t]
        if some_reset[t]:
            state = where(resets[t], call.initial, state)  # pyright: ignore[reportOptionalSubscript]
        y, after = check_results(cell, cell(x, state))
        if t == 0:
            after = check_kept(cell, after, state)
        if t >= everyone_until:
            y = where(active[t], y, torch.zeros_like(y))  # pyright: ignore[reportOptionalSubscript]
            after = where(active[t], after, state)  # pyright: ignore[reportOptionalSubscript]
        state = after
        ys.append(y)
        if call.return_states:
            states.append(state)
    every = map_state(lambda *moments: torch.stack(moments), *states) if states else None
    # Cells may give a tensor twice, or what they were given, and callers may write into what they get.
    return Result(torch.stack(ys), map_state(Tensor.clone, state), every)


def without_padding(call: Call) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The sequence with what any cell can take in the place of padding; the resets; and where there is no padding.

    Padding, which steps that are not taken are as well, may hold anything, NaN or tokens that do not exist; it must
    reach neither values nor gradients. In its place stands the last step that the row takes, which the cell can take
    for certain; zeros might be where it divides by 0.
    """
    xs, lengths, resets = call.xs, call.lengths, call.resets
    if lengths is None:
        return xs, resets, None
    steps = torch.arange(xs.shape[0], device=xs.device)[:, None]
    active = steps < lengths if call.mask is None else call.mask  # [T, B]
    at_end = (steps * active).amax(0)
    last = xs.detach()[at_end, torch.arange(xs.shape[1], device=xs.device)]
    last = where(active.any(0), last, torch.zeros_like(last))
    xs = torch.where(active.reshape(*active.shape, *[1] * (xs.ndim - 2)), xs, last)
    return xs, None if resets is None else resets & active, active
