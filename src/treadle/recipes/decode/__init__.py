"""What does the user mean? A network finds out what somebody's keys mean, from nothing but what comes of its guesses.

``world.py`` says what turns out good, ``user.py`` who presses keys; ``evidence_cell.py`` is the network, ``decoder.py``
what learns one user's keys with it, ``decoder_training.py`` where it has learned how users are. ``yardsticks.py`` and
``bayes.py`` are whom it is compared with, ``study.py`` compares them, ``report.py`` says so; ``game.py`` lets a person
play, ``app.py`` in a terminal.
"""

from treadle.recipes.decode.bayes import Bayes
from treadle.recipes.decode.decoder import Decoder, KeyDecoder, load_network, outcome_loss
from treadle.recipes.decode.evidence_cell import EvidenceCell, EvidenceState
from treadle.recipes.decode.game import NAMES, PLACES, Game, Turn
from treadle.recipes.decode.study import Followed, follow, study
from treadle.recipes.decode.user import Press, UserModel
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT, World
from treadle.recipes.decode.yardsticks import Informed, Perceptron

__all__ = [
    "COMMANDS", "NAMES", "PLACES", "SITUATIONS", "WAIT", "Bayes", "Decoder", "EvidenceCell", "EvidenceState",
    "Followed", "Game", "Informed", "KeyDecoder", "Perceptron", "Press", "Turn", "UserModel", "World", "follow",
    "load_network", "outcome_loss", "study",
]  # fmt: skip
