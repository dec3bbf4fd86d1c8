"""Series of a table: one, or many that an id column tells apart, split by time and never at random."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.data.table_file import Rows, TableFile
from treadle.errors import DataError
from treadle.training.scaling import last_known

PARTS = ("training", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Series:
    """Series of a file, in the order in which they begin, each cut in three by time: training, validation, test.

    Attributes:
        name: how messages call it.
        ids: of each.
        inputs: each [N, I], float64 in its own units, NaN where a value is missing.
        targets: each [N, K], NaN where a value is missing.
        input_names: of the I columns.
        target_names: of the K columns.
        cuts: of each, where validation and test set begin.
        times: of each, [N] numbers that grow; row numbers if no column says the time.
    """

    name: str
    ids: list[str]
    inputs: list[Tensor]
    targets: list[Tensor]
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    cuts: list[tuple[int, int]]
    times: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def bounds(self, series: int, part: str) -> tuple[int, int]:
        """Where the training, validation or test set of a series begins and ends."""
        ends = (0, *self.cuts[series], len(self.inputs[series]))
        return ends[PARTS.index(part)], ends[PARTS.index(part) + 1]

    def part(self, columns: list[Tensor], part: str) -> list[Tensor]:
        """A part of each series' ``inputs`` or ``targets``."""
        return [values[slice(*self.bounds(i, part))] for i, values in enumerate(columns)]

    def check(self, window: int) -> None:
        """Refuse parts that are empty, and training parts that are shorter than a window.

        Raises:
            DataError: with the arithmetic.
        """
        for part in PARTS:
            count = sum(len(values) for values in self.part(self.inputs, part))
            if not count:
                rows = sum(map(len, self.inputs))
                raise DataError(
                    f"{self.name} has {rows} rows, none of which are left for the {part} set: pass more rows, or"
                    " another share (`validation`)"
                )
        for id_, values in zip(self.ids, self.part(self.inputs, "training"), strict=True):
            if 0 < len(values) < window:
                which = f", series {id_!r}," if len(self) > 1 else ""
                raise DataError(
                    f"{self.name}{which} has {len(values)} rows in the training set, but a window has {window} steps:"
                    f" pass `window={len(values)}` or less, or pass more rows"
                )


def read_series(
    path: str | os.PathLike[str],
    target: Sequence[str],
    inputs: Sequence[str] = (),
    *,
    series_id: str | None = None,
    time: str | None = None,
    missing: str = "refuse",
    validation: float = 0.15,
    test: float = 0.15,
) -> Series:
    """Read series from a table, a row a step, the steps of each series in order of time.

    Args:
        path: ``.csv``, ``.tsv`` or ``.parquet``; text files may be compressed (``.csv.gz``).
        target: columns to forecast.
        inputs: columns to read; the targets themselves if there are none.
        series_id: the column that says to which series a row belongs; one series if there is none. Rows of several
            series may alternate.
        time: the column of times: numbers, dates or times as ISO 8601 writes them. Within a series they must grow.
            Series are cut at the same times if there is one, and each at its own shares if not.
        missing: ``"refuse"`` gaps, or read the ``"previous"`` value in their place; targets are never made
            up: a missing one is left out.
        validation: fraction of the rows for the validation set, before the test set.
        test: fraction of the rows for the test set, the last ones.

    Raises:
        DataError: a column is missing; a value is missing or no number; times stand still or go back. With row and
            column.
        OSError: the file cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from treadle.training.series import read_series
        >>> _ = Path("tiny.csv").write_text("day,heat\\n" + "".join(f"{day},{day % 7}\\n" for day in range(20)))
        >>> read_series("tiny.csv", ["heat"], time="day").cuts
        [(14, 17)]
    """
    if not target:
        raise DataError(f"{path}: there is no target column: name those to forecast with `target`")
    if min(validation, test) <= 0 or validation + test >= 1:
        raise DataError(
            f"validation and test shares are above 0, and below 1 together, but are {validation} and {test}"
        )
    inputs = inputs or target
    extra, numbers = [name for name in (series_id, time) if name is not None], list(dict.fromkeys([*target, *inputs]))
    file = TableFile(path)
    file.require([*numbers, *extra])
    for name in [*numbers, *extra]:
        if file.is_list(name):
            raise DataError(f"{path}: column {name!r} has a list in each row; a series has one value in each")
    table = file.read(numbers, extra)
    columns = {name: table.numbers(name) for name in numbers}
    if missing == "refuse":
        for name, values in columns.items():
            gaps = np.isnan(values).nonzero()[0]
            if len(gaps):
                message = "the value is missing: fill it, or repeat the one before it (`missing='previous'`)"
                raise table.error(int(gaps[0]), name, message)
    for name, values in columns.items():
        if np.isnan(values).all():
            raise DataError(f"{path}: column {name!r} has no values")
    ids, rows = _group(table, series_id)
    clock = np.arange(len(table)) if time is None else table.times(time)
    if time is not None:
        _check_times(table, time, clock, rows)

    def split(names: Sequence[str]) -> list[Tensor]:
        values = torch.from_numpy(np.stack([columns[name] for name in names], 1))
        return [values[torch.from_numpy(places)] for places in rows]

    times = [clock[places] for places in rows]
    return Series(
        str(path),
        ids,
        split(inputs),
        split(target),
        tuple(inputs),
        tuple(target),
        _cuts(times, time is not None, 1 - validation - test, 1 - test),
        times,
    )


def read_inputs_of_series(
    path: str | os.PathLike[str], names: Sequence[str], series_id: str | None = None
) -> list[tuple[str, list[int], Tensor]]:
    """Series without what is to be forecast: id, numbers of the rows from 1, and [N, I] of the columns named."""
    table = TableFile(path).read(names, [series_id] if series_id else [])
    values = torch.from_numpy(np.stack([table.numbers(name) for name in names], 1))
    ids, rows = _group(table, series_id)
    return [(id_, (places + 1).tolist(), values[places]) for id_, places in zip(ids, rows, strict=True)]


def _group(table: Rows, series_id: str | None) -> tuple[list[str], list[np.ndarray]]:
    """Ids of series, in the order in which they begin, and which rows are theirs."""
    values: list[Any] = [""] * len(table) if series_id is None else table.values(series_id)
    if None in values:
        raise table.error(values.index(None), str(series_id), "the id of the series is missing")
    of_rows = list(map(str, values))
    ids = list(dict.fromkeys(of_rows))
    places = {id_: place for place, id_ in enumerate(ids)}
    number = np.array([places[id_] for id_ in of_rows])
    return ids, np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])


def _check_times(table: Rows, time: str, clock: np.ndarray, rows: list[np.ndarray]) -> None:
    for places in rows:
        wrong = (np.diff(clock[places]) <= 0).nonzero()[0]
        if len(wrong):
            before, row = int(places[wrong[0]]), int(places[wrong[0] + 1])
            what = "is the same time as" if clock[row] == clock[before] else "is earlier than"
            earlier = f"{table.written(time, before)} in {table.file.place(before)}"
            raise table.error(
                row,
                time,
                f"{table.written(time, row)} {what} {earlier}: rows of a series are sorted by"
                " time, each time once; if there are several series, name the column that tells them apart"
                " (`series_id`)",
            )


def _cuts(times: list[np.ndarray], common: bool, first: float, second: float) -> list[tuple[int, int]]:
    if not common:
        return [(round(first * len(one)), round(second * len(one))) for one in times]
    everything = np.sort(np.concatenate(times))
    ends = [everything[min(round(share * len(everything)), len(everything) - 1)] for share in (first, second)]
    return [(int(np.searchsorted(one, ends[0])), int(np.searchsorted(one, ends[1]))) for one in times]


def seasonal_naive(values: Tensor, season: int, horizon: int) -> Tensor:
    """The seasonal-naive forecast, "as a season ago": the baseline that a model has to beat.

    Args:
        values: [N, K], NaN where one is missing; the last one that there was stands for it.
        season: steps of a season; 1 says "as now".
        horizon: ``H``, how many steps ahead; 0 is the present step.

    Returns:
        [N, H, K] (H = 1 for horizon 0): at t, the forecasts for t+1 to t+H from what is known at t; NaN where nothing
        is known.

    Source: Hyndman and Athanasopoulos, *Forecasting: Principles and Practice*, 2021, section 5.2.

    Example:
        >>> import torch
        >>> from treadle.training.series import seasonal_naive
        >>> seasonal_naive(torch.tensor([[1.0], [2.0], [3.0]]), season=2, horizon=3)[2, :, 0]
        tensor([2., 3., 2.])
    """
    known, found = last_known(values), []
    for ahead in range(1, horizon + 1) if horizon else [0]:
        back = season * max(-(-ahead // season), 1) - ahead  # the latest step of the same phase that is not ahead
        found.append(torch.cat([torch.full_like(known[:back], float("nan")), known[: len(known) - back]]))
    return torch.stack(found, 1)


def find_season(values: Sequence[Tensor], longest: int = 400) -> int:
    """The season of series, in steps: where the autocorrelation of what is left without a trend has its highest peak.

    Of the training set, each [N, K], where missing values do not count; at most ``longest`` and a third of the longest
    series; 1 if nothing repeats.

    Example:
        >>> import torch
        >>> from treadle.training.series import find_season
        >>> steps = torch.arange(200.0)[:, None]
        >>> find_season([(steps * 2 * torch.pi / 12).sin() + 0.1 * steps])
        12
    """
    longest = min(longest, max(map(len, values)) // 3)
    if longest < 2:
        return 1
    products, counts = torch.zeros(longest + 1).double(), torch.zeros(longest + 1).double()
    for series in values:
        for column in series.double().T:
            there = ~column.isnan()
            if there.sum() < 3:
                continue
            level = column[there].mean()
            column = column - level  # what is far from zero has seasons, too
            steps = torch.arange(len(column)).double()
            design = torch.stack([torch.ones_like(steps), steps, steps.square()], 1)
            design = design / design.amax(0).clamp(min=1)
            trend = design @ torch.linalg.lstsq(design[there], column[there, None]).solution
            rest = torch.where(there, column - trend[:, 0], 0)
            deviation = rest.square().sum().div(there.sum()).sqrt()
            if deviation <= 1e-12 * (level.abs() + column[there].abs().max()):  # left by rounding
                continue
            rest, known = rest / deviation, there.double()
            size = 2 * len(column)
            for total, signal in ((products, rest), (counts, known)):
                spectrum = torch.fft.rfft(signal, size)
                total += torch.fft.irfft(spectrum * spectrum.conj(), size)[: longest + 1]
    correlation = products / counts.clamp(min=1)
    inner = correlation[1:-1]
    peaks = (inner > correlation[:-2]) & (inner >= correlation[2:]) & (inner > 0.2)
    if not peaks.any():
        return 1
    # Twice a season is a season too; the shortest of the highest peaks is the one.
    highest = inner[peaks].max()
    return int((peaks & (inner >= 0.9 * highest)).nonzero()[0, 0]) + 1
