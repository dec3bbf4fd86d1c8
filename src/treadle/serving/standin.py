"""In place of the pool of sessions until it lands."""

from typing import Any

import numpy as np

from treadle import state as states


class StandIn:
    """Sessions of one network, one step after another."""

    def __init__(self, rnn: Any):
        self.session = rnn.session()
        self.initial = self.session.state
        self.kept: dict[int, Any] = {}
        self.next = 0

    def open(self) -> int:
        self.next += 1
        self.kept[self.next] = self.initial
        return self.next

    def slot(self, id: int) -> int:
        return id

    def state(self, id: int) -> Any:
        return states.map_state(lambda tensor: tensor.clone(), self.kept[id])

    def load(self, id: int, state: Any) -> None:
        self.session.load(state)
        self.kept[id] = self.session.state

    def reset(self, id: int) -> None:
        self.kept[id] = self.initial

    def close(self, id: int) -> None:
        del self.kept[id]

    def step_rows(self, slots: Any, xs: Any) -> Any:
        ys = []
        for slot, x in zip(slots, xs, strict=True):
            self.session.load(self.kept[slot])
            ys.append(np.array(self.session.step(x)))
            self.kept[slot] = self.session.state
        return np.stack(ys)
