"""Fitting a network to data: the texts, the models that read them, the loop, the measures.

``text.py`` is what is read, ``language_model.py`` what reads it, ``fit.py`` how it learns.
"""

from treadle.training.checkpoint import load_checkpoint, save_checkpoint
from treadle.training.fit import Progress, bits_per_byte, fit
from treadle.training.language_model import CELLS, language_model, match_hidden_size, require_language_model
from treadle.training.text import Text, read_text, standard_library

__all__ = [
    "CELLS",
    "Progress",
    "Text",
    "bits_per_byte",
    "fit",
    "language_model",
    "load_checkpoint",
    "match_hidden_size",
    "read_text",
    "require_language_model",
    "save_checkpoint",
    "standard_library",
]
