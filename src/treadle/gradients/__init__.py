"""How gradients go back in time.

A method is an object that says what it costs, and is passed as ``gradient=``: ``full.py``, ``truncated.py``,
``checkpointed.py``. What is not kept for the derivative is run again: ``segments.py`` is a sequence in segments as one
node of autograd, ``schedule.py`` says which states to keep and in what order to go back, ``surroundings.py`` makes a
second run equal the first. ``history.py`` and ``pieces.py`` do the same for sequences that come piece by piece.
"""

from treadle.gradients.checkpointed import CheckpointedBPTT
from treadle.gradients.full import FullBPTT
from treadle.gradients.history import History
from treadle.gradients.method import GradientMethod
from treadle.gradients.pieces import SequenceInPieces
from treadle.gradients.truncated import TruncatedBPTT

__all__ = ["METHODS", "CheckpointedBPTT", "FullBPTT", "GradientMethod", "History", "SequenceInPieces", "TruncatedBPTT"]

METHODS: tuple[type[GradientMethod], ...] = (FullBPTT, TruncatedBPTT, CheckpointedBPTT)
"""What ``gradient=`` takes."""
