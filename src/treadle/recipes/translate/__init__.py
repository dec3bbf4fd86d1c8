"""From strings to strings, learned from pairs: dates into one format, words into sounds, sequences into their order.

``pairs.py`` reads what is learned from, ``tasks.py`` makes tasks that have an answer for everybody to check,
``vocabulary.py`` turns strings into tokens, ``network.py`` is the network, ``learning.py`` trains it, and
``translator.py`` is what comes out: network and vocabularies in one file.
"""

from treadle.recipes.translate.learning import Learning
from treadle.recipes.translate.network import translation_model
from treadle.recipes.translate.pairs import Pair, read_pairs, read_sources, split
from treadle.recipes.translate.tasks import TASKS, make_pairs
from treadle.recipes.translate.translator import Translator
from treadle.recipes.translate.vocabulary import Vocabulary

__all__ = [
    "TASKS",
    "Learning",
    "Pair",
    "Translator",
    "Vocabulary",
    "make_pairs",
    "read_pairs",
    "read_sources",
    "split",
    "translation_model",
]
