"""Endless data: sources, windows over many streams, and the keeper of states between windows.

``stream.py`` says what a stream is; ``files.py``, ``word_file.py`` (with its ``vocabulary.py``), ``table.py``,
``table_series.py`` and ``array.py`` are the sources. ``windows.py`` lays streams over the rows of batches
(``cursor.py`` is a place in one of them, ``ahead.py`` reads before it is asked), ``batch.py`` is what comes out.
``keeper.py`` carries states on.
"""

from treadle.streams.array import Array, Iterated
from treadle.streams.batch import Batch
from treadle.streams.files import ArrayFile, TextFile
from treadle.streams.keeper import StateKeeper
from treadle.streams.stream import Piece, Span, Stream, count, split
from treadle.streams.table import Table
from treadle.streams.table_series import Series, series_of_table
from treadle.streams.vocabulary import Vocabulary
from treadle.streams.windows import Windows
from treadle.streams.word_file import WordFile

__all__ = [
    "Array", "ArrayFile", "Batch", "Iterated", "Piece", "Series", "Span", "StateKeeper", "Stream", "Table",
    "TextFile", "Vocabulary", "Windows", "WordFile", "count", "series_of_table", "split",
]  # fmt: skip
