"""The simpler models beside treadle's network forecast from every step as their packages do from one."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from statsmodels.tsa.ar_model import AutoReg, ar_select_order
from statsmodels.tsa.exponential_smoothing.ets import ETSModel

from benchmarks.rivals import autoregressed, direct, smoothed

TRAINING, HORIZON = 80, 9


def seasonal(season: int) -> np.ndarray:
    steps = np.arange(110.0)
    noise = np.random.default_rng(0).normal(0, 0.3, len(steps))
    return 3 * np.sin(2 * np.pi * steps / season) + 0.02 * steps + noise - 1


@pytest.mark.parametrize("step", [60, 85, 109])
def test_exponential_smoothing(step):
    values = seasonal(7)
    model: Any = ETSModel
    kind = {"error": "add", "trend": "add", "damped_trend": True, "seasonal": "add", "seasonal_periods": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = smoothed(values, TRAINING, HORIZON, 7)[step]
        fit = model(values[:TRAINING], **kind).fit(disp=False, maxiter=300)
    expected = model(values[: step + 1], **kind).smooth(fit.params).forecast(HORIZON)
    np.testing.assert_allclose(said, expected, rtol=1e-6)


@pytest.mark.parametrize("step", [60, 85, 109])
def test_autoregression(step):
    values = seasonal(7)
    said = autoregressed(values, TRAINING, HORIZON, 10)[step]
    fit = ar_select_order(values[:TRAINING], 10, ic="bic", trend="ct").model.fit()
    model = AutoReg(values[: step + 1], fit.model.ar_lags, trend="ct")
    expected = model.predict(fit.params, start=step + 1, end=step + HORIZON)
    np.testing.assert_allclose(said, expected, rtol=1e-9)


def test_a_line_goes_on_whatever_is_read():
    values = np.arange(40.0)
    for changes in (False, True):
        said = direct(LinearRegression(), values, 30, 4, 5, changes=changes)
        np.testing.assert_allclose(said[35], values[35] + np.arange(1, 5), rtol=1e-9)
