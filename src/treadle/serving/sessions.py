"""The sessions of one version of a model, and what a turn does with them."""

from typing import Any

import numpy as np

from treadle import state as states
from treadle.serving.scheduler import Job
from treadle.serving.sequences import Act, Kept, Sequence, Steps
from treadle.serving.version import Version

QUANTUM = 16
"""Steps of a block that are taken in one turn: a client that sends long blocks must not keep the others waiting."""


class Sessions:
    """The sessions of one version of a model. Everything here happens within a turn, one at a time.

    Args:
        version: whose they are.
    """

    def __init__(self, version: Version):
        self.version = version
        self.initial = states.detach(version.rnn.initial_state(1))
        self._pool: Any = version.rnn.sessions(limit=None)
        self._warm_up(version.options.rows)

    def let_go(self) -> None:
        """Give back the memory of the network: a server is never collected, and what was replaced would stay."""
        self._pool = self.version.rnn = None

    def _warm_up(self, most: int) -> None:
        """Compile before the first client waits for it."""
        meaning = self.version.meaning
        for rows in (1, most):
            sessions = [self._pool.open() for _ in range(rows)]
            slots = [self._pool.slot(one) for one in sessions]
            self._pool.step_rows(slots, np.zeros((rows, *meaning.row), meaning.dtype))
            for one in sessions:
                self._pool.close(one)

    def work(self, batch: list[Job]) -> int:
        """Take a turn: a step, or some of a block, of each sequence; how many steps that were."""
        stepping: list[Steps] = []
        for job in batch:
            try:
                if isinstance(job, Act):
                    job.result = job.work(self, job)
                    continue
                if job.fresh:
                    self.begin(job.sequence)
                    job.fresh = False
                if job.taken < len(job.xs):
                    stepping.append(job)
            except Exception as error:
                job.error = error
        steps = 0
        for _ in range(QUANTUM):
            if not stepping:
                break
            steps += len(stepping)
            self._step(stepping)
            stepping = [job for job in stepping if job.error is None and job.taken < len(job.xs)]
        for job in batch:
            failed = job.error is not None and job.sequence.key is None
            if isinstance(job, Steps) and (failed or (job.end and job.error is None and job.taken == len(job.xs))):
                self.close(job.sequence)
        return steps

    def begin(self, sequence: Sequence) -> None:
        """Put a sequence into the initial state."""
        if sequence.slot is None:
            sequence.session = self._pool.open()
            sequence.slot = self._pool.slot(sequence.session)
        else:
            self._pool.reset(sequence.session)
        self.version.counts.begun += sequence.key is not None
        sequence.position, sequence.kept, sequence.stamp = 0, None, None
        # What the store has of this name is of a sequence that is over: the first step replaces it, whatever is due.
        sequence.saved = -self.version.options.keep_every

    def close(self, sequence: Sequence) -> None:
        """Give back the place of a sequence; within a turn."""
        if sequence.slot is not None:
            self._pool.close(sequence.session)
            sequence.slot = sequence.session = None

    def _step(self, jobs: list[Steps]) -> None:
        """One step of each of some sequences."""
        if len(jobs) == 1:
            xs = jobs[0].xs[jobs[0].taken : jobs[0].taken + 1]
        else:
            xs = np.stack([job.xs[job.taken] for job in jobs])
        try:
            ys = self._pool.step_rows([job.sequence.slot for job in jobs], xs)
        except Exception as error:
            # It was refused as a whole, and no state has changed: whose row it was shows if each steps alone.
            if len(jobs) == 1:
                jobs[0].error = error
            else:
                for job in jobs:
                    self._step([job])
            return
        for row, job in enumerate(jobs):
            if len(job.xs) == 1:
                job.ys = ys[row : row + 1]
            else:
                if job.ys is None:
                    job.ys = np.empty((len(job.xs), *ys.shape[1:]), ys.dtype)
                job.ys[job.taken] = ys[row]
            job.taken += 1
            job.sequence.position += 1

    def load(self, sequence: Sequence, state: Any, position: int, kept: Kept | None = None) -> None:
        """Continue a sequence from a state, at a position; within a turn."""
        state = states.check_state(state, self.initial, 1, self.version.name)
        if sequence.slot is None:
            sequence.session = self._pool.open()
            sequence.slot = self._pool.slot(sequence.session)
            self.version.living.add(sequence)
            self.version.counts.begun += 1
        self._pool.load(sequence.session, state)
        sequence.position, sequence.kept, sequence.saved = position, kept, -self.version.options.keep_every

    def state(self, sequence: Sequence) -> Any:
        """The state of a sequence; within a turn."""
        return self._pool.state(sequence.session)
