"""The sessions of one version of a model, and what a turn does with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    def work(self, batch: list[Job]) -> tuple[int, int]:
        """Take a turn: a step, or some of a block, of each sequence; how many stepped, and how many steps that were."""
        stepping: list[Any] = [job for job in batch if self._is_to_step(job)]
        rows, steps, left = len(stepping), 0, QUANTUM
        while stepping and left:
            count = min([left, *[len(job.xs) - job.taken for job in stepping]])
            steps += count * len(stepping)
            self._step(stepping, count)
            left -= count
            stepping = [job for job in stepping if job.error is None and job.taken < len(job.xs)]
        for job in batch:
            if isinstance(job, Steps) and (job.end or job.error is not None):
                failed = job.error is not None and job.sequence.key is None
                if failed or (job.end and job.error is None and job.taken == len(job.xs)):
                    self.close(job.sequence)
        return rows, steps

    def _is_to_step(self, job: Job) -> bool:
        """Whether a job has steps to be taken, of a sequence that is begun now; whatever else there is, is done."""
        try:
            if isinstance(job, Act):
                job.result = job.work(self, job)
                return False
            if job.fresh:
                self.begin(job.sequence)
                job.fresh = False
            return job.taken < len(job.xs)
        except Exception as error:
            job.error = error
            return False

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

    def _step(self, jobs: list[Steps], count: int) -> None:
        """So many steps of each of some sequences, which all have as many before them."""
        parts = [job.xs[job.taken : job.taken + count] for job in jobs]
        try:
            ys = self._answers([job.sequence.slot for job in jobs], parts)
        except Exception as error:
            # It was refused as a whole, and no state has changed: whose row it was shows if each steps alone.
            if len(jobs) == 1:
                jobs[0].error = error
            else:
                for job in jobs:
                    self._step([job], count)
            return
        for job, found in zip(jobs, ys, strict=True):
            if len(job.xs) == count:
                job.ys = found
            else:
                if job.ys is None:
                    job.ys = np.empty((len(job.xs), *found.shape[1:]), found.dtype)
                job.ys[job.taken : job.taken + count] = found
            job.taken += count
            job.sequence.position += count

    def step_one(self, slot: int, x: NDArray[Any]) -> NDArray[Any]:
        """One step [1, ...] of the session at that place; the answer [1, ...]."""
        return self._pool.step_rows([slot], x)

    def _answers(self, slots: list[int | None], xs: list[NDArray[Any]]) -> Any:
        """What steps [T, ...] of each of some sessions give, each [T, ...]."""
        if len(xs) == 1 and len(xs[0]) == 1:
            return (self._pool.step_rows(slots, xs[0]),)
        if len(xs[0]) == 1:
            return self._pool.step_rows(slots, np.concatenate(xs))[:, None]
        return self._pool.steps_rows(slots, xs[0][None] if len(xs) == 1 else np.stack(xs))

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
