"""What is decided before a step is taken: whether it is the next, a retry, too late, or of no sequence at all."""

from collections.abc import Callable

from treadle.serving.memory import Memory
from treadle.serving.refusals import Kind, Refused
from treadle.serving.scheduler import Job, Verdict
from treadle.serving.sequences import Act, Kept, Sequence, Steps
from treadle.serving.version import Version


class Beginnings:
    """Decides on jobs whose turn it is.

    Args:
        version: whose sequences they are of.
        memory: what is kept of sequences.
        hand_over: gives what is asked of a sequence to the version that came after this one; whether there is one.
    """

    def __init__(self, version: Version, memory: Memory, hand_over: Callable[[Sequence], bool]):
        self.version, self.memory, self.hand_over = version, memory, hand_over

    def decide(self, job: Job, now: float) -> Verdict:
        """What is to be done with a job whose turn it is at that moment."""
        sequence, late = job.sequence, False
        if isinstance(job, Steps):
            if job.begun:
                return Verdict.RUN
            sequence.used, late = now, now > job.deadline
            if job.gone is not None and job.gone():
                return Verdict.ANSWERED
            if sequence.slot is not None and job.step is None and not late:
                return self._run(job, now, fresh=job.start)  # what is asked for nearly always
        try:
            if sequence.slot is None and self.hand_over(sequence):
                return Verdict.PARKED
            if late:
                raise Refused(Kind.LATE, f"the deadline passed before the step of {sequence} was begun", 0.1)
            if self.memory.keeper is not None and self.memory.has_to_look(job):
                self.memory.look(sequence)
                return Verdict.PARKED
            if isinstance(job, Act):
                return Verdict.RUN
            return self._begin_living(job, now) if sequence.slot is not None else self._begin_absent(job, now)
        except Refused as refused:
            # The sequence may be elsewhere by now, and expect what is refused here.
            found = self._look(job) if refused.kind is Kind.NOT_NEXT else None
            if found is None:
                job.answered(refused)
            return found or Verdict.ANSWERED

    def _look(self, job: Job) -> Verdict | None:
        """Ask the store first, if it may know more."""
        if not self.memory.may_be_elsewhere(job):
            return None
        self.memory.look(job.sequence)
        return Verdict.PARKED

    def _begin_absent(self, job: Steps, now: float) -> Verdict:
        sequence = job.sequence
        ended = None if sequence.key is None else self.version.endings.get(sequence.key)
        if not job.start:
            if ended is not None and self._is_retry(job, ended.kept):
                return self._answer_again(job, ended.kept)
            sequence.reset = ended is not None and ended.reason == "reset"
            if not sequence.reset:
                raise self.version.endings.refusal(sequence.key)
        elif job.step:
            raise Refused(Kind.NOT_NEXT, f"{sequence} begins with step 0, but step {job.step} was sent as its start")
        if len(self.version.living) >= self.version.options.sequences:
            raise Refused(
                Kind.BUSY, f"{len(self.version.living)} sequences of {self.version.name} live, the most that may", 1.0
            )
        self.version.living.add(sequence)
        return self._run(job, now, fresh=True)

    def _begin_living(self, job: Steps, now: float) -> Verdict:
        sequence = job.sequence
        if job.step == sequence.position:
            return self._run(job, now, fresh=job.start)
        if self._is_retry(job, sequence.kept):
            if sequence.saved != sequence.position and self.memory.has_to_keep(sequence):
                return self._run(job, now, fresh=False, again=True)
            return self._look(job) or self._answer_again(job, sequence.kept)
        raise Refused(
            Kind.NOT_NEXT,
            f"{sequence} is at step {sequence.position}, but step {job.step} was sent"
            + ("; a start without a step begins it again" if job.start else ""),
        )

    def _run(self, job: Steps, now: float, fresh: bool, again: bool = False) -> Verdict:
        job.begun, job.fresh = True, fresh
        job.first = 0 if fresh else job.sequence.position
        if again:
            assert job.sequence.kept is not None
            job.ys, job.taken = job.sequence.kept.answer.ys, len(job.xs)
            job.first = job.sequence.kept.answer.step
        self.version.counts.queue_seconds += now - job.arrived
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
