"""Predictions for a flat table, a step in each row, read in pieces; rows of several series may alternate."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from treadle.data.grouped_table import ids_of
from treadle.data.table_file import Rows, TableFile
from treadle.errors import DataError
from treadle.training.continuing import Continuing
from treadle.training.fitted import Fitted
from treadle.training.tally import Tally

ROW = "row"
"""The column of rows' numbers in the file, from 1."""


class _Last(NamedTuple):
    """What is kept of a series: what was said at its last step, or at the last that has a truth, and this truth."""

    said: Any
    true: Any


class PredictionsOfRows:
    """Rows of predictions, in the order of the file; see `treadle.training.predictions.Predictions`.

    Args:
        fitted: the network.
        file: a table that has all that it reads.
        series_id: the column that tells series apart; one series if it is None.
        answers: columns of true values; none if there are none.
        tally: where they are counted.
    """

    def __init__(self, fitted: Fitted, file: TableFile, series_id: str | None, answers: Sequence[str], tally: Tally):
        self.fitted, self.file, self.tally = fitted, file, tally
        self._series_id, self._time, self._answers = series_id, fitted.source.time, list(answers)
        self._one_each = fitted.horizon is None and fitted.predict == "last"
        self._continuing = Continuing(fitted)
        self._times: dict[str, Any] = {}
        self._forecasts: dict[str, Tensor] = {}
        self._lasts: dict[str, _Last] = {}

    def __iter__(self) -> Iterator[list[Any]]:
        keys = [name for name in (self._series_id, self._time) if name is not None]
        numbered = [] if ROW in keys else [ROW]
        said = names_of_predictions(self.fitted, self._answers)
        yield [str(self._series_id), *self._answers, *said] if self._one_each else [
            *keys, *numbered, *self._answers, *said
        ]  # fmt: skip
        others = list(dict.fromkeys([*keys, *self._answers]))
        numbers = [name for name in self.fitted.inputs.names if name not in others]
        for rows in self.file.batches(numbers, others):
            answers = self._take(rows)
            if not self._one_each:
                columns: list[Any] = [written(rows, name) for name in keys]
                columns += [range(rows.first + 1, rows.first + len(rows) + 1)] if numbered else []
                columns += [written(rows, name) for name in self._answers]
                for place, answer in enumerate(answers):
                    yield [*(column[place] for column in columns), *answer]
        if not self._continuing.numbers:
            raise DataError(f"{self.file.path} has no rows")
        for name, last in self._lasts.items():
            row = self._count_last(name, last)
            if self._one_each:
                yield row

    def _take(self, rows: Rows) -> list[list[Any]]:
        """The answers of some rows."""
        values = torch.from_numpy(np.stack([rows.numbers(name) for name in self.fitted.inputs.names], 1))
        groups, truth = _groups(rows, self._series_id), self._truth(rows)
        if self._time is not None:
            self._check_times(rows, self._time, groups)
        found: list[list[Any]] = [[]] * len(rows)
        outputs = self._continuing.run([(name, values[places]) for name, places in groups])
        for (name, places), ys in zip(groups, outputs, strict=True):
            wrong = (~ys.isfinite()).any(-1).nonzero()
            if len(wrong):
                place = self.file.place(rows.first + int(places[wrong[0, 0]]))
                raise DataError(
                    f"{self.file.path}, {place}: the network's output is not a finite number: correct values that are"
                    " far from those of the training set, or train it again"
                )
            said = self.fitted.meaning(ys)
            self._compare(name, said, None if truth is None else [truth[place] for place in places.tolist()])
            answers = [[one] for one in said] if isinstance(said, list) else said.flatten(1).tolist()
            for place, answer in zip(places.tolist(), answers, strict=True):
                found[place] = answer
        return found

    def _truth(self, rows: Rows) -> list[Any] | None:
        """Of each row, a label or numbers; a label is None, a number NaN where it is missing."""
        if not self._answers:
            return None
        if self.fitted.targets is None:
            return written(rows, self._answers[0], None)
        return np.stack([rows.numbers(name) for name in self._answers], 1).tolist()

    def _compare(self, name: str, said: Any, true: list[Any] | None) -> None:
        """Count what is said of a series, and keep what later rows are needed for."""
        if self._one_each:
            known = [one for one in true or () if one is not None and not _is_missing(one)]
            before = self._lasts.get(name)
            self._lasts[name] = _Last(said[-1], known[-1] if known else before and before.true)
        elif true is not None and isinstance(said, list):
            self.tally.labels(said, true)
        elif true is not None:
            values = torch.tensor(true, dtype=torch.float64)
            if self.fitted.horizon:
                earlier = self._forecasts.setdefault(name, said[:0])
                self.tally.forecasts(said, values, earlier)
                self._forecasts[name] = torch.cat([earlier, said])[-self.fitted.horizon :].clone()
                return
            said = said.reshape(values.shape)
            self.tally.numbers(said, values)
            steps = (~values.isnan()).any(1).nonzero()
            if len(steps) and self._series_id is not None:
                step = int(steps[-1, 0])
                self._lasts[name] = _Last(said[step].clone(), values[step].tolist())

    def _count_last(self, name: str, last: _Last) -> list[Any]:
        """Count the last step of a series. The row of a sequence that has one answer."""
        said, true = last
        if true is not None and isinstance(said, str):
            self.tally.labels([said], [true])
        elif true is not None:
            count = self.tally.numbers if self._one_each else self.tally.last
            count(said, torch.tensor(true, dtype=torch.float64))
        shown = [""] * len(self._answers) if true is None else true if isinstance(true, list) else [true]
        return [name, *shown, *([said] if isinstance(said, str) else said.tolist())]

    def _check_times(self, rows: Rows, time: str, groups: list[tuple[str, np.ndarray]]) -> None:
        clock = rows.times(time)
        for name, places in groups:
            before = self._times.get(name)
            times = clock[places]
            late = np.diff(times, prepend=times[0] - 1 if before is None else before) <= 0
            if late.any():
                row = int(places[int(late.argmax())])
                raise rows.error(
                    row,
                    time,
                    f"{rows.written(time, row)} is not later than the time before it: sort the rows of each series by"
                    " time, each time once",
                )
            self._times[name] = times[-1]


def names_of_predictions(fitted: Fitted, answers: Sequence[str]) -> list[str]:
    """Names of the columns of predictions: ``y+1`` a step ahead, ``y_predicted`` of the present."""
    targets = list(fitted.targets.names) if fitted.targets else list(fitted.source.answers or answers or ["label"])
    if fitted.horizon:
        return [f"{name}+{k}" for k in range(1, fitted.horizon + 1) for name in targets]
    return [f"{name}_predicted" for name in targets]


def written(rows: Rows, name: str, missing: str | None = "") -> list[Any]:
    """A column as text, as the file has it."""
    import pyarrow as pa

    return [missing if value is None else value for value in rows.column(name).cast(pa.string()).to_pylist()]


def _groups(rows: Rows, series_id: str | None) -> list[tuple[str, np.ndarray]]:
    """The series that have rows in a piece, in the order in which they begin, and which rows are theirs."""
    if series_id is None:
        return [("", np.arange(len(rows)))]
    numbers: dict[str, int] = {}
    number = np.array([numbers.setdefault(name, len(numbers)) for name in ids_of(rows, series_id)])
    places = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    return list(zip(numbers, places, strict=True))


def _is_missing(true: Any) -> bool:
    return isinstance(true, list) and any(value != value for value in true)
