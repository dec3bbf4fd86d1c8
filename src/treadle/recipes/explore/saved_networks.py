"""What a network that comes from a file reads, and what the page shows it read."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from treadle.errors import DataError, ModelFileError
from treadle.files import model_file
from treadle.recipes.explore.material import Letters, built_in_text, labels_of, read_numbers, waves
from treadle.streams import Vocabulary
from treadle.training import Fitted
from treadle.training.word_model import WordModel, has_vocabulary


def shown_to(
    network: Any, path: str | os.PathLike[str], text: Letters | None, series: Path | None, length: int
) -> tuple[Tensor, list[str], list[str] | None]:
    """A sequence for a network from a file: xs [1, T, …], what its steps and its features are called.

    A language model reads bytes or words of the text; a network of ``treadle fit`` the columns that it was trained on,
    in its own scaling; another one all columns of numbers, scaled. Without data, a text or waves that are built in.

    Raises:
        DataError: the data is not what the network reads.
        ModelFileError: it reads neither tokens nor rows of numbers.
    """
    size = network.input_size
    if size == ():
        if series is not None:
            raise DataError(f"{path} reads text, but a series was passed: leave out `series`, or pass `text`")
        text = text or built_in_text()
        if has_vocabulary(model_file.read_notes(path)):
            return *_words(WordModel.load(path).vocabulary, text, length), None
        return *_bytes(network, path, text, length), None
    if not isinstance(size, int):
        raise ModelFileError(f"{path} reads rows of {size or 'unknown size'}: call treadle.show.explorer in Python")
    if text is not None:
        raise DataError(f"{path} reads {size} numbers at each step, but a text was passed: pass `series`")
    if series is None:
        material = waves(size)
    else:
        fitted = _fitted(path)
        if fitted is not None:
            raw = read_numbers(series, fitted.inputs.names, scaled=False)
            xs = fitted.scale(raw.values.double()).float()[None, :length]
            return xs, [str(row) for row in range(1, xs.shape[1] + 1)], list(fitted.inputs.names)
        material = read_numbers(series)
        if len(material.columns) != size:
            raise DataError(
                f"{path} reads {size} numbers at each step, but {series} has {len(material.columns)} columns of numbers"
                f" ({', '.join(material.columns)}): pass a table of the {size} that it reads"
            )
    xs, labels = material.shown(length)
    return xs, labels, list(material.columns)


def _words(vocabulary: Vocabulary, text: Letters, length: int) -> tuple[Tensor, list[str]]:
    some = vocabulary.encode(text.text)[:length]
    return some[None], [vocabulary.symbols[token].replace("\n", "⏎") for token in some.tolist()]


def _bytes(network: Any, path: Any, text: Letters, length: int) -> tuple[Tensor, list[str]]:
    some = text.text[:length].encode()[:length]
    xs = torch.tensor(list(some))[None]
    tables = [module.num_embeddings for module in network.modules() if isinstance(module, torch.nn.Embedding)]
    if min(tables, default=math.inf) < 256:
        raise DataError(
            f"{path} has {min(tables)} tokens, so it does not read bytes: call treadle.show.explorer in Python with"
            " tokens of its own"
        )
    return xs, labels_of(some.decode("latin-1"))


def _fitted(path: str | os.PathLike[str]) -> Fitted | None:
    """What the numbers of a network mean, if its file says so."""
    try:
        return Fitted.load(path)
    except ModelFileError:
        return None
