"""How sequences ended, for a while: a client that comes back is told why its sequence is no more."""

from treadle.serving.refusals import Kind, Refused
from treadle.serving.sequences import Ended, Key

MOST = 10_000
"""Endings that are remembered, the latest."""

REASONS = {
    "ended": "has ended, as its client asked",
    "deleted": "was deleted",
    "expired": "has expired, because nobody asked for a step for too long",
    "replaced": "ended when its model was replaced by another version",
}


class Endings:
    """How sequences ended: the latest of them."""

    def __init__(self) -> None:
        self._found: dict[Key, Ended] = {}

    def put(self, key: Key, ended: Ended) -> None:
        """Remember an ending."""
        self._found.pop(key, None)
        self._found[key] = ended
        if len(self._found) > MOST:
            del self._found[next(iter(self._found))]

    def get(self, key: Key) -> Ended | None:
        """How a sequence ended; None if it has not, or too long ago."""
        return self._found.get(key)

    def refusal(self, key: Key | None) -> Refused:
        """Why no step is taken of a sequence that does not live."""
        ended = None if key is None else self._found.get(key)
        name = "" if key is None else f"sequence {key[1]!r:.80} "
        if ended is None:
            return Refused(Kind.NOT_FOUND, f"{name}has never begun: send sequence_start with its first step")
        said = REASONS.get(ended.reason, ended.reason)
        return Refused(Kind.OVER, f"{name}{said}, at step {ended.position}: send sequence_start to begin it again")
