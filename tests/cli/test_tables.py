"""Tables of many series: what a user types, and what should come of it."""

import csv
import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.cli.test_fit import here, rows_of
from treadle.training import Fitted

SMALL = ["--layers", "1", "--parameters", "10000", "--budget", "3steps", "-o", "m"]
ENGINES = ["--target", "rul", "--series-id", "unit", "--time", "cycle", "--horizon", "0"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def engines(name: str, count: int, seed: int = 0, whole: bool = True) -> list[tuple[int, int, float, float, float]]:
    """Engines that wear until they fail, of different lives; the rows of all alternate."""
    random, rows = np.random.default_rng(seed), []
    for unit in range(1, count + 1):
        life = int(random.integers(20, 60))
        for cycle in range(1, (life if whole else life // 2) + 1):
            wear = cycle / life
            heat = wear**2 + 0.1 * random.standard_normal()
            rows.append((unit, cycle, round(heat, 4), round(random.standard_normal(), 4), float(life - cycle)))
    rows.sort(key=lambda row: row[1])
    text = "unit,cycle,heat,noise,rul\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    if name.endswith(".gz"):
        Path(name).write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".parquet"):
        columns = zip(*rows, strict=True)
        pq.write_table(pa.table(dict(zip(("unit", "cycle", "heat", "noise", "rul"), columns, strict=True))), name)
    else:
        Path(name).write_text(text.replace(",", "\t") if name.endswith(".tsv") else text)
    return rows


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["e.csv", "e.tsv", "e.csv.gz", "e.parquet"])
def test_machines_that_run_to_failure_are_split_by_series(capfd, name):
    engines(name, 20)
    status, out, err = here(capfd, "fit", name, *ENGINES, "--inputs", "heat,noise", *SMALL, "--json", "s.json")
    assert status == 0, err
    said = "Split by series, whole series: 14 for training, 3 for validation, 3 for test; most of them end at"
    assert said in " ".join(err.split())
    assert "; always predicting the training set's mean: " in out
    assert "; linear model of the same inputs: " in out
    assert "at the last step of each series: mean absolute error" in out
    assert "naive" not in out
    data = json.loads(Path("s.json").read_text())
    assert {"mean_absolute_error", "root_mean_squared_error", "r_squared", "better_by"} <= data["scores"].keys()
    assert {f"mean_absolute_error_{of}" for of in ("of_linear", "of_the_mean", "at_last_step")} <= data["scores"].keys()
    assert (data["kind"], data["steps"], data["settings"]["series_id"]) == ("series", 3, "unit")
    source = Fitted.load("m").source
    assert (source.series_id, source.time, source.split) == ("unit", "cycle", "series")


def test_the_split_can_be_chosen_and_the_rule_says_why(capfd):
    engines("e.csv", 20)
    line = ["fit", "e.csv", *ENGINES, "--inputs", "heat", *SMALL]
    _, out, err = here(capfd, *line, "--split", "time")
    assert "Split by time, pieces of series" in " ".join(err.split())
    assert "last step" not in out
    engines("few.csv", 4)
    _, _, err = here(capfd, "fit", "few.csv", *line[2:])
    assert "there are fewer than 10 series (--split series keeps them whole)" in " ".join(err.split())
    engines("two.csv", 2)
    status, _, err = here(capfd, "fit", "two.csv", *line[2:], "--split", "series")
    assert status == 2
    assert "two.csv has 2 series, of which none are left for the training set: split them by time (--split time)" in err


def test_the_test_set_of_series_may_be_another_file(capfd):
    engines("e.csv", 12)
    engines("t.csv", 5, seed=1, whole=False)
    status, out, err = here(capfd, "fit", "e.csv", *ENGINES, "--inputs", "heat,noise", *SMALL, "--test", "t.csv")
    assert status == 0, err
    assert "10 for training, 2 for validation, 5 for test" in " ".join(err.split())
    status, _, err = here(capfd, "run", "m", "t.csv", "-o", "p.csv", "--json", "s.json")
    assert status == 0, err
    # The same network over the same series: what fit says of them is what run says of them.
    assert err.strip().split("; ")[0].split(" over ")[0] == out.split(": ", 1)[1].split(" over ")[0]
    assert json.loads(Path("s.json").read_text())["scores"]["mean_absolute_error_at_last_step"] > 0


def test_run_gives_one_row_for_each_row_that_can_be_joined_and_uses_what_fit_was_told(capfd):
    rows = engines("e.csv", 12)
    here(capfd, "fit", "e.csv", *ENGINES, "--inputs", "heat,noise", *SMALL)
    status, out, err = here(capfd, "run", "m", "e.csv")
    assert status == 0
    assert err.startswith("mean absolute error ")
    assert "at the last step of each series" in err
    said = rows_of(out)
    assert said[0] == ["unit", "cycle", "row", "rul", "rul_predicted"]
    assert [(int(a), int(b), int(n), float(c)) for a, b, n, c, _ in said[1:]] == [
        (unit, cycle, number, rul) for number, (unit, cycle, _, _, rul) in enumerate(rows, 1)
    ]
    fitted = Fitted.load("m")
    for unit in (1, 12):
        xs = torch.tensor([[heat, noise] for one, _, heat, noise, _ in rows if one == unit], dtype=torch.float64)
        wanted = fitted.predict_all([xs])[0].flatten()
        found = torch.tensor([float(row[-1]) for row in said[1:] if row[0] == str(unit)], dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)

    Path("no_truth.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in Path("e.csv").read_text().split()))
    status, out, err = here(capfd, "run", "m", "no_truth.csv")
    assert (status, err) == (0, "")
    assert rows_of(out) == [[*row[:3], row[4]] for row in said]
    assert "has no true values" in here(capfd, "run", "m", "no_truth.csv", "--json", "s.json")[2]

    Path("other.csv").write_text(Path("e.csv").read_text().replace("unit", "engine"))
    status, out, err = here(capfd, "run", "m", "other.csv")
    assert (status, out) == (2, "")
    assert "other.csv has no column 'unit', which tells apart the series of what this network was fitted on" in err
    assert "name another with --series-id" in err
    assert here(capfd, "run", "m", "other.csv", "--series-id", "engine")[1].splitlines()[1:] == [
        ",".join(row) for row in said[1:]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--predict", "last", "--window", "5"]])
def test_forecasts_of_a_table_that_is_read_in_pieces_are_those_of_whole_series(capfd, monkeypatch, options):
    monkeypatch.setattr("treadle.data.table_file.PARQUET_ROWS_AT_ONCE", 17)
    rows = engines("e.parquet", 11)
    line = ["fit", "e.parquet", "--target", "heat", "--series-id", "unit", "--horizon", "3", *options]
    status, _, err = here(capfd, *line, *SMALL)
    assert status == 0, err
    _, out, err = here(capfd, "run", "m", "e.parquet", "--json", "s.json")
    said, fitted = rows_of(out), Fitted.load("m")
    assert said[0] == ["unit", "row", "heat", "heat+1", "heat+2", "heat+3"]
    errors = []
    for unit in range(1, 12):
        xs = torch.tensor([[heat] for one, _, heat, _, _ in rows if one == unit], dtype=torch.float64)
        wanted = fitted.predict_all([xs])[0][..., 0]
        found = torch.tensor([[float(word) for word in row[3:]] for row in said[1:] if row[0] == str(unit)]).double()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        errors += [wanted[t, k - 1] - xs[t + k, 0] for k in (1, 2, 3) for t in range(len(xs) - k)]
    scores, errors = json.loads(Path("s.json").read_text())["scores"], torch.stack(errors)
    assert scores["mean_absolute_error"] == pytest.approx(errors.abs().mean().item(), rel=1e-5)
    assert scores["root_mean_squared_error"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)
    assert f"over {len(errors)} values" in err


def test_series_may_be_lists(capfd):
    random = np.random.default_rng(0)
    lists = [random.standard_normal(20 + i).tolist() for i in range(12)]
    pq.write_table(pa.table({"who": [f"p{i}" for i in range(12)], "y": lists}), "l.parquet")
    line = ["fit", "l.parquet", "--target", "y", "--series-id", "who", "--horizon", "2", *SMALL]
    status, _, err = here(capfd, *line)
    assert status == 0, err
    assert "have different lengths" in " ".join(err.split())
    said = rows_of(here(capfd, "run", "m", "l.parquet")[1])
    assert said[0] == ["who", "row", "step", "y", "y+1", "y+2"]
    assert said[1][:3] == ["p0", "1", "1"]
    assert len(said) == 1 + sum(map(len, lists))


def visits(name: str = "v.csv", per_step: bool = False) -> None:
    """Patients with one outcome each, or a state at each visit; their rows alternate."""
    random, lines = np.random.default_rng(0), ["who,day,pulse,outcome"]
    for day in range(6):
        for who in range(30):
            if day < 3 + who % 3:
                well = (who + day * per_step) % 2
                lines.append(f"p{who},{day},{60 + 20 * well + random.standard_normal():.3f},{('ill', 'well')[well]}")
    Path(name).write_text("\n".join(lines) + "\n")


SEQUENCES = ["--sequences", "--series-id", "who", "--time", "day", "--target", "outcome"]


def test_a_flat_table_is_read_as_labelled_sequences(capfd):
    visits()
    status, out, err = here(capfd, "fit", "v.csv", *SEQUENCES, *SMALL[:4], "--budget", "20epochs", "-o", "m")
    assert status == 0, err
    assert "of 4 sequences of the validation set are correct" in out
    assert "commonest label" in out
    status, out, err = here(capfd, "run", "m", "v.csv")
    said = rows_of(out)
    assert said[0] == ["who", "outcome", "outcome_predicted"]
    assert [row[:2] for row in said[1:4]] == [["p0", "ill"], ["p1", "well"], ["p2", "ill"]]
    assert len(said) == 31
    right = sum(row[1] == row[2] for row in said[1:])
    assert right > 20
    assert err == f"{100 * right / 30:.1f} % of 30 labels are correct\n"
    status, _, err = here(capfd, "fit", "v.csv", "--resume", "m", "-o", "m2", "--budget", "2steps")
    assert status == 0, err  # which columns are what is in the file
    assert Fitted.load("m2").source == Fitted.load("m").source


def test_a_flat_table_may_have_an_answer_for_every_step(capfd):
    visits(per_step=True)
    status, out, err = here(capfd, "fit", "v.csv", *SEQUENCES, *SMALL, "--metric", "accuracy", "--patience", "9")
    assert status == 0, err
    assert "steps of the validation set are correct" in out
    assert "of the last ones" in out
    said = rows_of(here(capfd, "run", "m", "v.csv")[1])
    assert said[0] == ["who", "day", "row", "outcome", "outcome_predicted"]
    assert [row[:4] for row in said[1:3]] == [["p0", "0", "1", "ill"], ["p1", "0", "2", "well"]]


def test_sequences_in_a_flat_table_and_in_lists_are_the_same(capfd):
    visits()
    from treadle.training import read_sequences

    table = list(csv.DictReader(Path("v.csv").read_text().splitlines()))
    whos = list(dict.fromkeys(row["who"] for row in table))
    lists = [[float(row["pulse"]) for row in table if row["who"] == who] for who in whos]
    outcomes = [next(row["outcome"] for row in table if row["who"] == who) for who in whos]
    pq.write_table(pa.table({"pulse": lists, "outcome": outcomes}), "v.parquet")
    flat = read_sequences("v.csv", "outcome", series_id="who", time="day")
    nested = read_sequences("v.parquet", "outcome")
    assert (flat.answers, flat.labels, flat.input_names) == (nested.answers, nested.labels, nested.input_names)
    assert all(torch.equal(a, b) for a, b in zip(flat.inputs, nested.inputs, strict=True))


def lives(name: str, answers: list) -> None:
    pq.write_table(pa.table({"x": [[float(i), i / 2] for i in range(len(answers))], "rul": answers}), name)


def test_many_whole_numbers_are_labels_or_numbers_as_somebody_says(capfd):
    lives("w.parquet", list(range(126)))
    status, _, err = here(capfd, "fit", "w.parquet", "--target", "rul", *SMALL)
    assert status == 2
    assert err == (
        "treadle: w.parquet: column 'rul' has 126 different whole numbers, from 0 to 125, which may be numbers to"
        " predict or labels: pass --regression or --classes\n"
    )
    status, out, err = here(capfd, "fit", "w.parquet", "--target", "rul", "--regression", *SMALL, "--metric", "rmse")
    assert status == 0, err
    assert "mean absolute error" in out
    assert "linear model of the same inputs" in out
    assert "always predicting the training set's mean" in out

    lives("few.parquet", [i % 3 for i in range(40)])
    lives("floats.parquet", [2.5] * 4)
    line = ["fit", "few.parquet", "--target", "rul", *SMALL, "--test", "floats.parquet"]
    status, _, err = here(capfd, *line)
    assert status == 2
    assert "floats.parquet has numbers to predict (such as 2.5), but few.parquet has labels (such as '0')" in err
    assert "--regression or --classes" in err
    assert here(capfd, *line, "--regression")[0] == 0
    lives("test.parquet", list(range(30)))  # whole numbers among numbers
    lives("train.parquet", [i / 2 for i in range(60)])
    assert here(capfd, "fit", "train.parquet", "--target", "rul", *SMALL, "--test", "test.parquet")[0] == 0


def test_labels_of_a_text_file_are_as_they_are_written(capfd):
    from treadle.training import read_sequences

    Path("c.csv").write_text("who,x,label\n" + "".join(f"{i},1.5,{i % 3:03}\n" for i in range(9)))
    assert read_sequences("c.csv", "label", series_id="who").labels == ("000", "001", "002")
    assert read_sequences("c.csv", "label", series_id="who", classes=False).answers[4].tolist() == [1]


def test_predictions_take_no_more_memory_for_more_rows(monkeypatch):
    """What Python and NumPy keep, at the highest, of a file eight times as long."""
    monkeypatch.setattr("treadle.data.table_file.PARQUET_ROWS_AT_ONCE", 500)
    from treadle.training import forecaster
    from treadle.training.predictions import Predictions
    from treadle.training.scaling import Scaling

    scaling = Scaling.fit(["y"], [torch.randn(9, 1)])
    fitted = Fitted(forecaster(1, 1, hidden_size=3), scaling, scaling, predict="every", horizon=1)
    peaks = []
    for rows in (2_000, 16_000):
        pq.write_table(pa.table({"y": np.random.default_rng(0).standard_normal(rows)}), "y.parquet")
        tracemalloc.start()
        assert sum(1 for _ in Predictions(fitted, "y.parquet")) == rows + 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
