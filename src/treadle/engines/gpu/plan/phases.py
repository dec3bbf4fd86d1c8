"""The launches of `Mode.STEPS`: one for each phase of each step, those of many steps captured once as a CUDA graph.

Kernels read from a table in memory where their tensors are, and which step it is. So a graph that was captured in one
call runs every call with as many blocks of rows, whatever its tensors and however many steps it has.
"""

import dataclasses
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from treadle.engines.gpu.plan.capture import captured, is_capturing

AT_ONCE = 16
"""Steps of a graph."""


@dataclasses.dataclass(frozen=True)
class Launcher:
    """How a kernel is launched for a number of blocks, with or without lengths and resets.

    Args:
        launch: launches a phase of the step that is so many after the one in the table.
        phases: those of a step; there is one before the first step, which is 0.
        last: the one after the last step.
    """

    launch: Callable[[Tensor, int, int], None]
    phases: Sequence[int]
    last: int

    def steps(self, table: Tensor, count: int) -> None:
        """So many steps from the one in the table on, which is then the next."""
        for ahead in range(count):
            for phase in self.phases:
                self.launch(table, ahead, phase)
        table[-1:].add_(count)


class Phases:
    """The launches of calls that are alike, which take turns: they share a table, and a graph that reads it.

    Args:
        size: of the table.
    """

    def __init__(self, launcher: Launcher, size: int, device: torch.device):
        self.launcher, self.size, self.device, self.lock = launcher, size, device, threading.Lock()
        self.table: Tensor | None = None
        self.replay: Callable[[], object] | None = None
        self.long_calls = 0

    def run(self, write_table: Callable[[Tensor], object], steps: int) -> None:
        """A call: many steps at once by the graph, from the second such call on; what is left one by one."""
        if is_capturing(self.device):
            # As a part of a graph of somebody else, who replays it when he likes, in memory that is that graph's.
            self._run(write_table, self._new_table(), steps)
            return
        with self.lock:
            if self.table is None:
                self.table = self._new_table()
            self._run(write_table, self.table, steps, self._graph(self.table, steps))

    def _new_table(self) -> Tensor:
        return torch.empty(self.size, dtype=torch.int64, device=self.device)

    def _run(
        self,
        write_table: Callable[[Tensor], object],
        table: Tensor,
        steps: int,
        replay: Callable[[], object] | None = None,
    ) -> None:
        write_table(table)
        self.launcher.launch(table, 0, 0)
        if replay is not None:
            for _ in range(steps // AT_ONCE):
                replay()
            steps %= AT_ONCE
        self.launcher.steps(table, steps)
        self.launcher.launch(table, 0, self.launcher.last)

    def _graph(self, table: Tensor, steps: int) -> Callable[[], object] | None:
        """What replays `AT_ONCE` steps; None where it is not worth it, or kernels have not been compiled yet."""
        if steps < AT_ONCE:
            return None
        if self.long_calls == 1:
            self.replay = captured(lambda: self.launcher.steps(table, AT_ONCE), self.device)
        self.long_calls += 1
        return self.replay
