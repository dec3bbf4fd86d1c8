"""Turns: whatever sequences are ready step together, those that wait longest first, each with one step under way."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from time import perf_counter

from treadle.serving.counts import Counts
from treadle.serving.options import Options
from treadle.serving.sequences import Act, Sequence, Steps

LONG = 1e-3
"""Seconds: turns that take longer leave the event loop, which has other clients to listen to."""

AT_ONCE, AT_ONCE_IN_LINE = 5e-5, 1.5e-5
"""Seconds: turns that take less are taken when they are asked for, if nobody waits: to wait for others costs more.

Where clients wait in line, others come at the same time more often.
"""

Job = Steps | Act


class Verdict(Enum):
    """What is to be done with a job whose turn it is."""

    RUN = 1
    ANSWERED = 2
    """It has its answer already, without a step."""
    PARKED = 3
    """Something has to be fetched first; the sequence gets a turn when it is `release`d."""


class Scheduler:
    """Gives sequences their turns.

    A sequence has one place in the queue, however much is asked of it, so that nobody starves: after its turn it goes
    to the end. All that touches the pool of sessions happens within a turn, and there is one turn at a time.

    Attributes:
        begin: decides on a job whose turn it is at that moment; to be set before there is one.
        queued: jobs that are not complete.
        seconds: of a turn with steps, as they have been lately.
        shortest: likewise, of the shortest.

    Args:
        options: how many rows, how long to wait for more.
        work: takes a turn: jobs of different sequences; in a thread, if turns take long. How many of them stepped, and
            how many steps that were.
        finish: is given the jobs that are complete, and the time; it has to `release` each one's sequence.
        rest: is told of a sequence that does not live, and of which nothing is asked any more.
        counts: what is written down.
    """

    def __init__(
        self,
        options: Options,
        work: Callable[[list[Job]], tuple[int, int]],
        finish: Callable[[list[Job], float], None],
        rest: Callable[[Sequence], None],
        counts: Counts,
    ):
        self.options, self.counts = options, counts
        self.work, self.finish, self.rest = work, finish, rest
        self.begin: Callable[[Job, float], Verdict]
        self.ready: deque[Sequence] = deque()
        self.queued = 0
        self.seconds = self.shortest = 0.0
        self._scheduled = self._running = False
        self._thread: ThreadPoolExecutor | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, job: Job, at_once: bool = False) -> None:
        """Ask for something of a sequence, after whatever it was asked for before.

        With ``at_once``, its turn is taken before this returns, if no other is waiting.
        """
        sequence = job.sequence
        sequence.jobs.append(job)
        self.queued += 1
        if sequence.busy:
            return
        sequence.busy = True
        self.ready.append(sequence)
        if at_once and len(self.ready) == 1 and not self._running:
            self._turn()
        else:
            self._wake()

    def takes_at_once(self, in_line: bool) -> bool:
        """Whether a turn would be taken where it is asked for: a short one, and nobody waits."""
        if self.ready or self._running or self.options.wait:
            return False
        return self.shortest < (AT_ONCE_IN_LINE if in_line else AT_ONCE)

    def expected_wait(self) -> float:
        """Seconds until a request that comes now would be answered."""
        return self.seconds * (1 + self.queued / self.options.rows)

    def release(self, sequence: Sequence) -> None:
        """A sequence has nothing under way any more: its next job may have a turn."""
        if sequence.jobs:
            self.ready.append(sequence)
            self._wake()
        else:
            sequence.busy = False
            if sequence.slot is None:
                self.rest(sequence)

    def close(self) -> None:
        """Wait for the turn that is under way; there will be no more in a thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    def _wake(self) -> None:
        if self._running or self._scheduled or not self.ready:
            return
        self._scheduled = True
        if self.options.wait and len(self.ready) < self.options.rows:
            self._loop.call_later(self.options.wait, self._turn)
        else:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        batch = self._take(perf_counter())
        if not batch:
            self._wake()
            return
        self._running = True
        if self.seconds < LONG:
            self._done(batch, self._timed(batch))
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "treadle-steps")
        future = self._loop.run_in_executor(self._thread, self._timed, batch)
        future.add_done_callback(lambda _: self._done(batch, perf_counter()))  # also where the work has failed

    def _take(self, now: float) -> list[Job]:
        batch: list[Job] = []
        while self.ready and len(batch) < self.options.rows:
            sequence = self.ready.popleft()
            verdict = Verdict.ANSWERED
            while sequence.jobs:
                job = sequence.jobs[0]
                verdict = self.begin(job, now)
                if verdict is not Verdict.ANSWERED:
                    break
                # What `begin` has put before it, it has put there in its stead.
                if sequence.jobs and sequence.jobs[0] is job:
                    self.drop(job)
            if verdict is Verdict.RUN:
                batch.append(sequence.jobs[0])
            elif verdict is Verdict.ANSWERED:
                sequence.busy = False
                if sequence.slot is None:
                    self.rest(sequence)
        return batch

    def drop(self, job: Job) -> None:
        """A job is complete."""
        job.sequence.jobs.popleft()
        self.queued -= 1

    def _timed(self, batch: list[Job]) -> float:
        """Take a turn; when it ended."""
        start = perf_counter()
        rows, steps = self.work(batch)
        end = perf_counter()
        if steps:  # states that were read or written say nothing of how long steps take
            self.took(rows, steps, end - start)
        return end

    def took(self, rows: int, steps: int, seconds: float) -> None:
        """A turn has taken so long."""
        # One slow turn, such as the first, is no habit.
        self.seconds = seconds if not self.seconds else min(0.8 * self.seconds + 0.2 * seconds, 2 * self.seconds)
        # What others do with the cores makes turns longer, but none shorter.
        self.shortest = seconds if not self.shortest else min(seconds, 1.05 * self.shortest)
        self.counts.turn(rows, steps, seconds)

    def _done(self, batch: list[Job], end: float) -> None:
        complete = []
        for job in batch:
            if isinstance(job, Steps) and job.error is None and job.taken < len(job.xs):
                self.ready.append(job.sequence)
            else:
                self.drop(job)
                complete.append(job)
        try:
            self.finish(complete, end)
        finally:
            self._running = False
            if self.seconds >= LONG and len(self.ready) >= self.options.rows:
                self._turn()  # whose thread need not wait until all these answers are written
            else:
                self._wake()
