"""Training a network, from data files to a saved model with its scores.

Data: ``text.py`` and ``word_text.py``, read ``side_by_side.py``; ``sequences.py`` and ``series.py``, scaled by
``scaling.py``, in ``batches.py``. Networks: ``language_model.py``, ``word_model.py`` (with ``adaptive_softmax.py``),
``layered_networks.py``. ``TextTask``, ``word_task.py``, ``sequence_task.py`` and ``series_task.py`` bring both
together, as ``task.py`` says. Training: ``fit_run.py`` chooses one by the file and starts ``training_loop.py``, with
``evaluate.py`` and ``budget.py``, over ``processes.py`` or ``on_ray.py``. What comes out:
``fitted.py``, evaluated by ``scores.py`` and ``verdict.py``; ``predictions.py`` runs it over a file.
"""

from treadle.adapt.groups import parameter_groups
from treadle.files.checkpoint import load_checkpoint, save_checkpoint
from treadle.training.batches import Batch, Epochs, trace_batches
from treadle.training.budget import EarlyStopping
from treadle.training.evaluate import total_loss
from treadle.training.fitted import Fitted
from treadle.training.language_model import (
    Progress,
    TextTask,
    bits_per_byte,
    fit,
    language_model,
    match_hidden_size,
    require_language_model,
)
from treadle.training.layered_networks import CELLS, forecaster, sequence_model
from treadle.training.on_ray import steps_on_ray
from treadle.training.predictions import Predictions
from treadle.training.sequence_task import SequenceTask
from treadle.training.sequences import Sequences, read_sequences
from treadle.training.series import Series, read_series
from treadle.training.series_task import SeriesTask
from treadle.training.source import Source
from treadle.training.text import Text, read_text, standard_library
from treadle.training.training_loop import Step, train
from treadle.training.word_model import WordModel, word_model
from treadle.training.word_task import WordTask
from treadle.training.word_text import WordText, read_words

__all__ = [
    "CELLS", "Batch", "EarlyStopping", "Epochs", "Fitted", "Predictions", "Progress", "SequenceTask", "Sequences",
    "Series", "SeriesTask", "Source", "Step", "Text", "TextTask", "WordModel", "WordTask", "WordText", "bits_per_byte",
    "fit", "forecaster", "language_model", "load_checkpoint", "match_hidden_size", "parameter_groups",
    "read_sequences", "read_series", "read_text", "read_words", "require_language_model", "save_checkpoint",
    "sequence_model", "standard_library", "steps_on_ray", "total_loss", "trace_batches", "train", "word_model",
]  # fmt: skip
