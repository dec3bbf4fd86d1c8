"""States that are kept elsewhere: when they are written, and how a sequence continues from one."""

import logging
from collections.abc import Callable
from typing import Any

from treadle.serving.keeper import Keeper
from treadle.serving.records import Record
from treadle.serving.refusals import Kind, Refused
from treadle.serving.scheduler import Job, Scheduler
from treadle.serving.sequences import Act, Ended, Sequence
from treadle.serving.sessions import Sessions
from treadle.serving.version import Version

logger = logging.getLogger("treadle.serving")


class Memory:
    """Keeps the states of one version's sequences.

    Args:
        version: whose they are.
        sessions: where they live.
        scheduler: gives them their turns.
        complete: answers a job.
        keeper: writes and reads; None if nothing is kept.
    """

    def __init__(
        self,
        version: Version,
        sessions: Sessions,
        scheduler: Scheduler,
        complete: Callable[[Job], None],
        keeper: Keeper | None,
    ):
        self.version, self.sessions, self.scheduler = version, sessions, scheduler
        self.complete, self.keeper = complete, keeper

    def has_to_keep(self, sequence: Sequence, ended: bool = False) -> bool:
        """Whether the state has to be kept before anybody is told of it."""
        if self.keeper is None:
            return False
        return ended or sequence.position - sequence.saved >= self.version.options.keep_every

    def has_to_look(self, job: Job) -> bool:
        """Whether the store may know more of a sequence that is not here."""
        sequence = job.sequence
        if self.keeper is None or sequence.looked or sequence.key is None:
            return False
        return isinstance(job, Act) or not job.start or job.step is not None

    def record(self, sequence: Sequence) -> Record:
        """All that a sequence goes on from; within a turn, or while it is busy."""
        assert sequence.key is not None
        state = None if sequence.slot is None else self.sessions.state(sequence)
        ended = "" if state is not None else getattr(self.version.endings.get(sequence.key), "reason", "ended")
        return Record(
            sequence.key, self.version.name, self.version.fingerprint, sequence.position, state, sequence.kept, ended
        )

    def keep(self, jobs: list[Job]) -> None:
        """Keep the states of jobs that are complete, then answer them."""
        assert self.keeper is not None
        records = [self.record(job.sequence) for job in jobs]

        def kept(error: Exception | None) -> None:
            for job in jobs:
                if error is None:
                    job.sequence.saved = job.sequence.position
                else:
                    job.error = Refused(
                        Kind.UNAVAILABLE,
                        f"{job.sequence} is at step {job.sequence.position}, but that could not be kept: ask for the"
                        " same step once more",
                        1.0,
                    )
                self.complete(job)

        self.keeper.put(records, kept)

    def look(self, sequence: Sequence) -> None:
        """Fetch what was kept of a sequence."""
        assert self.keeper is not None
        assert sequence.key is not None

        def found(record: Record | Exception | None) -> None:
            if isinstance(record, Exception):
                for job in list(sequence.jobs):
                    self.scheduler.drop(job)
                    job.answered(Refused(Kind.UNAVAILABLE, f"what was kept of {sequence} could not be read", 1.0))
            else:
                sequence.looked = True
                if record is not None:
                    self._restore(sequence, record)
            self.scheduler.release(sequence)

        self.keeper.get(self.version.name, sequence.key, found)

    def _restore(self, sequence: Sequence, record: Record) -> None:
        """Continue a sequence from what was kept of it."""
        assert sequence.key is not None
        reason = record.ended
        if not reason and record.fingerprint != self.version.fingerprint:
            reason = "reset" if self.version.options.on_reload == "reset" else "replaced"
        if reason:
            self.version.endings.put(sequence.key, Ended(reason, record.position, record.kept))
            return

        def work(sessions: Sessions, act: Act) -> None:
            sessions.load(sequence, record.state, record.position, record.kept)
            sequence.saved = record.position
            sequence.used = self.scheduler.now()

        def answered(result: Any) -> None:
            if isinstance(result, Exception):
                logger.error("%s: what was kept of %s does not fit: %s", self.version.name, sequence, result)

        sequence.jobs.appendleft(Act(sequence, work, answered))
        self.scheduler.queued += 1
