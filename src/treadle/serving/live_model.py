"""One version of a model, live: its sessions, its turns, and what becomes of what is asked of it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from treadle.errors import TreadleError
from treadle.serving.beginnings import Beginnings
from treadle.serving.keeper import Keeper
from treadle.serving.memory import Memory
from treadle.serving.refusals import Kind, Refused
from treadle.serving.scheduler import Job, Scheduler, Verdict
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
        self.loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(
            self.version.options, self._decide, self.sessions.work, self._finish, self._rest, self.counts
        )
        self.memory = Memory(self.version, self.sessions, self.scheduler, self._complete, self.keeper)
        self._beginnings = Beginnings(self.version, self.memory, self._hand_over)

    def _decide(self, job: Job) -> Verdict:
        return self._beginnings.decide(job)

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

    def _finish(self, jobs: list[Job]) -> None:
        to_keep: list[Job] = []
        now, keeps = self.loop.time(), self.keeper is not None
        for job in jobs:
            if isinstance(job, Steps):
                if job.error is None:
                    self._note(job, now)
                    if keeps and job.sequence.key is not None and self.memory.has_to_keep(job.sequence, job.end):
                        to_keep.append(job)
                        continue
            elif keeps and job.changed:
                to_keep.append(job)
                continue
            self._complete(job)
        if to_keep:
            self.memory.keep(to_keep)

    def _note(self, job: Steps, now: float) -> None:
        """What a sequence remembers of a request."""
        sequence = job.sequence
        sequence.used = now
        if sequence.key is None:
            return
        sequence.kept = None if job.step is None else job.kept()
        if job.end:
            self.version.ended(sequence, "ended")

    def _complete(self, job: Job) -> None:
        """Answer, and let the sequence have its next turn."""
        if job.error is not None:
            job.answered(self._explained(job))
        elif isinstance(job, Act):
            job.answered(job.result)
        else:
            self.counts.answer(self.loop.time() - job.arrived)
            job.answered(Answer(job.ys, job.first, job.sequence.reset))
            job.sequence.reset = False
        if job.sequence.slot is None:
            self.living.discard(job.sequence)
        self.scheduler.release(job.sequence)

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
