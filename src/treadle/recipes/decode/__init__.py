"""Learning from outcomes: a network infers what a user's keys mean, only from the outcomes of its guesses.

``world.py`` decides outcomes, ``user.py`` simulates users; ``evidence_cell.py`` is the network, ``decoder.py`` infers
one user's keys with it, ``decoder_training.py`` trains it on many simulated users. ``yardsticks.py`` and ``bayes.py``
are baselines, ``study.py`` compares them, ``report.py`` prints and draws the results; ``game.py`` is a game, ``app.py``
its terminal.
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
