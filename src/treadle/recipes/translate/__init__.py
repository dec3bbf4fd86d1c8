"""Sequence to sequence: strings into strings, trained on pairs (date formats, pronunciation, sorting).

``pairs.py`` reads pairs, ``tasks.py`` generates tasks with known answers, ``tokens.py``
says which tokens frame them, ``translation_network.py`` is the network, ``translator_training.py`` trains it, and
``translator.py`` is what comes out: network and vocabularies in one file.
"""

from treadle.recipes.translate.pairs import Pair, read_pairs, read_sources, split
from treadle.recipes.translate.tasks import TASKS, make_pairs
from treadle.recipes.translate.translation_network import translation_model
from treadle.recipes.translate.translator import Translator
from treadle.recipes.translate.translator_training import Learning
from treadle.streams import Vocabulary

__all__ = [
    "TASKS", "Learning", "Pair", "Translator", "Vocabulary", "make_pairs", "read_pairs", "read_sources", "split",
    "translation_model",
]  # fmt: skip
