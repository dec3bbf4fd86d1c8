"""Series of a table: one, or many that an id column tells apart, split by time or by series, never row by row."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from treadle.data.grouped_table import GroupedTable
from treadle.errors import DataError
from treadle.training.scaling import last_known
from treadle.training.sequences import columns_of
from treadle.training.source import Source

FEWEST_TO_SPLIT = 10
"""With fewer series, a split by series is made only if it is asked for: each would weigh too much."""

PARTS = ("training", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Series:
    """Series of a file, in the order in which they begin, each cut in three: training, validation and test set.

    Split by time, each has a piece of every set; split by series, each is whole in one.

    Attributes:
        name: how messages call it.
        ids: of each.
        inputs: each [N, I], float64 in its own units, NaN where a value is missing.
        targets: each [N, K], NaN where a value is missing.
        input_names: of the I columns.
        target_names: of the K columns.
        cuts: of each, where validation and test set begin.
        times: of each, [N] numbers that grow; row numbers if no column says the time.
        source: the columns beside these, and how the sets were split.
        reason: why they were split so; empty if there was nothing to choose.
    """

    name: str
    ids: list[str]
    inputs: list[Tensor]
    targets: list[Tensor]
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    cuts: list[tuple[int, int]]
    times: list[np.ndarray]
    source: Source = dataclasses.field(default_factory=Source)
    reason: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def bounds(self, series: int, part: str) -> tuple[int, int]:
        """Where the training, validation or test set of a series begins and ends."""
        ends = (0, *self.cuts[series], len(self.inputs[series]))
        return ends[PARTS.index(part)], ends[PARTS.index(part) + 1]

    def part(self, columns: list[Tensor], part: str) -> list[Tensor]:
        """A part of each series' ``inputs`` or ``targets``."""
        return [values[slice(*self.bounds(i, part))] for i, values in enumerate(columns)]

    @property
    def split(self) -> str:
        """How the sets were split, as a sentence; empty where there is one series."""
        if len(self) == 1:
            return ""
        counts = [sum(len(values) > 0 for values in self.part(self.inputs, part)) for part in PARTS]
        sizes = ", ".join(f"{count} for {part}" for count, part in zip(counts, PARTS, strict=True))
        whole = "whole series" if self.source.split == "series" else "pieces of series"
        return f"Split by {self.source.split}, {whole}: {sizes}{self.reason and f'; {self.reason}'}."

    def check(self, window: int) -> None:
        """Refuse parts that are empty, and training parts that are all shorter than a window.

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
        longest = max(len(values) for values in self.part(self.inputs, "training"))
        if longest < window:
            which = ", the longest series," if len(self) > 1 else ""
            raise DataError(
                f"{self.name}{which} has {longest} rows in the training set, but a window has {window} steps:"
                f" pass `window={longest}` or less, or pass more rows"
            )


VALIDATION = 0.15
"""Fraction for the validation set, and for the test set, unless another is asked for."""


def read_series(
    path: str | os.PathLike[str],
    target: Sequence[str],
    inputs: Sequence[str] = (),
    *,
    series_id: str | None = None,
    time: str | None = None,
    missing: str = "refuse",
    validation: float = VALIDATION,
    test: float | str | os.PathLike[str] = VALIDATION,
    split: str | None = None,
    seed: int = 0,
) -> Series:
    """Read series from a table, a row a step, the steps of each series in order of time.

    Args:
        path: ``.csv``, ``.tsv`` or ``.parquet``; text files may be compressed (``.csv.gz``). Of a ``.parquet`` file
            whose columns are lists, a row is a series.
        target: columns to forecast.
        inputs: columns to read; the targets themselves if there are none.
        series_id: the column that says to which series a row belongs; one series if there is none. Rows of several
            series may alternate.
        time: the column of times: numbers, dates or times as ISO 8601 writes them. Within a series they must grow.
            Split by time, series are cut at the same times if there is one, and each at its own shares if not.
        missing: ``"refuse"`` gaps, or read the ``"previous"`` value in their place; targets are never made
            up: a missing one is left out.
        validation: fraction for the validation set: of the rows, before the test set; or of the series.
        test: fraction for the test set: the last rows, or of the series; or the file of the test set, a table with the
            same columns.
        split: ``"time"`` cuts every series; ``"series"`` puts each whole into one set, drawn by ``seed`` and name. If
            it is None: by series where there are ten at least and most of them end before the last one does, as
            machines that run to failure and patients do, else by time.
        seed: random seed of a split by series.

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
    share, judge = (0.0, test) if isinstance(test, str | os.PathLike) else (test, None)
    if validation <= 0 or (share <= 0 and judge is None) or validation + share >= 1:
        raise DataError(
            f"validation and test shares are above 0, and below 1 together, but are {validation} and {test}"
        )
    inputs = inputs or target
    table = _table(path, [*target, *inputs], series_id, time, missing)
    times = [table.clock[places] for places in table.places]
    how, reason = (split, "") if split else _way_to_split(table.places if time is None else times, time is not None)
    if how == "series":
        cuts = _drawn(str(path), table, validation, share, seed)
    else:
        cuts = _cuts(times, time is not None, 1 - validation - share, 1 - share)
    series = Series(
        str(path),
        table.ids,
        columns_of(table, inputs),
        columns_of(table, target),
        tuple(inputs),
        tuple(target),
        cuts,
        times,
        Source(series_id, time, tuple(target), False, how, seed if how == "series" else 0),
        reason,
    )
    return series if judge is None else _with_test_set(series, judge, missing)


def _with_test_set(series: Series, path: str | os.PathLike[str], missing: str) -> Series:
    """Series of another file behind them, as the test set."""
    source = series.source
    names = [*series.target_names, *series.input_names]
    table = _table(path, names, source.series_id, source.time, missing)
    return dataclasses.replace(
        series,
        ids=[*series.ids, *(f"{id_} of {path}" for id_ in table.ids)],
        inputs=[*series.inputs, *columns_of(table, series.input_names)],
        targets=[*series.targets, *columns_of(table, series.target_names)],
        cuts=[*series.cuts, *[(0, 0)] * len(table.ids)],
        times=[*series.times, *(table.clock[places] for places in table.places)],
    )


def _table(
    path: str | os.PathLike[str], names: Sequence[str], series_id: str | None, time: str | None, missing: str
) -> GroupedTable:
    """Columns of numbers in which nothing is missing that may not be."""
    names = list(dict.fromkeys(names))
    table = GroupedTable(path, names, series_id=series_id, time=time)
    for name in names:
        gaps = np.isnan(table.numbers(name))
        if missing == "refuse" and gaps.any():
            message = "the value is missing: fill it, or repeat the one before it (`missing='previous'`)"
            raise table.error(int(gaps.argmax()), name, message)
    for name in names:
        if np.isnan(table.numbers(name)).all():
            raise DataError(f"{path}: column {name!r} has no values")
    return table


def _way_to_split(clocks: list[np.ndarray], timed: bool) -> tuple[str, str]:
    """By series or by time, and the reason; ``clocks`` are their times, or anything as long as they are."""
    if len(clocks) < FEWEST_TO_SPLIT:
        return "time", f"there are fewer than {FEWEST_TO_SPLIT} series (`split='series'` keeps them whole)"
    ends = [one[-1] if timed else len(one) for one in clocks]
    together = sum(end == max(ends) for end in ends) / len(ends)
    if together < 0.5:
        what = "end at different times" if timed else "have different lengths"
        return "series", f"most of them {what} (`split='time'` cuts each)"
    return "time", f"most of them {'end' if timed else 'are as long'} together (`split='series'` keeps them whole)"


def _drawn(name: str, table: GroupedTable, validation: float, test: float, seed: int) -> list[tuple[int, int]]:
    """Cuts that leave each series whole, drawn by seed and name, so that an added series moves few of the others."""
    count = len(table.ids)
    sizes = [max(round(share * count), 1) if share else 0 for share in (validation, test)]
    if count <= sum(sizes):
        raise DataError(
            f"{name} has {count} series, of which none are left for the training set: split them by time"
            " (`split='time'`), or pass more"
        )
    order = sorted(range(count), key=lambda i: hashlib.sha256(f"{seed}:{table.ids[i]}".encode()).digest())
    judges, choosers = order[: sizes[1]], order[sizes[1] : sum(sizes)]
    lengths = [len(places) for places in table.places]
    cuts = [(length, length) for length in lengths]
    for i in choosers:
        cuts[i] = (0, lengths[i])
    for i in judges:
        cuts[i] = (0, 0)
    return cuts


def _cuts(times: list[np.ndarray], common: bool, first: float, second: float) -> list[tuple[int, int]]:
    if not common:
        return [(round(first * len(one)), round(second * len(one))) for one in times]
    everything = np.sort(np.concatenate(times))

    def cut(one: np.ndarray, share: float) -> int:
        if share >= 1:
            return len(one)
        return int(np.searchsorted(one, everything[min(round(share * len(everything)), len(everything) - 1)]))

    return [(cut(one, first), cut(one, second)) for one in times]


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
