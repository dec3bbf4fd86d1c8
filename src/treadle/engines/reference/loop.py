"""A plain loop over time."""

from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from treadle.protocol import State
from treadle.state import check_kept, map_state, where


def run(
    cell: Any,
    initial: State,
    xs: Shaped[Tensor, "T B *row"],
    state: State,
    lengths: Int[Tensor, " B"] | None = None,
    resets: Bool[Tensor, "T B"] | None = None,
    return_states: bool = False,
) -> tuple[Shaped[Tensor, "T B *y"], State, State | None]:
    """Step a cell over a sequence.

    Args:
        cell: the cell.
        initial: the initial state of all rows, for resets.
        xs: [T, B, ...], T at least 1.
        state: the state before the first step.
        lengths: [B] whole numbers; past its end a row's state stands still and its outputs are zero.
        resets: [T, B] booleans; a row starts anew before reading that step.
        return_states: whether to keep the state after every step.

    Returns:
        Outputs [T, B, ...], the state after the last step, and the states after every step with time first, or None.
    """
    steps = xs.shape[0]
    everyone_until = steps
    if lengths is not None:
        active = torch.arange(steps, device=xs.device)[:, None] < lengths  # [T, B]
        everyone_until = int(lengths.min()) if lengths.numel() else steps
        # Padding may hold anything, NaN or tokens that do not exist; it must reach neither values nor gradients. In its
        # place stands the row's last step, which the cell can take for certain; zeros might be where it divides by 0.
        at_end = (lengths - 1).clamp(min=0)
        last = xs.detach()[at_end, torch.arange(xs.shape[1], device=xs.device)]
        last = where(lengths > 0, last, torch.zeros_like(last))
        xs = torch.where(active.reshape(*active.shape, *[1] * (xs.ndim - 2)), xs, last)
        if resets is not None:
            resets = resets & active
    some_reset = resets.any(1).tolist() if resets is not None else [False] * steps

    ys, states = [], []
    for t in range(steps):
        if some_reset[t]:
            state = where(resets[t], initial, state)  # pyright: ignore[reportOptionalSubscript]
        y, after = cell(xs[t], state)
        if t == 0:
            after = check_kept(cell, after, state)
        if t >= everyone_until:
            y = where(active[t], y, torch.zeros_like(y))  # pyright: ignore[reportPossiblyUnboundVariable]
            after = where(active[t], after, state)  # pyright: ignore[reportPossiblyUnboundVariable]
        state = after
        ys.append(y)
        if return_states:
            states.append(state)
    every = map_state(lambda *moments: torch.stack(moments), states[0], *states[1:]) if return_states else None
    return torch.stack(ys), state, every
