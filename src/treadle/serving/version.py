"""One version of a model: the network, and who has a sequence of it."""

import logging
from typing import Any

from treadle.files.model_file import fingerprint
from treadle.serving.counts import Counts
from treadle.serving.endings import Endings
from treadle.serving.meanings import Meaning
from treadle.serving.options import Options
from treadle.serving.sequences import Ended, Key, Sequence

logger = logging.getLogger("treadle.serving")


class Version:
    """One version of a model.

    Args:
        name: of the model.
        number: ``"1"``, ``"2"``, …
        rnn: the network.
        meaning: what its numbers mean.
        options: how it is scheduled.
        sequences: those of all versions, by whose they are and what they are called.
        endings: how sequences ended.

    Attributes:
        living: the sequences that are at this version.
        counts: what it has done.
        fingerprint: of the network.
    """

    def __init__(
        self,
        name: str,
        number: str,
        rnn: Any,
        meaning: Meaning,
        options: Options,
        sequences: dict[Key, Sequence],
        endings: Endings,
    ):
        self.name, self.number, self.rnn, self.meaning, self.options = name, number, rnn, meaning, options
        self.sequences, self.endings = sequences, endings
        self.counts = Counts(options.rows)
        self.fingerprint = fingerprint(rnn)
        self.living: set[Sequence] = set()

    def ended(self, sequence: Sequence, reason: str) -> None:
        """A sequence has ended: remember why."""
        assert sequence.key is not None
        self.living.discard(sequence)
        self.counts.ended[reason] += 1
        level = logging.DEBUG if reason == "ended" else logging.INFO
        logger.log(level, "%s of %s: %s at step %d", sequence, self.name, reason, sequence.position)
        self.endings.put(sequence.key, Ended(reason, sequence.position, sequence.kept))
