import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.tolerances import assert_close
from treadle.data.table_file import TableFile
from treadle.errors import DataError, ShapeError
from treadle.training import SeriesTask, read_series
from treadle.training.series import find_season, seasonal_naive
from treadle.training.task import Design


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "x.csv") -> str:
    Path(name).write_text(text)
    return name


def csv(rows: int = 100, columns: str = "t,y,z") -> str:
    return write(f"{columns}\n" + "".join(f"{i},{i % 7},{i * i}\n" for i in range(rows)))


def test_parts_are_cut_by_time():
    series = read_series(csv(), ["y"], ["z", "y"], time="t", validation=0.2, test=0.1)
    assert series.bounds(0, "training") == (0, 70)
    assert series.bounds(0, "validation") == (70, 90)
    assert series.bounds(0, "test") == (90, 100)
    assert series.inputs[0][3].tolist() == [9, 3]
    assert series.targets[0][:, 0].tolist() == [i % 7 for i in range(100)]


def test_series_may_alternate_and_are_cut_at_one_time():
    rows = "".join(
        f"2024-01-{day:02},{name},{day}\n" for day in range(1, 21) for name in "ab" if name == "a" or day > 10
    )
    series = read_series(write("day,who,y\n" + rows), ["y"], series_id="who", time="day", validation=0.2, test=0.2)
    assert series.ids == ["a", "b"]
    assert series.targets[1][:, 0].tolist() == list(range(11, 21))
    for part in ("validation", "test"):  # the same days, in both
        days = [one[slice(*series.bounds(i, part))].tolist() for i, one in enumerate(series.times)]
        assert days[0] == days[1] != []


def test_without_times_each_series_is_cut_at_its_own_shares():
    rows = "".join(f"{name},{i}\n" for name, count in (("a", 100), ("b", 10)) for i in range(count))
    series = read_series(write("who,y\n" + rows), ["y"], series_id="who", validation=0.2, test=0.2)
    assert series.cuts == [(60, 80), (6, 8)]


def test_parquet_has_its_own_types():
    days = pa.array(np.arange("2024-01-01", "2024-02-10", dtype="datetime64[D]"))
    pq.write_table(pa.table({"day": days, "y": pa.array(range(40), pa.int16())}), "x.parquet")
    assert read_series("x.parquet", ["y"], time="day").targets[0].shape == (40, 1)


LINES = "t,y\n1,10\n2,11\n3,12\n4,13\n"
BAD = {
    ("a missing column", LINES): ({"target": ["yy"]}, r"x\.csv has no column 'yy': it has t, y; did you mean 'y'\?"),
    ("text", LINES + "5,high\n"): ({}, r"x\.csv, line 6, column 'y': 'high' is not a number"),
    ("text after a blank line", LINES + "\n\n5,high\n"): ({}, "line 8, column 'y': 'high'"),
    ("a gap", LINES + "5,\n"): ({}, r"line 6, column 'y': the value is missing: .*`missing='previous'`"),
    ("NaN", LINES + "5,NaN\n"): ({}, "line 6, column 'y': the value is missing"),
    ("infinite", LINES + "5,inf\n"): ({}, "line 6, column 'y': the value is infinite"),
    ("the same time", LINES + "4,14\n"): ({}, "line 6, column 't': 4 is the same time as 4 in line 5"),
    ("an earlier time", LINES + "2,14\n"): ({}, "line 6, column 't': 2 is earlier than 4 in line 5"),
    ("no time", LINES + ",14\n"): ({}, "line 6, column 't': there is no time"),
    ("an odd time", LINES + "noon,14\n"): (
        {},
        "line 6, column 't': 'noon' is no time",
    ),
    ("a field too many", LINES + "5,14,3\n"): ({}, "line 6: 3 fields, but the first line has 2 columns"),
    ("two columns of a name", "y,y\n1,2\n"): ({}, "2 columns called 'y'"),
    ("no rows", "t,y\n"): ({}, "has no rows"),
    ("nothing", ""): ({}, "has no header"),
    ("no values", "t,y\n1,\n2,\n"): ({"missing": "previous"}, "column 'y' has no values"),
    ("no target", LINES): ({"target": []}, "name those to forecast with `target`"),
    ("no id", "t,y,who\n1,2,a\n2,2,\n"): (
        {"series_id": "who"},
        "line 3, column 'who': the id of the series is missing",
    ),
    ("shares", LINES): ({"validation": 0.5, "test": 0.5}, "below 1 together"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[0])
def test_what_does_not_fit_is_refused_with_its_place(case):
    arguments, message = BAD[case]
    with pytest.raises(DataError, match=message):
        read_series(write(case[1]), **({"target": ["y"], "time": "t"} | arguments))


def test_a_value_with_line_ends_inside_does_not_shift_the_lines():
    with pytest.raises(DataError, match="line 5, column 'y': 'high'"):
        read_series(write('note,y\n"two\nlines",1\nx,2\nx,high\n'), ["y"])


def test_a_file_that_is_no_parquet_is_refused():
    with pytest.raises(DataError, match=r"x\.parquet is not a Parquet file"):
        TableFile(write("t,y\n", "x.parquet"))


def test_a_binary_file_is_no_csv():
    Path("x.csv").write_bytes(b"t,y\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"x\.csv"):
        read_series("x.csv", ["y"], time="t")


def test_short_series_and_empty_parts_are_refused():
    with pytest.raises(
        DataError, match="has 70 rows in the training set, but a window has 71 steps: pass `window=70` or less"
    ):
        SeriesTask(read_series(csv(), ["y"]), window=71)
    with pytest.raises(DataError, match="has 2 rows, none of which are left for the test set"):
        SeriesTask(read_series(csv(2), ["y"]))


def test_seasonal_naive_looks_a_season_back_and_never_ahead():
    values = torch.arange(20.0)[:, None]
    found = seasonal_naive(values, season=4, horizon=6)
    for t in range(20):
        for ahead in range(1, 7):
            back = next(t + ahead - 4 * k for k in range(1, 9) if t + ahead - 4 * k <= t)
            said = found[t, ahead - 1, 0].item()
            assert said == back if back >= 0 else math.isnan(said)


def test_seasonal_naive_takes_the_last_value_for_one_that_is_missing():
    values = torch.tensor([[math.nan], [1.0], [math.nan], [3.0]])
    assert seasonal_naive(values, 1, 1)[:, 0, 0].nan_to_num(-1).tolist() == [-1, 1, 1, 3]
    assert seasonal_naive(values, 2, 1)[:, 0, 0].nan_to_num(-1).tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("season", [2, 7, 12, 52])
def test_a_season_is_found_under_a_trend_noise_and_gaps(season):
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(8.0 * season + 40)
    wave = torch.where(steps % season < season / 2, 1.0, -1.0) + 0.3 * (2 * torch.pi * steps / season).sin()
    values = wave + 0.2 * torch.randn(len(steps), generator=generator) + 0.5 * steps
    values[5] = math.nan
    assert find_season([values[:, None]]) == season


def test_what_does_not_repeat_has_no_season():
    noise = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    assert find_season([noise]) == 1
    assert find_season([torch.arange(50.0)[:, None]]) == 1
    assert find_season([torch.ones(50, 1)]) == 1
    sevens = torch.arange(100.0).double()[:, None] % 7
    for level in (0, 1e9, -1e12):
        assert find_season([level + sevens]) == 7
        assert find_season([torch.full((50, 1), level).double()]) == 1
    assert find_season([torch.ones(2, 1)]) == 1


@pytest.mark.parametrize("predict", ["last", "every"])
def test_each_forecast_of_the_training_part_is_learned_from_once_an_epoch(predict):
    """And nothing of the other parts ever is."""
    task = SeriesTask(read_series(csv(), ["z"]), horizon=2, window=10, season=1, predict=predict, rows=4)
    for epoch in range(3):
        seen = []
        for batch in task._plan(epoch):
            for piece in batch:
                x, y = task._example(piece)
                assert len(x) == len(y) <= 10
                learned = ~y.isnan()
                assert not learned[: piece[1] - max(piece[1] - task._context, 0)].any()
                seen += [round(v) for v in task.targets.undo(y[:, 1:])[learned[:, 1]].sqrt().flatten().tolist()]
        assert sorted(seen) == list(range(2, 70))  # z is the square of the row


def test_what_is_to_be_forecast_is_never_made_up():
    rows = "".join(f"{i},{'' if i % 3 == 0 else i}\n" for i in range(60))
    series = read_series(write("t,y\n" + rows), ["y"], missing="previous")
    task = SeriesTask(series, horizon=1, window=8, season=1)
    y = task._targets(0, "training")[:, 0]
    assert [t + 1 for t in range(60) if not y[t].isnan()] == [i for i in range(42) if i % 3]
    x = task._xs[0][:, 0]
    assert x[0] == 0
    assert x[6] == x[5] != x[7]


def test_the_present_cannot_be_predicted_from_itself_but_from_others():
    with pytest.raises(DataError, match="`horizon=0` the network would read 'y'"):
        SeriesTask(read_series(csv(), ["y"]), horizon=0)
    task = SeriesTask(read_series(csv(), ["y"], ["z"]), horizon=0, window=10)
    assert task._targets(0, "training")[5, 0] == task.targets.apply(torch.tensor([5.0]))[0]


def test_a_linear_recurrence_is_forecast_by_the_start_alone():
    """Least squares must find it, before any step of training: what is tested is the order of the delays."""
    steps = np.arange(300)
    values = np.sin(steps * 0.3) + 0.5 * np.cos(steps * 0.11)
    series = read_series(write("y\n" + "\n".join(map(str, values))), ["y"])
    task = SeriesTask(series, horizon=3, window=40, season=1)
    torch.manual_seed(0)
    scores = task.judge(task.build(Design(parameters=20_000))).scores
    assert scores["mean_absolute_error"] < 0.05
    assert scores["better_by"] > 0.8


def test_judging_is_written_out():
    series = read_series(csv(), ["y"], time="t")
    task = SeriesTask(series, horizon=2, window=20, season=5)
    torch.manual_seed(0)
    model = task.build(Design(parameters=20_000))
    fitted = task.fitted(model)
    forecasts = fitted.predict_all([series.inputs[0]])[0]  # [N, H, 1]
    y = series.targets[0][:, 0]
    start, end = series.bounds(0, "test")
    errors, naive = [], []
    for t in range(len(y)):
        for ahead in (1, 2):
            if start <= t + ahead < end:
                errors.append(abs(forecasts[t, ahead - 1, 0] - y[t + ahead]).item())
                naive.append(abs(y[t + ahead - 5] - y[t + ahead]).item())
    scores = task.judge(model).scores
    wanted = {
        "mean_absolute_error": np.mean(errors),
        "mean_absolute_error_of_seasonal_naive": np.mean(naive),
        "better_by": 1 - np.mean(errors) / np.mean(naive),
    }
    for name, value in wanted.items():
        assert_close(torch.tensor(scores[name], dtype=torch.float64), torch.tensor(value), torch.float32, name)


def test_far_from_zero_the_error_is_the_same_as_near_it():
    """Rounded to float32, all of these values would be one, and every forecast right."""
    near, far = (
        SeriesTask(read_series(write("y\n" + "\n".join(str(add + i % 7) for i in range(200))), ["y"]), season=1)
        for add in (0, 10**9)
    )
    torch.manual_seed(0)
    model = near.build(Design(parameters=5232))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # the mean is forecast
    errors = [task.judge(model).scores for task in (near, far)]
    assert_close(torch.tensor(errors[1]["mean_absolute_error"]), torch.tensor(errors[0]["mean_absolute_error"]))
    assert 1.5 < errors[0]["mean_absolute_error"] < 2
    assert errors[1]["mean_absolute_error_of_seasonal_naive"] == errors[0]["mean_absolute_error_of_seasonal_naive"]


def test_what_no_memory_holds_is_refused_at_once():
    series = read_series(csv(), ["y"])
    with pytest.raises(DataError, match=r"with `horizon=1000000000` nothing is left .* pass `horizon=69` or less"):
        SeriesTask(series, horizon=10**9)
    task = SeriesTask(series, horizon=1, window=20)
    with pytest.raises(ShapeError, match=r"training 1,000,000,000,000 parameters needs about .* GB: pass fewer"):
        task.build(Design(parameters=10**12))
    task.series = dataclasses.replace(series, input_names=("y",) * 100_000)
    task.inputs = dataclasses.replace(task.inputs, names=("y",) * 100_000)
    with pytest.raises(ShapeError, match=r"the linear part of 100,000 inputs needs about .* GB: name fewer"):
        task.build(Design())
