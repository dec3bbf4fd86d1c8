"""What a fitted network says of a file, as rows of a table."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from treadle.data.table_file import is_table
from treadle.errors import DataError
from treadle.training.fitted import Fitted
from treadle.training.sequences import read_inputs
from treadle.training.series import read_inputs_of_series


def predictions(fitted: Fitted, path: str | os.PathLike[str], series_id: str | None = None) -> Iterator[list[Any]]:
    """What a fitted network says of a file.

    Args:
        fitted: the network.
        path: series, for one that forecasts, or sequences; answers may be in it, or not.
        series_id: the column that tells series apart.

    Yields:
        Names of columns, then rows: where it is, and the answer. Of sequences, one row each or one for every step; of
        series, one for every row, in the order in which they lie in the file by series.

    Raises:
        DataError: the file lacks what the network reads, with row and column.
        OSError: it cannot be read.
    """
    names = fitted.inputs.names
    if fitted.horizon is not None:
        targets = fitted.targets.names if fitted.targets is not None else ()
        ahead = range(1, fitted.horizon + 1) if fitted.horizon else [0]
        found = read_inputs_of_series(path, names, series_id)
        yield [*(["series"] if series_id else []), "row", *(f"{name}+{k}" for k in ahead for name in targets)]
        for id_, rows, xs in found:
            answers = fitted.predict_all([xs])[0].flatten(1)
            for row, answer in zip(rows, answers.tolist(), strict=True):
                yield [*([id_] if series_id else []), row, *answer]
        return
    sequences, every = read_inputs(path, names), fitted.predict == "every"
    said = ["label"] if fitted.targets is None else list(fitted.targets.names)
    yield ["sequence", *(["step"] if every else []), *said]
    for place, xs in sequences:
        answer = fitted.predict_all([xs])[0]
        for step, one in enumerate(answer if every else [answer], 1):
            values = [one] if isinstance(one, str) else torch.as_tensor(one).tolist()
            yield [place, *([step] if every else []), *values]


def check_readable(path: str | os.PathLike[str], fitted: Fitted) -> None:
    """Refuse a file of a kind that the network cannot read.

    Raises:
        DataError: with what to pass.
    """
    forecasts = fitted.horizon is not None
    if not (is_table(path) if forecasts else Path(path).suffix.lower() in (".ts", ".parquet", ".pq")):
        raise DataError(f"{path}: this network reads {'.csv, .tsv' if forecasts else '.ts'} or .parquet files")
