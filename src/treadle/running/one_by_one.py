"""Rows that are stepped one after another by one session, where no kernel steps them at once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from treadle import state as states
from treadle.running.session import Session


class OneByOne:
    """States of many rows, and a session of one row that takes over that of each in turn: a `LivePool`.

    Args:
        session: the session; its numbers are those of every row.
        capacity: rows.
    """

    def __init__(self, session: Session, capacity: int):
        self.session, self._like = session, session.state
        self._state = {
            name: torch.zeros(capacity, *row.shape[1:], dtype=row.dtype, device=row.device)
            for name, row in states.named_tensors(self._like)
        }

    def named(self) -> dict[str, Tensor]:
        """The states by name: the memory itself, until `grow`."""
        return self._state

    def grow(self, capacity: int) -> None:
        """Make room for more rows."""
        before = self._state
        self._state = {name: old.new_zeros(capacity, *old.shape[1:]) for name, old in before.items()}
        for name, old in before.items():
            self._state[name][: len(old)] = old

    def step(self, slots: np.ndarray, x: Tensor) -> Tensor:
        """One step of the rows ``slots`` on x [n, ...]. If one of them fails, no state has changed."""
        return torch.cat(self._each(slots, self.session.step, x.split(1))) if len(x) else x.new_zeros(0)

    def steps(self, slots: np.ndarray, xs: Sequence[Tensor]) -> list[Tensor]:
        """A block of steps [T, ...] of each of the rows ``slots``. If one of them fails, no state has changed."""
        batch_axis = 0 if self.session.batch_first else 1
        blocks = self._each(slots, self.session.steps, [x.unsqueeze(batch_axis) for x in xs])
        return [block.squeeze(batch_axis) for block in blocks]

    def _each(self, slots: np.ndarray, run: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        answers, after = [], []
        for slot, x in zip(slots.tolist(), inputs, strict=True):
            self.session.load(states.rebuild(self._like, {n: t[slot : slot + 1] for n, t in self._state.items()}))
            answers.append(run(x).clone())
            after.append((slot, states.named_tensors(self.session.state)))
        for slot, state in after:
            for name, row in state:
                self._state[name][slot] = row[0]
        return answers
