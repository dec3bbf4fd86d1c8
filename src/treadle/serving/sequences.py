"""A client's sequence, what is asked of it, and how it ended."""

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

Key = tuple[str, str]
"""Whose sequence it is (the token's owner), and what they call it."""


class Answer(NamedTuple):
    """What the steps of one request gave.

    Attributes:
        ys: the network's outputs, [T, ...].
        step: the position of the sequence before the first of them.
        reset: whether the sequence had to begin at the initial state of a new version of the model.
    """

    ys: NDArray[Any]
    step: int
    reset: bool = False


class Kept(NamedTuple):
    """The last answer of a sequence, for a client that asks for it once more.

    Attributes:
        answer: what it was.
        digest: of what was read.
    """

    answer: Answer
    digest: bytes


class Ended(NamedTuple):
    """How a sequence ended: why, at which position, and its last answer."""

    reason: str
    position: int
    kept: Kept | None = None


class Sequence:
    """A client's sequence.

    Attributes:
        key: whose it is, and its id; None for rows that belong to no sequence.
        session: its session in the pool.
        slot: where that lies; None before the sequence has begun and after it has ended.
        position: steps taken.
        jobs: what is asked of it and has not begun, in order.
        busy: whether something of it is under way or waits for its turn.
        used: when it was last asked for something, by `time.perf_counter`, as all moments here.
        saved: the position at which its state was kept last.
        stamp: of its record in the store, as this server knows it; None where whatever there is may be replaced.
        kept: its last answer, where the client counts steps.
        reset: whether it begins because its model was replaced.
    """

    __slots__ = ("busy", "jobs", "kept", "key", "position", "reset", "saved", "session", "slot", "stamp", "used")

    def __init__(self, key: Key | None, now: float):
        self.key, self.used = key, now
        self.slot: int | None = None
        self.session: Any = None
        self.position = self.saved = 0
        self.jobs: deque[Steps | Act] = deque()
        self.kept: Kept | None = None
        self.stamp: str | None = None
        self.busy = self.reset = False

    def __repr__(self) -> str:
        return "rows without a sequence" if self.key is None else f"sequence {self.key[1]!r:.80}"


Answered = Callable[[Any], None]
"""Is given an answer, or the exception that is there in place of one."""


class Steps:
    """A request for one or more steps of a sequence.

    Attributes:
        xs: what they read, [T, ...].
        last: how many of the steps, at the end, are those of the last message; a client repeats that alone.
        ys: what they gave so far.
        taken: how many are taken.
        start: whether the sequence begins with them.
        end: whether it ends with them.
        step: the position at which the client expects the sequence; None if it does not count.
        arrived: when.
        deadline: after which it is too late to begin.
        answered: what to call with the answer.
        gone: whether the client still waits.
        fresh: whether the state has to be the initial one first.
        looked: whether the store has been asked for the sequence.
        error: what went wrong.
    """

    ys: Any = None
    taken = first = 0
    begun = fresh = looked = False
    error: Exception | None = None

    def __init__(
        self,
        sequence: Sequence,
        xs: NDArray[Any],
        answered: Answered,
        *,
        start: bool = False,
        end: bool = False,
        step: int | None = None,
        last: int | None = None,
        arrived: float = 0.0,
        deadline: float = float("inf"),
        gone: Callable[[], bool] | None = None,
    ):
        self.sequence, self.xs, self.answered = sequence, xs, answered
        self.start, self.end, self.step = start, end, step
        self.last = len(xs) if last is None else last
        self.arrived, self.deadline, self.gone = arrived, deadline, gone

    def again(self) -> None:
        """As if nothing had been done yet."""
        self.ys = self.error = None
        self.taken = self.first = 0
        self.begun = self.fresh = self.looked = False

    def digest(self) -> bytes:
        """Tells one input from another, so that a retry is known to be one."""
        return hashlib.blake2b(self.xs[-self.last :].tobytes(), digest_size=16).digest()

    def kept(self) -> Kept:
        """What has to be remembered of them once they are taken."""
        return Kept(Answer(self.ys[-self.last :].copy(), self.first + len(self.xs) - self.last), self.digest())


class Act:
    """Something else that is asked of a sequence, in its turn: to read, write or end it.

    Attributes:
        work: is called with the sessions that it is one of, and this, in its turn; what it returns is the answer.
        asked: whether a client asks for it; else the server itself does, for the copy of the sequence that it has.
        changed: whether the sequence is another one afterwards, so that it has to be kept.
        looked: whether the store has been asked for the sequence.
    """

    __slots__ = ("answered", "asked", "changed", "error", "looked", "result", "sequence", "work")

    def __init__(
        self, sequence: Sequence, work: "Callable[[Any, Act], Any]", answered: Answered, *, asked: bool = True
    ):
        self.sequence, self.work, self.answered, self.asked = sequence, work, answered, asked
        self.again()

    def again(self) -> None:
        """As if nothing had been done yet."""
        self.changed = self.looked = False
        self.result: Any = None
        self.error: Exception | None = None
