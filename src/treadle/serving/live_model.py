"""One version of a model, live: its sessions, its turns, and what becomes of what is asked of it."""

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from treadle.errors import TreadleError
from treadle.serving.beginnings import Beginnings
from treadle.serving.keeper import Keeper
from treadle.serving.memory import Memory
from treadle.serving.refusals import Kind, Refused
from treadle.serving.scheduler import Job, Scheduler
from treadle.serving.sequences import Act, Answer, Sequence, Steps
from treadle.serving.sessions import Sessions
from treadle.serving.version import Version

logger = logging.getLogger("treadle.serving")


class LiveModel:
    """One version of a model, live; what is compiled, is compiled when it is made.

    Args:
        version: the network, and who has a sequence of it.
        keeper: what keeps their states; None if nothing does.
    """

    def __init__(self, version: Version, keeper: Keeper | None = None):
        self.version, self.keeper = version, keeper
        self.name, self.number, self.meaning = version.name, version.number, version.meaning
        self.counts, self.living = version.counts, version.living
        self.sessions = Sessions(version)
        self.successor: LiveModel | None = None

    def start(self) -> None:
        """Begin to take turns, on the event loop that runs."""
        self.scheduler = Scheduler(self.version.options, self.sessions.work, self._finish, self._rest, self.counts)
        self.memory = Memory(self.version, self.sessions, self.scheduler, self._complete, self.keeper)
        self.scheduler.begin = Beginnings(self.version, self.memory, self._hand_over).decide

    @property
    def busy(self) -> bool:
        """Whether something is asked of one of its sequences."""
        return self.scheduler.queued > 0

    def close(self) -> None:
        """Wait for the turn that is under way, and let go of the network."""
        self.scheduler.close()
        self.sessions.let_go()

    def add(self, job: Job, at_once: bool = False) -> None:
        """Ask for something of a sequence of this version; ``at_once`` as in `Scheduler.add`."""
        if self.successor is not None and job.sequence.slot is None and not job.sequence.busy:
            self.successor.add(job, at_once)
        else:
            self.scheduler.add(job, at_once)

    def step_at_once(self, sequence: Sequence, x: NDArray[Any], now: float) -> Answer | None:
        """The answer to a step [1, ...] that nothing stands against, without a place in the queue.

        To be asked where `Scheduler.takes_at_once`. None, and nothing has happened, where it has to be `add`ed.
        """
        if sequence.slot is None or sequence.busy or len(x) != 1 or self.keeper is not None:
            return None
        try:
            ys = self.sessions.step_one(sequence.slot, x)
        except Exception:
            return None  # and it fails once more in its turn, in which that is explained
        end = perf_counter()
        answer = Answer(ys, sequence.position, sequence.reset)
        sequence.position += 1
        sequence.used, sequence.kept, sequence.reset = now, None, False
        self.scheduler.took(1, 1, end - now)
        self.counts.answer(now, end)
        return answer

    def end(self, sequence: Sequence, reason: str, answered: Callable[[Any], None] | None = None) -> None:
        """End a sequence after what was asked of it, for a reason.

        Args:
            sequence: which one.
            reason: why, a key of `REASONS`.
            answered: is given whether it was alive, where a client asks for it.
        """

        def work(sessions: Sessions, act: Act) -> bool:
            if sequence.slot is None:
                return False
            sessions.close(sequence)
            sessions.version.ended(sequence, reason)
            act.changed = True
            return True

        self.add(Act(sequence, work, answered or (lambda result: None), asked=answered is not None))

    def _hand_over(self, sequence: Sequence) -> bool:
        """Give what is asked of a sequence that has ended to the version that came after this one."""
        if self.successor is None:
            return False
        jobs = list(sequence.jobs)
        for job in jobs:
            self.scheduler.drop(job)
        sequence.busy = False
        for job in jobs:
            self.successor.add(job)
        return True

    # What becomes of a job that is complete.

    def _finish(self, jobs: list[Job], now: float) -> None:
        to_keep: list[Job] = []
        for job in jobs:
            if isinstance(job, Steps) and job.error is None:
                self._note(job, now)
            if self.keeper is not None and self._has_to_be_kept(job):
                to_keep.append(job)
            else:
                self._complete(job, now)
        if to_keep:
            self.memory.keep(to_keep)

    def _has_to_be_kept(self, job: Job) -> bool:
        if isinstance(job, Act):
            return job.changed
        is_taken = job.error is None and job.sequence.key is not None
        return is_taken and self.memory.has_to_keep(job.sequence, job.end)

    def _note(self, job: Steps, now: float) -> None:
        """What a sequence remembers of a request."""
        sequence = job.sequence
        sequence.used = now
        if sequence.key is None:
            return
        sequence.kept = None if job.step is None else job.kept()
        if job.end:
            self.version.ended(sequence, "ended")

    def _complete(self, job: Job, now: float) -> None:
        """Answer, and let the sequence have its next turn."""
        sequence = job.sequence
        if job.error is not None:
            job.answered(self._explained(job))
        elif isinstance(job, Act):
            job.answered(job.result)
        else:
            self.counts.answer(job.arrived, now)
            job.answered(Answer(job.ys, job.first, sequence.reset))
            sequence.reset = False
        if sequence.slot is None:
            self.living.discard(sequence)
        self.scheduler.release(sequence)

    def _explained(self, job: Job) -> Exception:
        """What a client is told of an error."""
        error = job.error
        where = f"{job.sequence}" + (f", step {job.sequence.position}" if isinstance(job, Steps) else "")
        if isinstance(error, Refused):
            return error
        if isinstance(error, (TreadleError, ValueError, IndexError)):
            return Refused(Kind.MALFORMED, f"{where}: {error}")
        logger.error("%s failed at %s", self.name, where, exc_info=error)
        return Refused(Kind.FAILED, f"{where}: the model failed with a {type(error).__name__}")

    def _rest(self, sequence: Sequence) -> None:
        """A sequence that is over, and of which nothing is asked, need not be known any more."""
        if self.version.sequences.get(sequence.key) is sequence:  # pyright: ignore[reportArgumentType]
            del self.version.sequences[sequence.key]  # pyright: ignore[reportArgumentType]
