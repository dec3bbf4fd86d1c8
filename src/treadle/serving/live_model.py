"""One version of a model, live: its pool of sessions, and the rules of a sequence's life."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle import state as states
from treadle.errors import TreadleError
from treadle.files.model_file import fingerprint
from treadle.serving.counts import Counts
from treadle.serving.endings import Endings
from treadle.serving.keeper import Keeper
from treadle.serving.meanings import Meaning
from treadle.serving.options import Options
from treadle.serving.records import Record
from treadle.serving.refusals import Kind, Refused
from treadle.serving.scheduler import Job, Scheduler, Verdict
from treadle.serving.sequences import Act, Answer, Ended, Kept, Key, Sequence, Steps
from treadle.serving.standin import StandIn

logger = logging.getLogger("treadle.serving")

QUANTUM = 16
"""Steps of a block that are taken in one turn: a client that sends long blocks must not keep the others waiting."""


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
        self.sequences, self.endings, self.keeper = sequences, endings, keeper
        self.counts = Counts(options.rows)
        self.fingerprint = fingerprint(rnn)
        self.initial = states.detach(rnn.initial_state(1))
        self.successor: LiveModel | None = None
        self.living: set[Sequence] = set()
        self._pool = StandIn(rnn)
        self._warm_up()
        self.scheduler: Scheduler | None = None

    def _warm_up(self) -> None:
        """Compile before the first client waits for it."""
        session = self._pool.open()
        for rows in (1, self.options.rows):
            others = [self._pool.open() for _ in range(rows - 1)]
            slots = [self._pool.slot(one) for one in (session, *others)]
            self._pool.step_rows(slots, np.zeros((rows, *self.meaning.row), self.meaning.dtype))
            for one in others:
                self._pool.close(one)
        self._pool.close(session)

    def start(self) -> None:
        """Begin to take turns, on the event loop that runs."""
        self.scheduler = Scheduler(self.options, self._begin, self._work, self._finish, self._rest, self.counts)
        self._loop = asyncio.get_running_loop()

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

    # What is decided before a step is taken.

    def _begin(self, job: Job) -> Verdict:
        sequence = job.sequence
        if isinstance(job, Steps):
            if job.begun:
                return Verdict.RUN
            if job.gone is not None and job.gone():
                return Verdict.ANSWERED
        try:
            if sequence.slot is None and self.successor is not None:
                return self._hand_over(sequence)
            if isinstance(job, Steps) and self._loop.time() > job.deadline:
                raise Refused(Kind.LATE, f"the deadline passed before the step of {sequence} was begun", 0.1)
            if sequence.slot is None and self._has_to_look(job):
                self._look(sequence)
                return Verdict.PARKED
            if isinstance(job, Act):
                return Verdict.RUN
            return self._begin_living(job) if sequence.slot is not None else self._begin_absent(job)
        except Refused as refused:
            job.answered(refused)
            return Verdict.ANSWERED

    def _hand_over(self, sequence: Sequence) -> Verdict:
        """What is asked of a sequence that has ended here goes to the version that came after this one."""
        assert self.successor is not None
        assert self.scheduler is not None
        jobs = list(sequence.jobs)
        for job in jobs:
            self.scheduler.drop(job)
        sequence.busy = False
        for job in jobs:
            self.successor.add(job)
        return Verdict.PARKED

    def _begin_absent(self, job: Steps) -> Verdict:
        sequence = job.sequence
        ended = None if sequence.key is None else self.endings.get(sequence.key)
        if not job.start:
            if ended is not None and self._is_retry(job, ended.kept):
                return self._answer_again(job, ended.kept)
            sequence.reset = ended is not None and ended.reason == "reset"
            if not sequence.reset:
                raise self.endings.refusal(sequence.key)
        elif job.step:
            raise Refused(Kind.NOT_NEXT, f"{sequence} begins with step 0, but step {job.step} was sent as its start")
        if len(self.living) >= self.options.sequences:
            raise Refused(Kind.BUSY, f"{len(self.living)} sequences of {self.name} live, the most that may", 1.0)
        self.living.add(sequence)
        return self._run(job, fresh=True)

    def _begin_living(self, job: Steps) -> Verdict:
        sequence = job.sequence
        if job.step is None:
            return self._run(job, fresh=job.start)
        if job.step == sequence.position:
            return self._run(job, fresh=job.start)
        if self._is_retry(job, sequence.kept):
            if sequence.saved != sequence.position and self._has_to_keep(sequence):
                return self._run(job, fresh=False, again=True)
            return self._answer_again(job, sequence.kept)
        raise Refused(
            Kind.NOT_NEXT,
            f"{sequence} is at step {sequence.position}, but step {job.step} was sent"
            + ("; a start without a step begins it again" if job.start else ""),
        )

    def _run(self, job: Steps, fresh: bool, again: bool = False) -> Verdict:
        job.begun, job.fresh = True, fresh
        job.first = 0 if fresh else job.sequence.position
        if again:
            assert job.sequence.kept is not None
            job.ys, job.taken = job.sequence.kept.answer.ys, len(job.xs)
            job.first = job.sequence.kept.answer.step
        self.counts.queue_seconds += self._loop.time() - job.arrived
        return Verdict.RUN

    def _is_retry(self, job: Steps, kept: Kept | None) -> bool:
        """Whether the last step is asked for once more. Another input at its place is refused."""
        if job.step is None or kept is None or kept.answer.step != job.step:
            return False
        if kept.digest != job.digest():
            raise Refused(Kind.NOT_NEXT, f"step {job.step} of {job.sequence} was taken with another input")
        return True

    def _answer_again(self, job: Steps, kept: Kept | None) -> Verdict:
        assert kept is not None
        job.answered(kept.answer)
        return Verdict.ANSWERED

    # What a turn does; in a thread, if turns are long.

    def _work(self, batch: list[Job]) -> int:
        stepping: list[Steps] = []
        for job in batch:
            try:
                if isinstance(job, Act):
                    job.result = job.work(self, job)
                    continue
                if job.fresh:
                    self._begin_state(job.sequence)
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
                self.close_state(job.sequence)
        return steps

    def _begin_state(self, sequence: Sequence) -> None:
        if sequence.slot is None:
            sequence.session = self._pool.open()
            sequence.slot = self._pool.slot(sequence.session)
        else:
            self._pool.reset(sequence.session)
        self.counts.begun += sequence.key is not None
        sequence.position, sequence.kept = 0, None
        # What the store has of this name is of a sequence that is over: the first step replaces it, whatever is due.
        sequence.saved = -self.options.keep_every

    def close_state(self, sequence: Sequence) -> None:
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

    # What becomes of a job that is complete.

    def _finish(self, jobs: list[Job]) -> None:
        to_keep: list[Job] = []
        for job in jobs:
            if isinstance(job, Steps) and job.error is None:
                self._note(job)
                if job.sequence.key is not None and self._has_to_keep(job.sequence, job.end):
                    to_keep.append(job)
                    continue
            elif isinstance(job, Act) and job.changed and self.keeper is not None:
                to_keep.append(job)
                continue
            self._complete(job)
        if to_keep:
            self._keep(to_keep)

    def _note(self, job: Steps) -> None:
        """What a sequence remembers of a request."""
        sequence = job.sequence
        sequence.used = self._loop.time()
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

    def _complete(self, job: Job) -> None:
        """Answer, and let the sequence have its next turn."""
        assert self.scheduler is not None
        if job.error is not None:
            job.answered(self._explained(job))
        elif isinstance(job, Act):
            job.answered(job.result)
        else:
            self.counts.answer(self._loop.time() - job.arrived)
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

    # States that are kept elsewhere.

    def _has_to_keep(self, sequence: Sequence, ended: bool = False) -> bool:
        if self.keeper is None:
            return False
        return ended or sequence.position - sequence.saved >= self.options.keep_every

    def _has_to_look(self, job: Job) -> bool:
        """Whether the store may know more of a sequence that is not here."""
        sequence = job.sequence
        if self.keeper is None or sequence.looked or sequence.key is None:
            return False
        return isinstance(job, Act) or not job.start or job.step is not None

    def record(self, sequence: Sequence) -> Record:
        """All that a sequence goes on from; within a turn, or while it is busy."""
        assert sequence.key is not None
        state = None if sequence.slot is None else self._pool.state(sequence.session)
        ended = "" if state is not None else getattr(self.endings.get(sequence.key), "reason", "ended")
        return Record(sequence.key, self.name, self.fingerprint, sequence.position, state, sequence.kept, ended)

    def _keep(self, jobs: list[Job]) -> None:
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
                self._complete(job)

        self.keeper.put(records, kept)

    def _look(self, sequence: Sequence) -> None:
        """Fetch what was kept of a sequence."""
        assert self.keeper is not None
        assert sequence.key is not None

        def found(record: Record | Exception | None) -> None:
            assert self.scheduler is not None
            if isinstance(record, Exception):
                for job in list(sequence.jobs):
                    self.scheduler.drop(job)
                    job.answered(Refused(Kind.UNAVAILABLE, f"what was kept of {sequence} could not be read", 1.0))
            else:
                sequence.looked = True
                if record is not None:
                    self._restore(sequence, record)
            self.scheduler.release(sequence)

        self.keeper.get(self.name, sequence.key, found)

    def _restore(self, sequence: Sequence, record: Record) -> None:
        """Continue a sequence from what was kept of it."""
        assert self.scheduler is not None
        assert sequence.key is not None
        reason = record.ended
        if not reason and record.fingerprint != self.fingerprint:
            reason = "reset" if self.options.on_reload == "reset" else "replaced"
        if reason:
            self.endings.put(sequence.key, Ended(reason, record.position, record.kept))
            return

        def work(live: LiveModel, act: Act) -> None:
            live.load(sequence, record.state, record.position, record.kept)
            sequence.saved = record.position

        def answered(result: Any) -> None:
            if isinstance(result, Exception):
                logger.error("%s: what was kept of %s does not fit: %s", self.name, sequence, result)

        sequence.jobs.appendleft(Act(sequence, work, answered))
        self.scheduler.queued += 1

    def load(self, sequence: Sequence, state: Any, position: int, kept: Kept | None = None) -> None:
        """Continue a sequence from a state, at a position; within a turn."""
        state = states.check_state(state, self.initial, 1, self.name)
        if sequence.slot is None:
            sequence.session = self._pool.open()
            sequence.slot = self._pool.slot(sequence.session)
            self.living.add(sequence)
            self.counts.begun += 1
        self._pool.load(sequence.session, state)
        sequence.position, sequence.kept, sequence.saved = position, kept, -self.options.keep_every

    def state(self, sequence: Sequence) -> Any:
        """The state of a sequence; within a turn."""
        return self._pool.state(sequence.session)

    def end(self, sequence: Sequence, reason: str, answered: Callable[[Any], None] = lambda result: None) -> None:
        """End a sequence after what was asked of it, for a reason. The answer is whether it was alive."""

        def work(live: LiveModel, act: Act) -> bool:
            if sequence.slot is None:
                return False
            live.close_state(sequence)
            live.ended(sequence, reason)
            act.changed = True
            return True

        self.add(Act(sequence, work, answered))
