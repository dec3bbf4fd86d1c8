"""The bars of fits with the defaults, with scores that are made up."""

import pytest

from benchmarks.fits import NAIVE, OURS, Result
from benchmarks.public_data import ACCURACY, MAE, DataSet


def result(name: str, score: str, ours: list[float], seconds: float = 60.0, **others: list[float]) -> Result:
    return Result(DataSet(name, lambda folder: None, score), {OURS: ours, **others}, seconds)  # pyright: ignore


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (result("JapaneseVowels", ACCURACY, [0.955, 0.97], linear=[0.98]), ""),
        (result("JapaneseVowels", ACCURACY, [0.95, 0.96], linear=[0.98]), "95.5 % are right, less than 96 %"),
        (result("JapaneseVowels", ACCURACY, [0.97], 200.0, linear=[0.98]), "200 s a fit, more than 180"),
        (result("sunspots", MAE, [12.0], **{NAIVE: [13.0]}), ""),
        (result("carbon dioxide", MAE, [1.5], **{NAIVE: [1.5]}), "an error of 1.5, no less than that of seasonal"),
        (result("air passengers", MAE, [50.0], 900.0, **{NAIVE: [13.0]}), ""),
    ],
)
def test_the_bars_of_three_data_sets(found, missed):
    assert found.missed.startswith(missed)
    assert bool(found.missed) == bool(missed)
