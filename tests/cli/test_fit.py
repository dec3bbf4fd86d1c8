"""`treadle fit` and `treadle run` on series and labelled sequences."""

import csv
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import treadle as td
from treadle.cli import main
from treadle.training import Fitted

SMALL = ["--layers", "1", "--parameters", "10000", "--budget", "6steps"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{1900 + i},{math.sin(i * 0.5) + i % 3},{i * 2}" for i in range(120)]
    Path("s.csv").write_text("year,y,z\n" + "\n".join(rows) + "\n")
    cases = [",".join(str((i * k) % 5) for k in range(1, 4 + i % 3)) for i in range(40)]
    header = "@problemName p\n@univariate true\n@classLabel true a b\n@data\n"
    Path("s.ts").write_text(header + "".join(f"{case}:{'ab'[i % 2]}\n" for i, case in enumerate(cases)))
    lists = [[float(i % 5)] * (1 + i % 4) for i in range(40)]
    pq.write_table(pa.table({"x": lists, "level": [sum(one) for one in lists]}), "s.parquet")
    return tmp_path


def here(capfd, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0, *capfd.readouterr()


def files() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"s.csv", "s.ts", "s.parquet"}


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def test_series_from_fit_to_forecasts(capfd):
    options = ["--target", "y", "--inputs", "y,z", "--time", "year", "--horizon", "2"]
    status, out, err = here(capfd, "fit", "s.csv", "-o", "m.safetensors", *options, *SMALL, "--plot", "fit.svg")
    assert status == 0, err
    assert "over 36 forecasts of the test part; seasonal-naive (season" in out
    assert "% better after 6 steps" in out or "% worse after 6 steps" in out
    assert files() == {"m.safetensors", "fit.svg"}
    assert "2 steps ahead" in Path("fit.svg").read_text()

    status, out, err = here(capfd, "run", "m.safetensors", "s.csv")
    assert (status, err) == (0, "")
    rows = rows_of(out)
    assert rows[0] == ["row", "y+1", "y+2"]
    fitted = Fitted.load("m.safetensors")
    xs = torch.tensor([[float(word) for word in line.split(",")[1:]] for line in Path("s.csv").read_text().split()[1:]])
    wanted = fitted.predict_all([xs])[0][..., 0]
    assert [int(row[0]) for row in rows[1:]] == list(range(1, 121))
    torch.testing.assert_close(torch.tensor([[float(word) for word in row[1:]] for row in rows[1:]]), wanted)


def test_sequences_from_fit_to_labels(capfd):
    options = ["--test", "s.ts", "--patience", "3", "--precision", "bfloat16"]
    status, out, err = here(capfd, "fit", "s.ts", "-o", "m.safetensors", *options, *SMALL, "--plot", "fit.png")
    assert status == 0, err
    assert "% of 40 sequences of the test part are right after 6 steps" in out
    assert "validation" in err
    status, out, _ = here(capfd, "run", "m.safetensors", "s.ts")
    rows = rows_of(out)
    assert rows[0] == ["sequence", "label"]
    assert rows[1][0] == "line 5"
    assert {row[1] for row in rows[1:]} <= {"a", "b"}
    assert len(rows) == 41


def test_numbers_for_every_step_from_parquet(capfd):
    options = ["--target", "level", "--predict", "every"]
    status, out, err = here(capfd, "fit", "s.parquet", "-o", "m.safetensors", *options, *SMALL, "--plot", "fit.svg")
    assert status == 0, err
    assert "always saying the mean of the training part" in out
    _, out, _ = here(capfd, "run", "m.safetensors", "s.parquet")
    rows = rows_of(out)
    assert rows[0] == ["sequence", "step", "level"]
    assert len(rows) == 1 + sum(1 + i % 4 for i in range(40))


def test_a_run_goes_on_from_its_checkpoint_and_ends_as_if_it_had_not_stopped(capfd):
    line = ["fit", "s.ts", *SMALL[:4], "--budget", "30steps", "--checkpoint-every", "2steps"]
    assert here(capfd, *line, "-o", "whole.safetensors")[0] == 0

    class Enough(Exception):
        pass

    from treadle.cli import fitting

    follow = fitting.Watch.follow

    def stop(watch, step):
        follow(watch, step)
        if step.step == 11:
            raise Enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting.Watch, "follow", stop)
        assert here(capfd, *line, "-o", "m.safetensors", "--checkpoint", "run")[0] == 2
    assert files() == {"whole.safetensors", "run", "run.previous"}
    status, out, _ = here(capfd, *line, "-o", "m.safetensors", "--checkpoint", "run")
    assert status == 0
    assert "after 30 steps" in out
    assert td.fingerprint(td.load("m.safetensors")) == td.fingerprint(td.load("whole.safetensors"))

    status, _, err = here(capfd, *line, "-o", "m.safetensors", "--checkpoint", "run", "--noise", "0.1")
    assert status == 2
    assert "run is the checkpoint of another run: noise was None there, but is 0.1 here" in err


def test_logs_for_tensorboard(capfd):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert here(capfd, "fit", "s.ts", "-o", "m.safetensors", *SMALL, "--tensorboard", "logs")[0] == 0
    log = EventAccumulator("logs").Reload()
    assert [event.step for event in log.Scalars("loss/training")] == [1, 2, 3, 4, 5, 6]
    assert {"loss/validation", "learning_rate", "test/accuracy"} <= set(log.Tags()["scalars"])


def test_without_tensorboard_it_says_what_to_install(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    status, _, err = here(capfd, "fit", "s.ts", "-o", "m.safetensors", *SMALL, "--tensorboard", "logs")
    assert status == 2
    assert "treadle: --tensorboard: the package tensorboard is not installed: pip install tensorboard" in err
    assert files() == set()


def test_two_processes_are_one(capfd):
    options = ["--dropout", "0", "--noise", "0", *SMALL]
    assert here(capfd, "fit", "s.ts", "-o", "one.safetensors", *options)[0] == 0
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*together, "treadle", "fit", "s.ts", "-o", "two.safetensors", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after 6 steps") == 1  # one of them speaks
    one, two = td.load("one.safetensors"), td.load("two.safetensors")
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(dict(two.named_parameters())[name], parameter, rtol=1e-3, atol=1e-5)


BAD = {
    "fit s.csv -o m": "which columns are to be forecast? Name them with --target",
    "fit s.csv -o m --target x": "s.csv has no column 'x': it has year, y, z",
    "fit s.csv -o m --target y --window 500": "has 84 rows to learn from, but a window has 500 steps",
    "fit s.csv -o m --target y --test s.csv": "--test has no meaning for s.csv, which is read as series",
    "fit s.csv -o m --target y --horizon 0": "--horizon 0 the network would read 'y'",
    "fit s.csv -o m --target y --missing guess": "--missing: there is no 'guess'; choose one of refuse, previous",
    "fit s.csv -o m --target y --predict all": "--predict: there is no 'all'; choose one of last, every",
    "fit s.csv -o m --target y --precision half": "--precision: there is no 'half'; choose one of float32, bfloat16",
    "fit s.csv -o m --target y --budget soon": "or of epochs such as 50epochs",
    "fit s.csv -o m --target y --checkpoint-every never": "--checkpoint-every: a budget is a time",
    "fit s.csv -o m --target y --checkpoint s.csv": "--checkpoint: s.csv is the input already",
    "fit s.csv -o m --target y --checkpoint s.ts": "s.ts is not a whole safetensors file",
    "fit s.csv -o m --target y --plot fit.gif": "--plot: fit.gif must end in .svg or .png",
    "fit s.ts -o m --target y": "a .ts file says itself what is to be predicted",
    "fit s.ts -o m --horizon 3": "--horizon has no meaning for s.ts, which is read as sequences",
    "fit s.ts -o m --window 3": "--window has no meaning for s.ts",
    "fit s.ts -o m --test other.ts": "other.ts, line 4: label 'c' does not occur in what is learned from",
    "fit s.ts -o m --test nothing.ts": "nothing.ts: No such file or directory",
    "fit s.parquet -o m": "Name it with --target",
    "fit s.parquet -o m --target lvl": "no column 'lvl'",
    "run m.safetensors": "is not a byte-level language model",
    "run m.safetensors s.csv": "this network reads .ts or .parquet files",
    "run m.safetensors s.parquet": "no column 'dimension 1'",
    "run cell.safetensors s.csv": "does not say what the numbers of its network mean",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from treadle.training import sequence_model
    from treadle.training.scaling import Scaling

    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    scaling = Scaling.fit(["dimension 1"], [torch.randn(4, 1)])
    Fitted(sequence_model(1, 2, hidden_size=3), scaling, labels=("a", "b")).save(path)
    return path


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_with_status_2_and_loses_nothing(line, model, capfd):
    Path("other.ts").write_text("@univariate true\n@classLabel true a b c\n@data\n1,2:c\n")
    td.save("cell.safetensors", td.LSTMCell(3, 4))
    Path("m.safetensors").write_bytes(model.read_bytes())
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    status, out, err = here(capfd, *line.split(), *(SMALL[:4] if line.startswith("fit") else ()))
    assert status == 2
    lines = [one for one in err.splitlines() if one.startswith("treadle: ")]
    assert len(lines) == 1
    assert BAD[line] in lines[0]
    assert out == ""
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_a_few_seconds_of_japanese_vowels_are_better_than_chance(capfd):
    """The whole, 96 % and more, is in docs/training.md; here only that the real files go through."""
    (package,) = importlib.util.find_spec("aeon").submodule_search_locations
    start = f"{package}/datasets/data/JapaneseVowels/JapaneseVowels_"
    options = ["--test", start + "TEST.ts", "--budget", "8epochs", "--parameters", "10000"]
    status, out, _ = here(capfd, "fit", start + "TRAIN.ts", "-o", "m.safetensors", *options)
    assert status == 0
    assert float(out.split(": ")[1].split(" %")[0]) > 50


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("sunspots/sunspots.csv", ["--target", "SUNACTIVITY", "--time", "YEAR"]),
        ("co2/co2.csv", ["--target", "co2", "--time", "date", "--missing", "previous"]),
    ],
)
def test_a_few_steps_of_public_series_beat_seasonal_naive(capfd, data, options):
    (package,) = importlib.util.find_spec("statsmodels").submodule_search_locations
    line = ["fit", f"{package}/datasets/{data}", "-o", "m.safetensors", *options, "--budget", "5steps"]
    status, out, err = here(capfd, *line)
    assert status == 0, err
    assert float(out.split("; ")[2].split(" % better")[0]) > 20
