"""States that are kept elsewhere: when they are written, and how a sequence continues from one."""

import logging
from collections.abc import Callable
from time import perf_counter
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
        complete: answers a job, at that moment.
        keeper: writes and reads; None if nothing is kept.
    """

    def __init__(
        self,
        version: Version,
        sessions: Sessions,
        scheduler: Scheduler,
        complete: Callable[[Job, float], None],
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
        """Whether the store has to be asked first: of a sequence that is not here, or by who is told how it is."""
        if isinstance(job, Act):
            return job.asked and self.may_be_elsewhere(job)
        return job.sequence.slot is None and (not job.start or job.step is not None) and self.may_be_elsewhere(job)

    def may_be_elsewhere(self, job: Job) -> bool:
        """Whether the store may know more of a sequence than this server; not while what is here has to be kept yet."""
        sequence = job.sequence
        if self.keeper is None or job.looked or sequence.key is None:
            return False
        return sequence.slot is None or sequence.saved == sequence.position

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
        records = [(self.record(job.sequence), job.sequence.stamp) for job in jobs]

        def kept(found: list[str | None] | Exception) -> None:
            for place, job in enumerate(jobs):
                sequence = job.sequence
                if isinstance(found, Exception):
                    job.error = Refused(
                        Kind.UNAVAILABLE,
                        f"{sequence} is at step {sequence.position}, but that could not be kept: ask for the"
                        " same step once more",
                        1.0,
                    )
                elif found[place] is None:
                    self._overtaken(job)
                    continue
                else:
                    sequence.saved, sequence.stamp = sequence.position, found[place]
                self.complete(job, perf_counter())

        self.keeper.put(records, kept)

    def _overtaken(self, job: Job) -> None:
        """Another server has taken steps of this sequence: what was done to the copy here counts for nothing."""
        sequence = job.sequence
        self._forget(sequence)
        if isinstance(job, Act) and not job.asked:
            self.complete(job, perf_counter())
            return
        job.again()
        sequence.jobs.appendleft(job)
        self.scheduler.queued += 1
        self.scheduler.release(sequence)

    def _forget(self, sequence: Sequence) -> None:
        self.sessions.close(sequence)
        self.version.living.discard(sequence)
        sequence.position = sequence.saved = 0
        sequence.kept = sequence.stamp = None

    def look(self, sequence: Sequence) -> None:
        """Fetch what was kept of a sequence."""
        assert self.keeper is not None
        assert sequence.key is not None

        def found(what: tuple[Record, str] | Exception | None) -> None:
            if isinstance(what, Exception):
                for job in list(sequence.jobs):
                    self.scheduler.drop(job)
                    job.answered(Refused(Kind.UNAVAILABLE, f"what was kept of {sequence} could not be read", 1.0))
            else:
                for job in sequence.jobs:
                    job.looked = True
                if what is not None and (sequence.slot is None or what[1] != sequence.stamp):
                    self._forget(sequence)
                    self._restore(sequence, *what)
            self.scheduler.release(sequence)

        self.keeper.get(self.version.name, sequence.key, found)

    def _restore(self, sequence: Sequence, record: Record, stamp: str) -> None:
        """Continue a sequence from what was kept of it."""
        assert sequence.key is not None
        sequence.stamp = stamp
        reason = record.ended
        if not reason and record.fingerprint != self.version.fingerprint:
            reason = "reset" if self.version.options.on_reload == "reset" else "replaced"
        if reason:
            self.version.endings.put(sequence.key, Ended(reason, record.position, record.kept))
            return

        def work(sessions: Sessions, act: Act) -> None:
            sessions.load(sequence, record.state, record.position, record.kept)
            sequence.saved = record.position
            sequence.used = perf_counter()

        def answered(result: Any) -> None:
            if isinstance(result, Exception):
                logger.error("%s: what was kept of %s does not fit: %s", self.version.name, sequence, result)

        sequence.jobs.appendleft(Act(sequence, work, answered, asked=False))
        self.scheduler.queued += 1
