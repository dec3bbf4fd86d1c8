"""Comparing wirings on data: what is claimed, and what the command says."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.cli.test_fit import here
from tests.cli.test_tables import engines
from treadle.cli.compare_on_data import draw_networks
from treadle.recipes.compare_on_data import rank
from treadle.recipes.compare_on_data.race import _Pace, hurried
from treadle.recipes.compare_on_data.ranking import f_quantile, student_quantile
from treadle.recipes.translate import Learning, Pair, Translator
from treadle.show import training
from treadle.training import Fitted, SequenceTask, SeriesTask, read_sequences, read_series
from treadle.training.fit_run import Settings


def drawn(random: np.random.Generator, effects: list[float], seeds: int) -> dict[str, list[float]]:
    """Scores of networks whose true sizes differ by ``effects``, with blocks by seed and noise of 5 %."""
    blocks = random.normal(0, 0.3, seeds)
    noise = random.normal(0, 0.05, (len(effects), seeds))
    return {f"n{i}": np.exp(effect + blocks + noise[i]).tolist() for i, effect in enumerate(effects)}


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_where_there_is_no_difference_none_is_claimed_but_in_one_case_of_twenty(seeds):
    random = np.random.default_rng(0)
    claims = sum(any(row.clearly_better_than for row in rank(drawn(random, [0.0] * 7, seeds)).rows) for _ in range(500))
    assert claims <= 0.05 * 500 + 10


def test_three_seeds_find_a_difference_of_five_standard_deviations():
    random, found = np.random.default_rng(0), 0
    for _ in range(200):
        ranking = rank(drawn(random, [0.0] * 4 + [0.25] * 3, 3))
        found += sum(len(row.clearly_better_than) for row in ranking.rows if row.name in ("n0", "n1", "n2", "n3"))
    assert found >= 0.6 * 200 * 12


@pytest.mark.parametrize(
    ("seeds", "count", "times"), [(2, 1, 6), (3, 1, 3), (3, 1, 6), (3, 1, 20), (3, 3, 6), (5, 1, 6)]
)
def test_networks_that_are_less_steady_than_others_are_neither_better_nor_worse(seeds, count, times):
    random, claims = np.random.default_rng(0), 0
    for _ in range(500):
        scores = drawn(random, [0.0] * 7, seeds)
        for name in [*scores][:count]:
            scores[name] = np.multiply(scores[name], np.exp(random.normal(0, 0.05 * times, seeds))).tolist()
        claims += any(row.clearly_better_than for row in rank(scores).rows)
    assert claims <= 0.05 * 500 + 10


def test_where_there_is_one_it_is_found_and_only_this_one():
    random, found = np.random.default_rng(0), 0
    for _ in range(100):
        ranking = rank(drawn(random, [0.0, 0.0, 0.5], 3))
        claims = {row.name: row.clearly_better_than for row in ranking.rows}
        found += set(claims["n0"]) == set(claims["n1"]) == {"n2"} and not claims["n2"]
    assert found >= 90


def test_a_difference_of_less_than_a_percent_is_none_and_divergence_is_one():
    same = rank({"a": [1.0, 1.0, 1.0], "b": [1.005, 1.005, 1.005]})
    assert same.sentence == "No difference: scores would have to be 1.0 % apart to be more than chance."
    apart = rank({"a": [1.0, 1.1], "b": [1.01, 1.1], "c": [float("inf"), 1.0]})
    assert [row.name for row in apart.rows][-1] == "c"
    assert apart.rows[0].clearly_better_than == ("c",)
    assert rank({"a": [1.0], "b": [9.0]}).sentence.startswith("With one seed there is no spread")
    torn = rank({f"n{i}": [1.0, 1.0, 1.0] for i in range(31)} | {"b": [1.0, 1.3, 1.9]})
    assert torn.sentence == "No difference that the seeds agree on: use more --seeds."


@pytest.mark.parametrize("above", [1, 2, 5])
@pytest.mark.parametrize("below", [2, 10, 60])
def test_quantiles_of_f_are_those_of_scipy(above, below):
    assert f_quantile(0.8, above, below) == pytest.approx(stats.f.ppf(0.8, above, below), rel=1e-3)


@pytest.mark.parametrize("freedom", [1, 2, 5, 12, 60])
@pytest.mark.parametrize("share", [0.6, 0.975, 0.9988])
def test_quantiles_are_those_of_scipy(share, freedom):
    assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-3)


def test_a_short_fit_has_a_higher_learning_rate_within_bounds(tmp_path):
    (tmp_path / "x.csv").write_text("y\n1\n")
    settings: Any = Settings(str(tmp_path / "x.csv"), target=("y",))  # a series: 100 epochs at 0.001
    assert hurried(settings, 1000, epoch_steps=10).option("learning_rate") == 0.001
    assert hurried(settings, 5000, epoch_steps=10).option("learning_rate") == 0.001
    assert hurried(settings, 500, epoch_steps=10).option("learning_rate") == pytest.approx(0.002)
    assert hurried(settings, 20, epoch_steps=10).option("learning_rate") == 0.005
    high = dataclasses.replace(settings, learning_rate=0.01)
    assert hurried(high, 20, epoch_steps=10).option("learning_rate") == 0.01


def test_what_a_fit_costs_grows_with_its_steps_and_counts_every_validation():
    pace = _Pace(begin=0.5, step=0.01, validation=0.1, epoch_steps=3, evaluate_every=3)
    assert pace.seconds(30) == pytest.approx(0.5 + 0.3 + 13 * 0.1)
    assert pace.seconds(600) == pytest.approx(0.5 + 6 + 13 * 0.1)
    assert sorted(map(pace.seconds, range(200))) == [*map(pace.seconds, range(200))]


@pytest.mark.share(2)
@pytest.mark.parametrize("metric", ["loss", "mae", "rmse"])
def test_a_network_that_says_the_mean_has_the_score_of_a_constant(tmp_path, monkeypatch, metric):
    monkeypatch.chdir(tmp_path)
    engines("e.csv", 12)
    series = read_series("e.csv", ["rul"], ["heat"], series_id="unit", time="cycle")
    whole = read_sequences("e.csv", "rul", ["heat"], series_id="unit")
    from treadle.training.task import Design

    for task in (
        SeriesTask(series, horizon=0, metric=metric),
        SequenceTask(*whole.split(0.3, 0), metric=metric),
    ):
        model = task.build(Design(layers=1, parameters=10_000))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert task.validate(model) == pytest.approx(task.score_of_constant, rel=1e-5)


@pytest.mark.slow
def test_the_command_ranks_wirings_on_a_table(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    engines("e.csv", 12)
    options = ["--target", "rul", "--series-id", "unit", "--time", "cycle", "--horizon", "0", "--inputs", "heat,noise"]
    line = ["compare", "e.csv", *options, "--wiring", "stack,residual", "--seeds", "2", "--budget", "2steps"]
    more = ["--save", "w", "--plot", "c.svg", "--checkpoint", "kept", "--tensorboard", "logs"]
    status, out, err = here(capfd, *line, "--json", "c.json", *more)
    assert status == 0, err
    assert re.search(r"^residual, seed 1: loss [0-9.]+ \(\d of 4\)$", err, re.MULTILINE)
    assert "validation loss" in Path("c.svg").read_text()
    assert "Training 2 networks x 2 seeds for up to 2 steps each on e.csv" in " ".join(out.split())
    assert "Split by series" in out
    data = json.loads(Path("c.json").read_text())
    assert {one["network"] for one in data["results"]} == {"stack", "residual"}
    assert data["finding"] in " ".join(out.split())
    assert all(len(one["by_seed"]) == 2 for one in data["results"])
    assert Fitted.load("w").source.series_id == "unit"
    assert {path.name for path in Path("logs").iterdir()} == {
        f"{name}-lstm-{seed}" for name in ("stack", "residual") for seed in (0, 1)
    }
    assert "--reduction-factor is for comparisons on a text" in here(capfd, *line, "--reduction-factor", "2")[2]
    # What is kept is resumed by the same comparison only (tests/cli/test_kills.py resumes it).
    saved = Path("w").read_bytes()
    status, _, err = here(capfd, *line[:-1], "3steps", *more)
    assert status == 2
    assert "kept is the checkpoint of another run: budget was 2steps there, but is 3steps here" in err
    assert Path("w").read_bytes() == saved
    Path("file").write_text("")
    assert "keeps a folder of them: name another" in here(capfd, *line, "--checkpoint", "file")[2]
    status, _, err = here(capfd, "compare", "e.csv")
    assert (status, err.count("treadle: ")) == (2, 1)
    assert "there is no target column: name those to forecast with --target" in err
    Path("t.txt").write_text("so it goes " * 999)
    assert "--target has no meaning for a text" in here(capfd, "compare", "t.txt", "--target", "y")[2]


@pytest.mark.slow
def test_the_command_ranks_wirings_on_pairs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    lines = [f"{letter * n}\t{letter.upper()}{n}\n" for letter in "abcdef" for n in range(1, 6)]
    Path("p.tsv").write_text("".join(lines))
    line = ["compare", "p.tsv", "--pairs", "--wiring", "stack,residual", "--layers", "1", "--budget", "2steps"]
    line += ["--words", "target"]
    status, out, err = here(capfd, *line, "--seeds", "1", "--save", "w", "--json", "c.json", "--plot", "c.svg")
    assert status == 0, err
    assert "Training 2 networks x 1 seeds for up to 2 steps each on p.tsv (27 pairs, 3 for" in " ".join(out.split())
    assert "exact match on" in out
    assert json.loads(Path("c.json").read_text())["kind"] == "pairs"
    translator = Translator.load("w")
    assert (translator.source.unit, translator.target.unit) == ("characters", "words")
    assert set(translator.translate(["ab"])[0]) <= set("ABCDEF12345 ")
    status, _, err = here(capfd, *line, "--target", "y")
    assert (status, "--target has no meaning for pairs: leave it out" in err) == (2, True)
    assert "--pairs needs a file of pairs, or a task" in here(capfd, "compare", "--pairs")[2]


def test_the_loss_of_a_constant_is_that_of_the_frequencies_of_tokens():
    pairs = [Pair("a", "XX"), Pair("b", "XY"), Pair("c", "X")]
    translator = Translator.new(pairs, hidden_size=2)
    learning = Learning(translator, pairs[:2], pairs[2:], by_loss=True)
    # Of X, Y, the end and the start, which nobody says, with one more of each: 4, 2, 3 and 1 of 10.
    wanted = -(np.log(0.4) + np.log(0.3)) / 2
    assert learning.unigram_loss() == pytest.approx(wanted, rel=1e-6)
    assert learning.validate(translator.model) > 0


def test_curves_with_scores_that_are_not_finite_are_drawn_without_a_spread_there(tmp_path, monkeypatch):
    drawn, draw = [], training.draw_curves
    monkeypatch.setattr(training, "draw_curves", lambda *given: drawn.append(given) or draw(*given))
    curves = [((10, 2.0), (20, float("inf"))), ((10, 4.0), (20, 1.0)), ((10, 3.0), (20, float("nan")))]
    by_name = {"stack": [SimpleNamespace(curve=curve) for curve in curves], "skip": [SimpleNamespace(curve=curves[1])]}
    draw_networks(tmp_path / "curves.svg", by_name, "loss", 3.0)
    ((path, points, found, *_),) = drawn
    assert path.stat().st_size > 1_000
    assert points == [10, 20]
    assert found["stack"][1] == [1.0, None]
    assert found["skip"] == ([4.0, 1.0], [None, None])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["s.ts", "--on", "nowhere"], "--on: there is no 'nowhere'"),
        (["p.tsv", "--pairs", "--on", "nowhere"], "--on: there is no 'nowhere'"),
        (["p.tsv", "--pairs", "--words", "all"], "--words: there is no 'all'; choose one of neither, source, target"),
        (["s.ts", "--words", "both"], "--words says which sides of pairs are words: pass it with --pairs"),
    ],
)
def test_what_is_wrong_with_options_is_said_before_data_is_read(options, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("s.ts", "p.tsv"):
        Path(name).write_text("neither a case nor a pair\n")
    status, out, err = here(capfd, "compare", *options)
    assert (status, out) == (2, "")
    assert words in " ".join(err.split())
