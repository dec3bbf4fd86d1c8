"""States that are kept elsewhere: when they are written, and how a sequence continues from one."""

import logging
from typing import TYPE_CHECKING, Any

from treadle.serving.keeper import Keeper
from treadle.serving.records import Record
from treadle.serving.refusals import Kind, Refused
from treadle.serving.scheduler import Job
from treadle.serving.sequences import Act, Ended, Sequence

if TYPE_CHECKING:
    from treadle.serving.live_model import LiveModel

logger = logging.getLogger("treadle.serving")


class Memory:
    """Keeps the states of one version's sequences.

    Args:
        live: the version.
        keeper: writes and reads; None if nothing is kept.
    """

    def __init__(self, live: "LiveModel", keeper: Keeper | None):
        self.live, self.keeper = live, keeper

    def has_to_keep(self, sequence: Sequence, ended: bool = False) -> bool:
        """Whether the state has to be kept before anybody is told of it."""
        if self.keeper is None:
            return False
        return ended or sequence.position - sequence.saved >= self.live.options.keep_every

    def has_to_look(self, job: Job) -> bool:
        """Whether the store may know more of a sequence that is not here."""
        sequence = job.sequence
        if self.keeper is None or sequence.looked or sequence.key is None:
            return False
        return isinstance(job, Act) or not job.start or job.step is not None

    def record(self, sequence: Sequence) -> Record:
        """All that a sequence goes on from; within a turn, or while it is busy."""
        assert sequence.key is not None
        state = None if sequence.slot is None else self.live.sessions.state(sequence)
        ended = "" if state is not None else getattr(self.live.endings.get(sequence.key), "reason", "ended")
        return Record(
            sequence.key, self.live.name, self.live.fingerprint, sequence.position, state, sequence.kept, ended
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
                self.live.complete(job)

        self.keeper.put(records, kept)

    def look(self, sequence: Sequence) -> None:
        """Fetch what was kept of a sequence."""
        assert self.keeper is not None
        assert sequence.key is not None

        def found(record: Record | Exception | None) -> None:
            assert self.live.scheduler is not None
            if isinstance(record, Exception):
                for job in list(sequence.jobs):
                    self.live.scheduler.drop(job)
                    job.answered(Refused(Kind.UNAVAILABLE, f"what was kept of {sequence} could not be read", 1.0))
            else:
                sequence.looked = True
                if record is not None:
                    self._restore(sequence, record)
            self.live.scheduler.release(sequence)

        self.keeper.get(self.live.name, sequence.key, found)

    def _restore(self, sequence: Sequence, record: Record) -> None:
        """Continue a sequence from what was kept of it."""
        assert self.live.scheduler is not None
        assert sequence.key is not None
        reason = record.ended
        if not reason and record.fingerprint != self.live.fingerprint:
            reason = "reset" if self.live.options.on_reload == "reset" else "replaced"
        if reason:
            self.live.endings.put(sequence.key, Ended(reason, record.position, record.kept))
            return

        def work(live: "LiveModel", act: Act) -> None:
            live.sessions.load(sequence, record.state, record.position, record.kept)
            sequence.saved = record.position

        def answered(result: Any) -> None:
            if isinstance(result, Exception):
                logger.error("%s: what was kept of %s does not fit: %s", self.live.name, sequence, result)

        sequence.jobs.appendleft(Act(sequence, work, answered))
        self.live.scheduler.queued += 1
