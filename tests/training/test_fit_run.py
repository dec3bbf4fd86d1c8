"""A fit by its settings: the defaults that depend on the size of the training set."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_fit import here
from treadle.training import budget
from treadle.training.fit_run import Run, Settings

SMALL: dict[str, Any] = {"layers": 1, "parameters": 10_000}


@pytest.fixture
def file(tmp_path, monkeypatch) -> str:
    """Twenty sequences, of which 16 are the training set."""
    monkeypatch.chdir(tmp_path)
    cases = "".join(f"{i % 5},{i % 3},{i % 2}:{'ab'[i % 2]}\n" for i in range(20))
    Path("s.ts").write_text(f"@problemName p\n@univariate true\n@classLabel true a b\n@data\n{cases}")
    return "s.ts"


@pytest.mark.parametrize(("rows", "epoch", "patience"), [(32, 1, 500), (4, 4, 125), (1, 16, 50)])
def test_of_short_epochs_there_are_more_before_a_fit_stops(file, rows, epoch, patience):
    run = Run(Settings(file, rows=rows, **SMALL))
    assert (run.task.epoch_steps, run.patience) == (epoch, patience)
    assert Run(Settings(file, rows=rows, patience=3, **SMALL)).patience == 3


@pytest.mark.parametrize(("options", "steps"), [([], 1000), (["--budget", "100epochs"], 100)])
def test_a_hundred_epochs_by_default_are_a_thousand_steps_at_least(file, monkeypatch, capfd, options, steps):
    planned = []

    class Over(budget.ShareDone):
        def __init__(self, **kwargs):
            planned.append(kwargs["steps"])
            super().__init__(steps=1, stop=lambda: True)

    monkeypatch.setattr(budget, "ShareDone", Over)
    line = ["fit", file, "-o", "m", "--layers", "1", "--parameters", "10000", "--json", "-"]
    status, out, err = here(capfd, *line, *options)
    assert status == 0, err
    assert (planned, json.loads(out)["steps"]) == ([steps], 0)


def test_a_size_of_the_vocabulary_says_that_words_are_read(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 300)
    said = [Run(Settings(str(path), vocabulary=5, words=words, rows=2, window=4)).about() for words in (False, True)]
    assert said[0] == said[1]
    assert "words" not in Run(Settings(str(path), layers=1, parameters=25_000)).about()
