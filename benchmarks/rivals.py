"""What scikit-learn and statsmodels make of the data sets of `benchmarks.public_data`: the figures beside treadle's.

Each has its package's defaults, and everything before the test set to train on; treadle's network keeps a part of that
for validation. A choice, where there is one, is made on that part: the last of the training set, or drawn from it.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.tsa.ar_model import ar_select_order
from statsmodels.tsa.exponential_smoothing.ets import ETSModel

from benchmarks.public_data import ACCURACY, DataSet
from treadle.training import read_sequences, read_series
from treadle.training.scaling import last_known
from treadle.training.series import find_season

ALPHAS = np.logspace(-3, 3, 13)
SHORTEST, LONGEST = 10, 60
"""Delays that linear model and trees read: a season, but at least and at most so many steps."""


def rivals(data: DataSet, folder: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The test scores of each, one for each seed where chance plays a part."""
    return _of_series(data, folder, seeds) if data.series else _of_sequences(data, folder, seeds)


def _of_sequences(data: DataSet, folder: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    files, target = data.files(folder), data.option("--target")
    parts = [read_sequences(path, target) for path in files if path is not None]
    steps = round(np.mean([len(x) for x in parts[0].inputs]))
    x, judged = (np.stack([_stretched(one, steps) for one in part.inputs]) for part in parts)
    y, true = map(_answers, parts)
    labels = data.score == ACCURACY
    linear = LogisticRegression(max_iter=10_000) if labels else RidgeCV(ALPHAS)
    forest: Any = RandomForestClassifier if labels else RandomForestRegressor
    nearest = KNeighborsClassifier(1) if labels else KNeighborsRegressor(1)
    models = {
        "1-NN": [make_pipeline(StandardScaler(), nearest)],
        "linear": [make_pipeline(StandardScaler(), linear)],
        "random forest": [forest(random_state=seed) for seed in seeds],
    }

    def score(said: np.ndarray) -> float:
        return float(np.mean(said == true) if labels else np.sqrt(np.mean((said - true) ** 2)))

    return {name: [score(one.fit(x, y).predict(judged)) for one in some] for name, some in models.items()}


def _stretched(x: Any, steps: int) -> np.ndarray:
    """A sequence [T, I] as one row, its channels stretched to a common length: these models know no other."""
    places = np.linspace(0, len(x) - 1, steps)
    return np.concatenate([np.interp(places, np.arange(len(x)), column) for column in x.numpy().T])


def _answers(part: Any) -> np.ndarray:
    return np.array(part.answers) if part.labels else np.array([answer.item() for answer in part.answers])


def _of_series(data: DataSet, folder: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    series = read_series(
        data.files(folder).data,
        [data.option("--target") or ""],
        time=data.option("--time"),
        missing=data.option("--missing") or "refuse",
    )
    horizon, (first, second) = int(data.option("--horizon") or 1), series.cuts[0]
    truth, known = (values[:, 0].numpy() for values in (series.targets[0], last_known(series.targets[0])))
    season = find_season(series.part(series.targets, "training"))
    most = min(max(SHORTEST, season), LONGEST)

    def error(forecasts: np.ndarray, start: int, end: int) -> float:
        """The mean absolute error of forecasts [N, H], made at each step from what is known then, of some rows."""
        return float(np.nanmean(np.abs(forecasts - ahead(truth, horizon, start, end))))

    def test_error(forecasts: np.ndarray) -> float:
        return error(forecasts, second, len(truth))

    def forest(seed: int) -> Any:
        return RandomForestRegressor(random_state=seed)

    ridge = make_pipeline(StandardScaler(), RidgeCV(ALPHAS))
    ways = {way: direct(forest(0), known, first, horizon, most, changes=way) for way in (False, True)}
    changes = min(ways, key=lambda way: error(ways[way], first, second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a likelihood that is flat
        return {
            "exponential smoothing": [test_error(smoothed(known, second, horizon, season))],
            "autoregression": [test_error(autoregressed(known, second, horizon, most))],
            "linear": [test_error(direct(ridge, known, second, horizon, most))],
            "random forest": [
                test_error(direct(forest(seed), known, second, horizon, most, changes=changes)) for seed in seeds
            ],
        }


def ahead(values: np.ndarray, horizon: int, start: int, end: int) -> np.ndarray:
    """[N, H]: at t the values of steps t + 1 to t + H, of those rows that lie between start and end; NaN elsewhere."""
    there = np.full(len(values) + horizon, np.nan)
    there[start:end] = values[start:end]
    return np.stack([there[k : k + len(values)] for k in range(1, horizon + 1)], 1)


def ago(values: np.ndarray, steps: int) -> np.ndarray:
    """At t the value some steps before; the first one before the start."""
    return values if not steps else np.concatenate([np.full(steps, values[0]), values[:-steps]])


def direct(model: Any, values: np.ndarray, end: int, horizon: int, most: int, *, changes: bool = False) -> np.ndarray:
    """Forecasts [N, H] of one model for all steps ahead, from the last values, fitted to what lies before ``end``.

    With ``changes`` it reads and says how far values are from the present one, as trees cannot say what they never saw.
    """
    level = values[:, None] if changes else np.zeros((len(values), 1))
    reads = np.stack([ago(values, steps) for steps in range(most)], 1) - level
    wanted = ahead(values, horizon, 0, end) - level
    rows = ~np.isnan(wanted).any(1) & (np.arange(len(values)) >= most - 1)
    return model.fit(reads[rows], wanted[rows]).predict(reads) + level


def smoothed(values: np.ndarray, end: int, horizon: int, season: int) -> np.ndarray:
    """Exponential smoothing with a damped trend and a season; multiplicative where that is likelier (AIC)."""
    ways: list[dict[str, Any]] = [{"seasonal": None}]
    if 1 < season <= LONGEST:
        kinds = ["add", "mul"] if values.min() > 0 else ["add"]
        ways = [{"seasonal": kind, "seasonal_periods": season} for kind in kinds]
    common: dict[str, Any] = {"error": "add", "trend": "add", "damped_trend": True}
    model: Any = ETSModel  # what it returns depends on what it is given: too much for a type checker
    fits = [(way, model(values[:end], **common, **way).fit(disp=False, maxiter=300)) for way in ways]
    way, fit = min(fits, key=lambda one: one[1].aic)
    states = np.asarray(model(values, **common, **way).smooth(fit.params).states)
    damping = dict(zip(fit.param_names, fit.params, strict=True))["damping_trend"]
    level, trend = states[:, 0], states[:, 1]
    forecasts, trends = [], 0.0
    for k in range(1, horizon + 1):
        trends += damping**k
        now = level + trends * trend
        if way["seasonal"] is not None:
            phase = ago(states[:, 2], (season - k) % season)  # what the season was, when it was last as it will be then
            now = now + phase if way["seasonal"] == "add" else now * phase
        forecasts.append(now)
    return np.stack(forecasts, 1)


def autoregressed(values: np.ndarray, end: int, horizon: int, most: int) -> np.ndarray:
    """An autoregression whose order the BIC has chosen."""
    fit = ar_select_order(values[:end], most, ic="bic", trend="ct").model.fit()
    constant, slope, *weights = fit.params
    past, time = [ago(values, steps) for steps in range(max(len(weights), 1))], np.arange(len(values)) + 1
    forecasts = []
    for steps in range(1, horizon + 1):
        next_one = constant + slope * (time + steps)
        next_one = next_one + sum(weight * one for weight, one in zip(weights, past, strict=False))
        forecasts.append(next_one)
        past = [next_one, *past[:-1]]
    return np.stack(forecasts, 1)
