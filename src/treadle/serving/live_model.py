"""One version of a model, live: its sessions, its turns, and what becomes of what is asked of it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from treadle.errors import TreadleError
from treadle.files.model_file import fingerprint
from treadle.serving.beginnings import Beginnings
from treadle.serving.counts import Counts
from treadle.serving.endings import Endings
from treadle.serving.keeper import Keeper
from treadle.serving.meanings import Meaning
from treadle.serving.memory import Memory
from treadle.serving.options import Options
from treadle.serving.refusals import Kind, Refused
from treadle.serving.scheduler import Job, Scheduler
from treadle.serving.sequences import Act, Answer, Ended, Kept, Key, Sequence, Steps
from treadle.serving.sessions import Sessions

logger = logging.getLogger("treadle.serving")


class LiveModel:
    """One version of a model, live.

    Args:
        name: of the model.
        version: ``"1"``, ``"2"``, …
        rnn: the network.
        meaning: what its numbers mean.
        options: how it is scheduled.
        sequences: those of all versions, by whose they are and what they are called.
        endings: how sequences ended.
        keeper: what keeps their states; None if nothing does.
    """

    def __init__(
        self,
        name: str,
        version: str,
        rnn: Any,
        meaning: Meaning,
        options: Options,
        sequences: dict[Key, Sequence],
        endings: Endings,
        keeper: Keeper | None = None,
    ):
        self.name, self.version, self.rnn, self.meaning, self.options = name, version, rnn, meaning, options
        self.sequences, self.endings = sequences, endings
        self.counts = Counts(options.rows)
        self.fingerprint = fingerprint(rnn)
        self.successor: LiveModel | None = None
        self.living: set[Sequence] = set()
        self.memory = Memory(self, keeper)
        self.sessions = Sessions(self, options.rows, options.keep_every)
        self.scheduler: Scheduler | None = None

    def start(self) -> None:
        """Begin to take turns, on the event loop that runs."""
        begin, work = Beginnings(self).decide, self.sessions.work
        self.scheduler = Scheduler(self.options, begin, work, self._finish, self._rest, self.counts)
        self.loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether something is asked of one of its sequences."""
        return self.scheduler is not None and self.scheduler.queued > 0

    def close(self) -> None:
        """Wait for the turn that is under way."""
        if self.scheduler is not None:
            self.scheduler.close()

    def add(self, job: Job) -> None:
        """Ask for something of a sequence of this version."""
        assert self.scheduler is not None
        if self.successor is not None and job.sequence.slot is None and not job.sequence.busy:
            self.successor.add(job)
        else:
            self.scheduler.add(job)

    def end(self, sequence: Sequence, reason: str, answered: Callable[[Any], None] = lambda result: None) -> None:
        """End a sequence after what was asked of it, for a reason. The answer is whether it was alive."""

        def work(live: LiveModel, act: Act) -> bool:
            if sequence.slot is None:
                return False
            live.sessions.close(sequence)
            live.ended(sequence, reason)
            act.changed = True
            return True

        self.add(Act(sequence, work, answered))

    # What becomes of a job that is complete.

    def _finish(self, jobs: list[Job]) -> None:
        to_keep: list[Job] = []
        for job in jobs:
            if isinstance(job, Steps) and job.error is None:
                self._note(job)
                if job.sequence.key is not None and self.memory.has_to_keep(job.sequence, job.end):
                    to_keep.append(job)
                    continue
            elif isinstance(job, Act) and job.changed and self.memory.keeper is not None:
                to_keep.append(job)
                continue
            self.complete(job)
        if to_keep:
            self.memory.keep(to_keep)

    def _note(self, job: Steps) -> None:
        """What a sequence remembers of a request."""
        sequence = job.sequence
        sequence.used = self.loop.time()
        if sequence.key is None:
            return
        sequence.kept = None
        if job.step is not None:
            answer = Answer(job.ys.copy(), job.first)
            sequence.kept = Kept(answer, job.digest())
        if job.end:
            self.ended(sequence, "ended")

    def ended(self, sequence: Sequence, reason: str) -> None:
        """A sequence has ended: remember why."""
        assert sequence.key is not None
        self.living.discard(sequence)
        self.counts.ended[reason] += 1
        self.endings.put(sequence.key, Ended(reason, sequence.position, sequence.kept))
        sequence.looked = True

    def complete(self, job: Job) -> None:
        """Answer, and let the sequence have its next turn."""
        assert self.scheduler is not None
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
        """Nothing is asked of a sequence: one that is over need not be known any more."""
        if sequence.slot is None and self.sequences.get(sequence.key) is sequence:  # pyright: ignore[reportArgumentType]
            del self.sequences[sequence.key]  # pyright: ignore[reportArgumentType]
