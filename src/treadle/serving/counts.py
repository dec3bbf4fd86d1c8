"""What a model has done so far, in numbers."""

from collections import Counter


class Counts:
    """What one version of a model has done.

    Attributes:
        steps: steps of sequences taken.
        turns: calls of the network; each takes one step of up to as many sequences as there are rows.
        by_rows: how many turns took so many sequences.
        seconds: how long turns took, all together.
        queue_seconds: how long requests waited, all together.
        answered: requests that were answered, and how long each took from its arrival.
        begun: sequences begun.
        ended: sequences ended, by the reason.
        rejected: requests refused, by the kind.
        last: when a request was answered last, in seconds of `time.perf_counter`.
    """

    def __init__(self, rows: int):
        self.steps = self.turns = self.answered = self.begun = 0
        self.seconds = self.queue_seconds = self.answered_seconds = self.last = 0.0
        self.by_rows = [0] * (rows + 1)
        self.seconds_by_rows = [0.0] * (rows + 1)
        self.ended: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()

    def turn(self, rows: int, steps: int, seconds: float) -> None:
        """One turn was taken."""
        self.turns += 1
        self.steps += steps
        self.seconds += seconds
        self.by_rows[rows] += 1
        self.seconds_by_rows[rows] += seconds

    def answer(self, arrived: float, now: float) -> None:
        """One request was answered."""
        self.answered += 1
        self.answered_seconds += now - arrived
        self.last = now
