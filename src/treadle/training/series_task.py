"""Forecasting series: training and evaluation."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.errors import DataError
from treadle.running.recurrent import Recurrent
from treadle.training.batches import Epochs
from treadle.training.evaluate import mean_loss
from treadle.training.fitted import Fitted
from treadle.training.layered_networks import fit_linear, forecaster
from treadle.training.memory import BYTES_PER_PARAMETER, require_memory
from treadle.training.scaling import Scaling, fill_previous
from treadle.training.scores import least_squares, linear_predictions, metric_of
from treadle.training.series import Series, find_season, seasonal_naive
from treadle.training.task import MOST_STEPS, Design, Forecasts, Habits, Verdict
from treadle.training.verdict import LINEAR, THE_MEAN, Rival, verdict

FEWER = "name fewer `inputs`"


class SeriesTask:
    """Forecasting: at every step, predict the steps that follow.

    The network is trained on windows of the training set. Each epoch cuts it into pieces that do not overlap, at random
    places, and runs over every piece from a ``context`` before it: half a window, or a season if that is more. So each
    forecast is trained on once per epoch, with at least that much past, except at the start of a series. It is
    evaluated as it is used: in one run over each series, from its start.

    With ``predict="last"`` only the forecast at a window's end counts, in training and in use: every step has its own
    window. That costs ``window`` times as much.

    Args:
        series: training, validation and test set.
        start: the network to train further, whose scaling, ``horizon`` and ``predict`` hold; a new network if it is
            None.
        horizon: forecast horizon in steps; 1 if it is None; 0 for the present step, from inputs that are not the
            target.
        window: ``T``; at least 64 and four seasons if it is None, less if the series are shorter.
        season: steps of a season, for the linear part and for the seasonal-naive forecast; estimated by
            autocorrelation in the training set if it is None.
        difference: differencing: whether the layers read changes of the inputs instead of the inputs; by default, if
            they have a trend.
        predict: ``"every"``, the usual way, or ``"last"``.
        metric: what validation watches: ``"loss"``, or the error in units, ``"mae"`` or ``"rmse"``, also that of each
            series' last step, ``"last-mae"`` or ``"last-rmse"``.
        rows: ``B``, batch size.
        seed: random seed of the order, and of where pieces begin.
        share: ``(rank, ranks)`` of the process.

    Raises:
        DataError: a series is shorter than a window, a set is empty, nothing is left to forecast; what ``start`` was
            not made for.
    """

    carry_state = False
    losses: Mapping[str, Any] = {}
    habits = Habits("100epochs", 20_000, 0.001, 16, 20, dropout=0.3, noise=0.2, weight_decay=0.1)

    def __init__(
        self,
        series: Series,
        *,
        start: Fitted | None = None,
        horizon: int | None = None,
        window: int | None = None,
        season: int | None = None,
        difference: bool | None = None,
        predict: str | None = None,
        metric: str = "loss",
        rows: int = 32,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ):
        if start is not None:
            start.refuse_other(series.name, series.input_names, series.target_names)
            for name, value in (("horizon", horizon), ("predict", predict)):
                start.refuse_option(name, value)
            horizon, predict = start.horizon, start.predict
            if predict == "last":
                start.refuse_option("window", window)
                window = start.window
        horizon, predict = 1 if horizon is None else horizon, predict or "every"
        own = set(series.target_names) & set(series.input_names)
        if horizon == 0 and own:
            raise DataError(
                f"{series.name}: with `horizon=0` the network would read {sorted(own)[0]!r}, which is the target:"
                " name other `inputs`, or forecast with `horizon=1` or more"
            )
        if metric == "accuracy":
            raise DataError(
                f"{series.name}: `metric='accuracy'` is of labels, but numbers are predicted: pass mae or rmse"
            )
        learned = [one for one in series.part(series.targets, "training") if len(one)] or [series.targets[0][:0]]
        longest = max(map(len, series.targets))
        if season is not None and season >= longest:
            raise DataError(
                f"{series.name}: `season={season}`, but the longest series has {longest} rows: pass less than that"
            )
        self._check_memory(series, horizon, max(map(len, learned)))
        if window is None:
            series.check(1)
            longest = max(map(len, learned))
            season = season or find_season(learned)
            window = min(max(64, 4 * season), longest)
        series.check(window)
        self.series, self.horizon, self.window, self.predict, self._metric = series, horizon, window, predict, metric
        self.season = season or find_season(learned)
        self.inputs = start.inputs if start else Scaling.fit(series.input_names, series.part(series.inputs, "training"))
        self.targets = (start and start.targets) or Scaling.fit(series.target_names, learned)
        self.difference = _has_trend(series.part(series.inputs, "training")) if difference is None else difference
        self._xs = [fill_previous(self.inputs.apply(one)) for one in series.inputs]
        self._training = [self._targets(i, "training") for i in range(len(series))]
        if not any((~y.isnan()).any() for y in self._training):
            raise DataError(f"{series.name}: no forecast of the training set has a target")
        for part in ("validation", "test"):
            if all(values.isnan().all() for values in series.part(series.targets, part)):
                raise DataError(
                    f"{series.name}: all targets of the {part} set are missing: fill some, or leave rows out"
                )
        context = window - 1 if predict == "last" else min(max(window // 2, self.season), window - 1)
        self._piece, self._context, self._rows, self._seed = window - context, context, rows, seed
        self.name = series.name
        count = sum(map(len, learned))
        among = sum(map(bool, map(len, learned)))
        self.size = f"{count} rows" + (f" of {among} series" if len(series) > 1 else "")
        self.split = series.split
        self.batches = Epochs(self._plan, self._example, share)
        self.epoch_steps = len(self.batches)
        self.evaluate_every = min(self.epoch_steps, MOST_STEPS)

    @staticmethod
    def _check_memory(series: Series, horizon: int, longest: int) -> None:
        """Refuse forecasts that reach beyond all that is known, and what no memory holds."""
        if horizon > 1 and horizon >= longest:
            raise DataError(
                f"{series.name}: with `horizon={horizon}` nothing is left to compare forecasts with, as the longest"
                f" training set has {longest} rows: pass `horizon={max(longest - 1, 1)}` or less"
            )
        answers = sum(map(len, series.inputs)) * max(horizon, 1) * len(series.target_names)
        require_memory(40 * answers, f"{series.name}: forecasting {horizon} steps", "pass a smaller `horizon`")
        # The linear part reads ten steps and more, and is fitted in float64.
        needed = 24 * (10 * len(series.input_names)) ** 2
        require_memory(needed, f"{series.name}: the linear part of {len(series.input_names):,} inputs", FEWER)

    def _targets(self, i: int, part: str) -> Tensor:
        """[N, H * K], scaled: at t what is to be forecast then, as far as it lies in a part; NaN elsewhere."""
        return self._ahead(i, part, self.targets.apply(self.series.targets[i]))

    def _ahead(self, i: int, part: str, values: Tensor) -> Tensor:
        """[N, H * K]: at t those of some values [N, K] that are to be forecast then, as far as they lie in a part."""
        start, end = self.series.bounds(i, part)
        there = torch.arange(len(values))[:, None]
        values = torch.where((there >= start) & (there < end), values, float("nan"))
        ahead = range(1, self.horizon + 1) if self.horizon else [0]
        beyond = values.new_full((max(ahead), values.shape[1]), float("nan"))
        later = torch.cat([values, beyond])
        return torch.cat([later[k : k + len(values)] for k in ahead], 1)

    def _plan(self, epoch: int) -> list[list[Any]]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
        pieces = []
        for i in range(len(self.series)):
            _, end = self.series.bounds(i, "training")
            phase = int(torch.randint(self._piece, (), generator=generator))
            starts = range(phase - self._piece if phase else 0, end, self._piece)
            pieces += [(i, max(start, 0), min(start + self._piece, end)) for start in starts]
        pieces = [piece for piece in pieces if not self._training[piece[0]][piece[1] : piece[2]].isnan().all()]
        order = torch.randperm(len(pieces), generator=generator).tolist()
        return [[pieces[k] for k in order[at : at + self._rows]] for at in range(0, len(order), self._rows)]

    def _example(self, piece: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        i, start, end = piece
        before = max(start - self._context, 0)
        y = self._training[i][before:end].clone()
        y[: start - before] = float("nan")
        return self._xs[i][before:end], y

    def delays(self) -> list[int]:
        """What the linear part reads: the last ten steps, and those a season before what is forecast."""
        seasonal = {self.season * -(-k // self.season) - k for k in range(1, self.horizon + 1)} | {self.season}
        return sorted({*range(10), *(delay for delay in seasonal if delay <= 512)} & set(range(self.window)))

    def build(self, design: Design) -> Recurrent:
        sizes = len(self.inputs.names), max(self.horizon, 1) * len(self.targets.names)
        delays = self.delays()
        differences = sorted({1, self.season} & {1, *range(513)}) if self.difference else []
        read = sizes[0] * len(delays)
        rows = sum(end for end, _ in self.series.cuts)
        needed = 8 * (2 * rows * read + 3 * read**2) + BYTES_PER_PARAMETER * (read * sizes[1] + 4 * sizes[0] ** 2)
        require_memory(needed, f"{self.name}: the linear part of {sizes[0]:,} inputs", FEWER)
        model = design.built(forecaster, *sizes, delays, differences)
        fit_linear(model, self._examples_of_linear(), delays)
        return model

    def _examples_of_linear(self) -> list[tuple[Tensor, Tensor]]:
        ends = [end for end, _ in self.series.cuts]
        return [(x[:end], y[:end]) for x, y, end in zip(self._xs, self._training, ends, strict=True)]

    def fitted(self, model: Recurrent) -> Fitted:
        window = self.window if self.predict == "last" else None
        scaled = self.inputs, self.targets
        return Fitted(model, *scaled, (), self.predict, self.horizon, window, self.series.source)

    def save(self, path: str | os.PathLike[str], model: Recurrent) -> None:
        self.fitted(model).save(path)

    def _of_part(self, part: str) -> list[int]:
        """The series that have steps in a part."""
        bounds = [self.series.bounds(i, part) for i in range(len(self.series))]
        return [i for i, (start, end) in enumerate(bounds) if start < end]

    def _outputs(self, model: Recurrent, part: str) -> list[Tensor]:
        """[N, H * K], scaled, at every step up to the end of a part, of each series that has steps in it."""
        whole = [(self.series.inputs[i], self.series.bounds(i, part)[1]) for i in self._of_part(part)]
        return self.fitted(model).outputs([xs[:end] for xs, end in whole])

    def validate(self, model: Recurrent) -> float:
        if self._metric != "loss":
            said, true = zip(*[(said, true) for _, said, true in self._predictions(model, "validation")], strict=True)
            return metric_of(self._metric, said, true)
        outputs, whose = self._outputs(model, "validation"), self._of_part("validation")
        targets = [self._targets(i, "validation")[: len(ys)] for i, ys in zip(whose, outputs, strict=True)]
        return mean_loss(outputs, targets)

    @property
    def score_of_constant(self) -> float:
        whose = self._of_part("validation")
        targets = [self._targets(i, "validation") for i in whose]
        if self._metric == "loss":
            return mean_loss([torch.zeros_like(y) for y in targets], targets)
        shape = (-1, max(self.horizon, 1), len(self.targets.names))
        true = [self._ahead(i, "validation", self.series.targets[i]).reshape(shape) for i in whose]
        return metric_of(self._metric, [self.targets.means.expand_as(one) for one in true], true)

    def _predictions(self, model: Recurrent, part: str) -> list[tuple[int, Tensor, Tensor]]:
        """Of each series with steps in a part: its number, predictions and what is true, [N, H, K] in units."""
        shape, found = (max(self.horizon, 1), len(self.targets.names)), []
        for i, ys in zip(self._of_part(part), self._outputs(model, part), strict=True):
            truth = self._ahead(i, part, self.series.targets[i])[: len(ys)].unflatten(1, shape)
            found.append((i, self.targets.undo(ys.unflatten(1, shape)), truth))
        return found

    def judge(self, model: Recurrent) -> Verdict:
        found = self._predictions(model, "test")
        said, true = [ys for _, ys, _ in found], [truth for _, _, truth in found]
        what = f"{'forecasts' if self.horizon else 'predictions'} of the test set"
        each = "series" if self.series.source.split == "series" else ""
        try:
            return verdict(said, true, self._rivals(found), what, last_of_each=each)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from None

    def _rivals(self, found: list[tuple[int, Tensor, Tensor]]) -> list[Rival]:
        """What simpler models say where the network does.

        The present may not be predicted from the past of what is predicted, which the network does not read.
        """
        delays, width = self.delays(), max(self.horizon, 1) * len(self.targets.names)
        solution, linear, mean, naive = least_squares(self._examples_of_linear(), delays), [], [], []
        for i, ys, _ in found:
            predicted = linear_predictions(solution, self._xs[i][: len(ys)], delays, width)
            linear.append(self.targets.undo(predicted.unflatten(1, ys.shape[1:])))
            mean.append(self.targets.means.expand_as(ys))
            naive.append(seasonal_naive(self.series.targets[i][: len(ys)], self.season, self.horizon))
        if self.horizon:
            words = f"seasonal-naive (season {self.season})"
            return [Rival("the_mean", "", mean), Rival("linear", "", linear), Rival("seasonal_naive", words, naive)]
        return [Rival("the_mean", THE_MEAN, mean), Rival("linear", LINEAR, linear)]

    def truth(self, model: Recurrent) -> Forecasts:
        longest, said, _ = max(self._predictions(model, "test"), key=lambda one: int((~one[2].isnan()).sum()))
        start, end = self.series.bounds(longest, "test")
        curves = {}
        for ahead in dict.fromkeys([1, self.horizon]) if self.horizon else [0]:
            at = torch.arange(start, end) - ahead
            label = f"{ahead} {'step' if ahead == 1 else 'steps'} ahead" if ahead else "predicted"
            curves[label] = said[at.clamp(min=0), max(ahead, 1) - 1, 0].tolist()
        true = self.series.targets[longest][start:end, 0].tolist()
        name = self.targets.names[0] + (f" of {self.series.ids[longest]}" if len(self.series) > 1 else "")
        return Forecasts(name, list(range(start, end)), true, curves)


def _has_trend(values: Sequence[Tensor]) -> bool:
    """Whether a straight line explains more than half of how the longest series varies."""
    column = max(values, key=len)[:, 0].double()
    there = ~column.isnan()
    steps = torch.arange(len(column)).double()[there]
    if len(steps) < 3 or column[there].std() == 0:
        return False
    return torch.corrcoef(torch.stack([steps, column[there]]))[0, 1].item() ** 2 > 0.5
