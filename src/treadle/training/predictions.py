"""Predictions for a file, row by row, with keys, times and true values beside them, and their scores."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from treadle.data.table_file import TableFile, is_parquet, is_table, some
from treadle.data.ts_file import read_ts
from treadle.errors import DataError
from treadle.training.fitted import Fitted
from treadle.training.predictions_of_rows import ROW, PredictionsOfRows, names_of_predictions, written
from treadle.training.sequences import sequences_of
from treadle.training.tally import Tally


class Predictions:
    """What a network says of a file of series or sequences, with or without the truth.

    Iterating gives lists: the names of columns, then one for each row of the file: its keys (the columns of series
    and times that the network was fitted with, the number of the row), the true values if the file has them, and
    predictions, ``y+1`` for what is forecast a step ahead, ``y_predicted`` for the present. Of sequences with one
    answer each, there is one for each; of lists with answers at every step, one for each step. Tables are read in
    pieces: memory depends on how many series there are, not on how many rows.

    Args:
        fitted: the network.
        path: the file.
        series_id: the column that tells series apart, if it is called otherwise than where the network was fitted.

    Attributes:
        tally: the scores, once all has been read; empty without the truth.

    Raises:
        DataError: the file is of a kind that the network cannot read; it lacks a column; or, while it is read, a value
            is wrong, with row and column.
        OSError: it cannot be read.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from treadle.training import Fitted, sequence_model
        >>> from treadle.training.predictions import Predictions
        >>> from treadle.training.scaling import Scaling
        >>> scaling = Scaling.fit(["y"], [torch.randn(9, 1)])
        >>> fitted = Fitted(sequence_model(1, 1, hidden_size=4), scaling, scaling, horizon=1, predict="every")
        >>> _ = Path("y.csv").write_text("y\\n1\\n2\\n")
        >>> [row[:2] for row in Predictions(fitted, "y.csv")]
        [['row', 'y'], [1, '1'], [2, '2']]
    """

    def __init__(self, fitted: Fitted, path: str | os.PathLike[str], series_id: str | None = None):
        self.fitted, self.path, self.tally = fitted, str(path), Tally()
        self._series_id = series_id or fitted.source.series_id
        self._every = fitted.horizon is not None or fitted.predict == "every"
        self._answers = list(fitted.targets.names) if fitted.targets else list(fitted.source.answers or ("label",))
        is_ts = Path(path).suffix.lower() == ".ts"
        flat = fitted.horizon is not None or fitted.source.sequences or series_id is not None
        if not ((is_table(path) and (flat or is_parquet(path))) or (is_ts and fitted.horizon is None)):
            kinds = ".csv, .tsv" if flat else ".ts"
            raise DataError(f"{path}: this network reads {kinds} or .parquet files")
        self._file = None if is_ts else TableFile(path)
        if self._file is not None:
            self._require(self._file)

    def _require(self, file: TableFile) -> None:
        """Refuse a table without the columns that the network reads, or was fitted with; the truth may be missing."""
        file.require(self.fitted.inputs.names)
        roles = {self._series_id: "tells apart the series", self.fitted.source.time: "says the times"}
        for column, role in roles.items():
            if column is not None and column not in file.names:
                hint = ": name another with `series_id`" if column == self._series_id else ""
                raise DataError(
                    f"{self.path} has no column {column!r:.100}, which {role} of what this network was fitted on; it"
                    f" has {some(file.names)}{hint}"
                )
        file.require(column for column in roles if column is not None)
        if any(name not in file.names for name in self._answers):
            self._answers = []

    def __iter__(self) -> Iterator[list[Any]]:
        if self._file is None:
            return self._of_cases()
        names = self.fitted.inputs.names
        if any(self._file.is_list(name) for name in names):
            return self._of_lists(self._file)
        if self.fitted.horizon is None and self._series_id is None:
            raise DataError(
                f"{self.path}: column {names[0]!r} does not hold lists, so it holds no sequences: name the column that"
                " says to which sequence a row belongs (`series_id`)"
            )
        return iter(PredictionsOfRows(self.fitted, self._file, self._series_id, self._answers, self.tally))

    def _of_cases(self) -> Iterator[list[Any]]:
        """Of a ``.ts`` file, which says a label or a number for each case."""
        cases, width = read_ts(self.path), len(self.fitted.inputs.names)
        if cases.cases[0].shape[1] != width:
            raise DataError(f"{self.path} has {cases.cases[0].shape[1]} dimensions, but the network reads {width}")
        self._answers = ["label"] if cases.answers is not None else []
        yield self._header(["line"])
        for number, (line, case) in enumerate(zip(cases.lines, cases.cases, strict=True)):
            true = [cases.answers[number]] if cases.answers is not None else []
            yield from self._of_sequence([line], f"line {line}", torch.from_numpy(case), true)

    def _of_lists(self, file: TableFile) -> Iterator[list[Any]]:
        """Of a table with a sequence, or a series, in each row."""
        keys = [name for name in (self._series_id,) if name is not None]
        numbered = [] if ROW in keys else [ROW]
        yield self._header([*keys, *numbered])
        names = self.fitted.inputs.names
        for rows in file.batches([], [*dict.fromkeys([*names, *self._answers, *keys])]):
            texts, truths = [written(rows, name) for name in keys], [rows.values(name) for name in self._answers]
            for place, xs in enumerate(sequences_of(rows, names)):
                true = [column[place] for column in truths]
                for name, value in zip(self._answers, true, strict=True):
                    if isinstance(value, list) and len(value) != len(xs):
                        raise rows.error(place, name, f"{len(value)} targets for {len(xs)} steps")
                number = rows.first + place
                key = [*(column[place] for column in texts), *([number + 1] if numbered else [])]
                yield from self._of_sequence(key, file.place(number), xs, true)

    def _header(self, keys: list[str]) -> list[str]:
        said = names_of_predictions(self.fitted, self._answers)
        return [*keys, *(["step"] if self._every else []), *self._answers, *said]

    def _of_sequence(self, key: list[Any], place: str, xs: Tensor, true: list[Any]) -> Iterator[list[Any]]:
        """Rows of one sequence: its key, the truth (a value or a list for each answer), and what is said."""
        answer = self.fitted.predict_all([xs], [f"{self.path}, {place}"])[0]
        steps = answer if self._every else [answer]
        truths = list(zip(*(one if isinstance(one, list) else [one] * len(steps) for one in true), strict=True))
        if true and not self._every:
            truths = [tuple(one[-1] if isinstance(one, list) else one for one in true)]
        if truths and self.fitted.targets is None:
            self.tally.labels(list(steps), [None if one is None else str(one) for (one,) in truths])
        elif truths:
            values = torch.tensor([[float("nan") if one is None else one for one in some] for some in truths]).double()
            said = torch.stack(list(steps))
            if self.fitted.horizon:
                self.tally.forecasts(said, values, said[:0])
            else:
                self.tally.numbers(said.reshape(values.shape), values)
        for number, step in enumerate(steps):
            said = [step] if isinstance(step, str) else step.flatten().tolist()
            shown = ["" if one is None else one for one in truths[number]] if truths else []
            yield [*key, *([number + 1] if self._every else []), *shown, *said]
