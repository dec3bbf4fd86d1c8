"""The states of many sessions, and one step for any of them at once: rows are gathered and scattered by the kernel."""

import functools
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.plan.array_door import ArrayDoor, array_door
from treadle.engines.cpu.plan.live_operands import LiveOperands, LiveWeights
from treadle.engines.cpu.plan.live_step import FEW_ROWS, WORTH_A_THREAD
from treadle.engines.cpu.plan.pool_call import PoolCall
from treadle.engines.layout import Layout
from treadle.engines.network import Network
from treadle.engines.passes.rows import contiguous

_FIRST_ROOM = 16
_SHORT = 60_000
"""Vector operations of a step, of all rows, up to which Python's lock is kept: to take it again may take as long."""


class LivePool:
    """[capacity, ...] of each state, and a network's step for some of its rows.

    A row's numbers are those of a `LiveStep`, bit for bit: both are made of one lowered kernel, in which nothing that
    is computed for a row depends on other rows or on how many there are.

    Args:
        network: whose step it is.
        weights: what it computes with; other steps read the same.
        names: of the states.
        capacity: rows.

    Attributes:
        one_row_is_short: whether the step of a row is always that of one thread, and takes microseconds.
    """

    def __init__(self, network: Network, weights: LiveWeights, names: Sequence[str], capacity: int):
        self.network, self.weights, self.names = network, weights, names
        self.state = weights.states(capacity)
        self._cost = weights.one.compiled.row_cost
        self.one_row_is_short = self._cost < 2 * WORTH_A_THREAD
        self._make_room(_FIRST_ROOM)

    def named(self) -> dict[str, Tensor]:
        """The states by name: the memory itself, until `grow`."""
        return dict(zip(self.names, self.state, strict=True))

    def grow(self, capacity: int) -> None:
        """Make room for more rows; those that are there keep their states."""
        before, self.state = self.state, self.weights.states(capacity)
        for old, new in zip(before, self.state, strict=True):
            new[: len(old)] = old
        self._make_room(self.call.room)

    def step(self, slots: np.ndarray, x: Tensor) -> Tensor:
        """One step of the rows ``slots``, all of them others, on x [n, ...]; the answers [n, ...]."""
        self.weights.input.check(x)
        rows = self.take(slots)
        self.call.x[:rows].copy_(x)
        self.run(rows)
        return torch.from_numpy(self.answers(rows))

    def steps(self, slots: np.ndarray, xs: Sequence[Tensor]) -> list[Tensor]:
        """A block of steps [T, ...] of each of the rows ``slots``, all of them others; T may differ."""
        for x in xs:
            self.weights.input.check(x)
        lengths = torch.tensor([len(x) for x in xs], device="cpu")
        layout = Layout(int(lengths.max()), len(xs), lengths)
        packed = contiguous(layout.packed(pad_sequence([*xs])), self.call.x.dtype)
        y = self.call.y
        ys = y.new_empty(layout.rows, *y.shape[1:])
        if layout.rows:
            self.take(slots if layout.order is None else slots[layout.order.numpy()])
            self.call.steps(layout, address(packed), address(ys), self._parts(layout.batch))
        return [row[:length] for row, length in zip(layout.padded(ys).unbind(1), lengths.tolist(), strict=True)]

    def door(self, slots: dict[Hashable, int]) -> ArrayDoor | None:
        """A faster way in, see `ArrayDoor`."""
        return array_door(self, slots)

    def take(self, slots: np.ndarray) -> int:
        """Take down which rows are meant; returns how many."""
        rows = len(slots)
        self.make_room_for(rows)
        self.call.index[:rows] = slots
        return rows

    def run(self, rows: int) -> None:
        """A step of so many rows that were taken down, with their inputs."""
        key = rows, torch.get_num_threads()
        found = self._ways.get(key)
        if found is None:
            found = self._ways[key] = self._way(rows)
        self.call(rows, *found)

    def _way(self, rows: int) -> tuple[int, bool, bool]:
        """How many threads take a step of so many rows, whether they share out columns, and Python's lock is kept."""
        cost = self._cost * rows
        parts = threads.count(int(cost // WORTH_A_THREAD))
        few = parts > 1 and rows < FEW_ROWS * parts and rows <= self.call.block
        return parts if few else min(parts, rows), few, cost < _SHORT

    def _parts(self, rows: int) -> int:
        """How many threads share the rows of a block."""
        return threads.count(min(rows, int(self._cost * rows // WORTH_A_THREAD)))

    def run_block(self, steps: int, rows: int, xs: np.ndarray) -> np.ndarray:
        """A block of steps [T * n, I] of so many rows that were taken down; the answers [T * n, H]."""
        ys = np.empty((len(xs), *self.call.rows_of_y.shape[1:]), self.call.rows_of_y.dtype)
        layout, few = _whole_block(steps, rows), self._cost * len(xs) < _SHORT
        self.call.steps(layout, xs.ctypes.data, ys.ctypes.data, self._parts(rows), few)
        return ys

    def answers(self, rows: int) -> np.ndarray:
        """The answers of the step before, as a copy."""
        return self.call.rows_of_y[:rows].copy()

    def make_room_for(self, rows: int) -> None:
        """Make the call larger, if so many rows need that."""
        if rows > self.call.room:
            self._make_room(1 << (rows - 1).bit_length())

    @torch.inference_mode(False)  # it is written into later, outside of it, too
    def _make_room(self, room: int) -> None:
        self.call = PoolCall(LiveOperands(self.weights, self.state), room)
        self._ways: dict[tuple[int, int], tuple[int, bool, bool]] = {}


_whole_block = functools.lru_cache(maxsize=64)(Layout)
