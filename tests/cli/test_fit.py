"""`treadle fit` and `treadle run` on series and labelled sequences."""

import contextlib
import csv
import importlib.util
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import treadle as td
from treadle.cli import main
from treadle.cli.fitting import noticing_termination
from treadle.errors import WorkerError
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
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


def folder_of(package: str) -> str:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return next(iter(spec.submodule_search_locations or ()))


def files() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"s.csv", "s.ts", "s.parquet"}


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def test_series_from_fit_to_forecasts(capfd):
    options = ["--target", "y", "--inputs", "y,z", "--time", "year", "--horizon", "2"]
    status, out, err = here(capfd, "fit", "s.csv", "-o", "m.safetensors", *options, *SMALL, "--plot", "fit.svg")
    assert status == 0, err
    assert "over 36 forecasts of the test set; seasonal-naive (season" in out
    assert "% better, after 6 steps" in out or "% worse, after 6 steps" in out
    assert files() == {"m.safetensors", "fit.svg"}
    assert "2 steps ahead" in Path("fit.svg").read_text()

    status, out, err = here(capfd, "run", "m.safetensors", "s.csv")
    assert status == 0
    assert err.startswith("mean absolute error")
    assert err.endswith("over 237 values\n")
    rows = rows_of(out)
    assert rows[0] == ["year", "row", "y", "y+1", "y+2"]
    lines = Path("s.csv").read_text().split()[1:]
    assert [[row[0], row[2]] for row in rows[1:]] == [line.split(",")[:2] for line in lines]
    fitted = Fitted.load("m.safetensors")
    xs = torch.tensor([[float(word) for word in line.split(",")[1:]] for line in Path("s.csv").read_text().split()[1:]])
    wanted = fitted.predict_all([xs])[0][..., 0]
    assert [int(row[1]) for row in rows[1:]] == list(range(1, 121))
    torch.testing.assert_close(torch.tensor([[float(word) for word in row[3:]] for row in rows[1:]]), wanted)


def test_sequences_from_fit_to_labels(capfd):
    options = ["--test", "s.ts", "--patience", "3", "--precision", "bfloat16"]
    status, out, err = here(capfd, "fit", "s.ts", "-o", "m.safetensors", *options, *SMALL, "--plot", "fit.png")
    assert status == 0, err
    assert "% of 40 sequences of the test set are correct; always saying 'a', the commonest label: 50.0 %" in out
    assert out.endswith(", after 6 steps\n")
    assert "validation" in err
    status, out, err = here(capfd, "run", "m.safetensors", "s.ts")
    assert err.endswith(" % of 40 labels are correct\n")
    rows = rows_of(out)
    assert rows[0] == ["line", "label", "label_predicted"]
    assert rows[1][0] == "5"
    assert [row[1] for row in rows[1:]] == ["a", "b"] * 20
    assert {row[2] for row in rows[1:]} <= {"a", "b"}
    assert len(rows) == 41


def test_numbers_for_every_step_from_parquet(capfd):
    options = ["--target", "level", "--predict", "every"]
    status, out, err = here(capfd, "fit", "s.parquet", "-o", "m.safetensors", *options, *SMALL, "--plot", "fit.svg")
    assert status == 0, err
    assert "always predicting the training set's mean" in out
    _, out, _ = here(capfd, "run", "m.safetensors", "s.parquet")
    rows = rows_of(out)
    assert rows[0] == ["row", "step", "level", "level_predicted"]
    assert len(rows) == 1 + sum(1 + i % 4 for i in range(40))


def stopped(capfd, after: int, *arguments) -> None:
    """A command that fails after a step."""

    class Enough(Exception):
        pass

    from treadle.cli import fitting

    follow = fitting.Watch.follow

    def stop(watch, step, *note):
        follow(watch, step, *note)
        if step.step == after:
            raise Enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting.Watch, "follow", stop)
        assert here(capfd, *arguments)[0] == 2


def test_a_run_goes_on_from_its_checkpoint_and_ends_as_if_it_had_not_stopped(capfd):
    line = ["fit", "s.ts", *SMALL[:4], "--budget", "30steps", "--checkpoint-every", "2steps"]
    assert here(capfd, *line, "-o", "whole.safetensors")[0] == 0

    stopped(capfd, 11, *line, "-o", "m.safetensors", "--checkpoint", "run")
    assert files() == {"whole.safetensors", "run", "run.previous"}
    status, out, _ = here(capfd, *line, "-o", "m.safetensors", "--checkpoint", "run")
    assert status == 0
    assert "after 30 steps" in out
    assert td.fingerprint(td.load("m.safetensors")) == td.fingerprint(td.load("whole.safetensors"))

    status, _, err = here(capfd, *line, "-o", "m.safetensors", "--checkpoint", "run", "--noise", "0.1")
    assert status == 2
    assert "run is the checkpoint of another run: noise was None there, but is 0.1 here" in err


def test_a_run_that_is_over_says_so_and_goes_on_with_a_longer_budget(capfd):
    line = ["fit", "s.ts", *SMALL[:4], "-o", "m.safetensors", "--checkpoint", "run"]
    assert here(capfd, *line, "--budget", "4steps")[0] == 0
    kept = td.fingerprint(td.load("m.safetensors"))
    status, out, err = here(capfd, *line, "--budget", "4steps")
    assert status == 0
    assert out.endswith("after 4 steps\n")
    assert "treadle: run holds this run, which is complete: nothing was left to train" in err
    assert td.fingerprint(td.load("m.safetensors")) == kept
    status, out, err = here(capfd, *line, "--budget", "6steps")
    assert out.endswith("after 6 steps\n")
    assert "treadle:" not in err


def test_a_checkpoint_of_other_data_or_of_another_network_is_refused_by_name(capfd):
    assert here(capfd, "fit", "s.ts", "-o", "m.safetensors", *SMALL, "--checkpoint", "run")[0] == 0
    kept = Path("run").read_bytes()
    other = Path("s.ts").read_text().replace("1,2", "2,1")
    Path("s.ts").write_text(other)
    _, _, err = here(capfd, "fit", "s.ts", "-o", "m.safetensors", *SMALL, "--checkpoint", "run")
    size = f"{len(other):,} bytes"
    assert f"treadle: run is the checkpoint of another run: the content of the data was {size} (" in err
    _, _, err = here(capfd, "fit", "s.csv", "-o", "m.safetensors", "--target", "y", *SMALL, "--checkpoint", "run")
    assert "treadle: run is the checkpoint of another network: cell.l" in err
    assert Path("run").read_bytes() == kept


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_what_was_kept_is_still_there():
    """A limit on the size of files stands in for the disk."""
    line = ["fit", "s.ts", "-o", "m.safetensors", *SMALL[:4], "--checkpoint", "run", "--checkpoint-every", "1steps"]
    script = "import sys, resource; from treadle.cli import main; sys.argv[1] == 'full' and "
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY)); main(sys.argv[2:])"

    def run(disk: str, budget: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-c", script, disk, *line, "--budget", budget]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    assert run("free", "3steps").returncode == 0
    kept = {name: Path(name).read_bytes() for name in files()}
    full = run("full", "9steps")
    assert full.returncode == 2
    (said,) = [one for one in full.stderr.splitlines() if one.startswith("treadle:")]
    assert "run cannot be written: " in said
    assert {name: Path(name).read_bytes() for name in files()} == kept


def test_what_was_learned_goes_on_learning_from_new_data(capfd):
    options = ["--target", "y", "--inputs", "y,z", "--horizon", "2"]
    assert here(capfd, "fit", "s.csv", "-o", "m.safetensors", *options, *SMALL)[0] == 0
    before = Fitted.load("m.safetensors")
    lines = Path("s.csv").read_text().splitlines()
    Path("new.csv").write_text("\n".join([lines[0], *(f"{i},{40 + i % 7},{i % 3}" for i in range(90))]))
    status, _, err = here(capfd, "fit", "new.csv", "-o", "m2.safetensors", "--resume", "m.safetensors", *SMALL[4:])
    assert status == 0, err
    after = Fitted.load("m2.safetensors")
    assert after.inputs.as_json() == before.inputs.as_json()  # the scaling that it was made with
    assert after.targets is not None
    assert (after.targets.names, after.horizon) == (("y",), 2)
    changed = [bool((a != b).any()) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True)]
    assert any(changed)

    assert here(capfd, "fit", "s.ts", "-o", "t.safetensors", *SMALL)[0] == 0
    Path("one.ts").write_text(Path("s.ts").read_text().replace("true a b", "true a").replace(":b", ":a"))
    assert here(capfd, "fit", "one.ts", "-o", "t2.safetensors", "--resume", "t.safetensors", *SMALL[4:])[0] == 0
    assert Fitted.load("t2.safetensors").labels == ("a", "b")  # what it knew, it still tells apart


RESUMED = {
    "s.csv --resume t": "t holds a network for sequences, which cannot be trained further on series",
    "s.csv --resume m --target z": "the resumed network predicts y, but here it would be z",
    "s.csv --resume m --inputs z": "the resumed network reads y, but here it would be z",
    "s.csv --resume m --horizon 3": "--horizon 3: the resumed network was made with 1",
    "s.csv --resume m --predict last": "--predict last: the resumed network was made with every",
    "s.csv --resume m --cell gru": "--cell: the network of --resume m has that already; leave it out",
    "w.csv --resume m": "w.csv has no column 'y': it has year, w, z",
    "c.ts --resume t": "c.ts, line 11: label 'c' does not occur in the training set of the resumed network, which has",
    "s.parquet --resume t --target level": "s.parquet has no column 'dimension 1': it has x, level",
    "s.txt --resume t": "t is not a byte-level language model",
    "s.ts --resume none": "none: No such file or directory",
}


@pytest.fixture(scope="module")
def resumable(tmp_path_factory):
    from treadle.training import forecaster, sequence_model
    from treadle.training.scaling import Scaling

    place, column = tmp_path_factory.mktemp("resumable"), torch.randn(9, 1)
    scaling = Scaling.fit(["dimension 1"], [column])
    Fitted(sequence_model(1, 2, hidden_size=3), scaling, labels=("a", "b")).save(place / "t")
    scaling = Scaling.fit(["y"], [column])
    Fitted(forecaster(1, 1, hidden_size=3), scaling, scaling, predict="every", horizon=1).save(place / "m")
    return place


@pytest.mark.parametrize("words", RESUMED)
def test_data_that_a_network_was_not_made_for_is_refused_by_name(words, resumable, capfd):
    for name in ("m", "t"):
        Path(name).write_bytes((resumable / name).read_bytes())
    Path("w.csv").write_text(Path("s.csv").read_text().replace("year,y", "year,w"))
    Path("c.ts").write_text(Path("s.ts").read_text().replace("true a b", "true a b c").replace("1,2,3:a", "1,2,3:c"))
    Path("s.txt").write_text("so it goes " * 1000)
    status, _, err = here(capfd, "fit", *words.split(), "-o", "out")
    assert status == 2
    (said,) = [one for one in err.splitlines() if one.startswith("treadle: ")]
    assert RESUMED[words] in said
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads the peak of memory from /proc")
def test_a_text_that_is_larger_than_the_memory_may_be(tmp_path):
    """5 GB, which take no place on the disk, as only a few of its pages were ever written."""
    with open("large.txt", "wb") as file:
        file.truncate(5 << 30)
        for part in range(40):
            file.seek(part * (5 << 30) // 40)
            file.write(b"Now is the time for all good men to come to the aid of the party. " * 50)
    script = "import sys; from treadle.cli import main\ntry: main(sys.argv[1:])\n"
    # Not getrusage, which begins with what the process that started this one has used.
    script += "finally: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    words = ["fit", "large.txt", "-o", "m.safetensors", "--parameters", "25000", "--budget", "3steps"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4,831,838,208 bytes" in done.stderr
    assert int(done.stdout.split()[-1]) < 1_000_000  # kB


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


@pytest.mark.slow
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
    assert_same_network("one.safetensors", "two.safetensors")


def test_sigterm_is_one_line_and_the_run_goes_on_from_what_was_kept(capfd):
    line = ["fit", "s.ts", "-o", "m.safetensors", *SMALL[:4], "--checkpoint", "run", "--checkpoint-every", "5steps"]
    words = [sys.executable, "-m", "treadle", *line, "--budget", "1h", "--patience", "1000000"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not Path("run.previous").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert process.wait(0.05) is None
        process.terminate()
        said = [one for one in process.communicate()[1].splitlines() if one.startswith("treadle: ")]
    assert process.returncode == 2
    assert len(said) == 1
    assert said[0].startswith("treadle: ended by SIGTERM, which torchrun sends when another")
    assert files() - {"run.new"} == {"run", "run.previous"}
    assert here(capfd, *line, "--budget", "1steps", "--patience", "1000000")[0] == 0


class Struck:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("in_finalizer", [False, True])
def test_sigterm_is_not_taken_for_an_attempt_that_failed(in_finalizer):
    """Not by who falls back on something else, and not where Python ignores exceptions."""
    ended = []

    def strike(check):
        try:
            if in_finalizer:
                Struck()
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            ended.append(error)
        ended.append("still running")
        check()

    with pytest.raises(WorkerError, match="ended by SIGTERM"), noticing_termination() as check:
        strike(check)
    assert ended == (["still running"] if in_finalizer else [])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def assert_same_network(*paths: str) -> None:
    one, two = (dict(td.load(path).named_parameters()) for path in paths)
    for name, parameter in one.items():
        torch.testing.assert_close(two[name], parameter, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'treadle[ray]' -c constraints.txt",
)
def test_a_run_goes_to_ray_and_back(capfd):
    """Some steps here, those up to the sixth by two workers, two more here."""
    line = ["fit", "s.ts", "--dropout", "0", "--noise", "0", *SMALL[:4], "--checkpoint-every", "1steps"]
    assert here(capfd, *line, "-o", "one.safetensors", "--budget", "6steps")[0] == 0
    line += ["--checkpoint", "run"]
    stopped(capfd, 4, *line, "-o", "m.safetensors", "--budget", "6steps")  # step 4 is kept before it is told

    def on_ray(*options: str) -> subprocess.CompletedProcess:
        words = [
            sys.executable,
            "-m",
            "treadle",
            *line,
            "-o",
            "m.safetensors",
            "--on",
            "ray",
            "--workers",
            "2",
            *options,
        ]
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": "local"}
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=250, check=False)

    done = on_ray("--budget", "6steps")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("after 6 steps\n")
    assert_same_network("one.safetensors", "m.safetensors")
    status, out, _ = here(capfd, *line, "-o", "m.safetensors", "--budget", "8steps")
    assert status == 0
    assert out.endswith("after 8 steps\n")


def test_without_ray_it_says_what_to_install(capfd, monkeypatch):
    monkeypatch.setattr("treadle.training.ray_cluster.importlib.util.find_spec", lambda name: None)
    status, _, err = here(capfd, "fit", "s.ts", "-o", "m.safetensors", *SMALL, "--on", "ray")
    assert status == 2
    assert "treadle: --on ray: Ray is not installed: pip install 'treadle[ray]'" in err
    assert files() == set()


BAD = {
    "fit s.csv -o m": "there is no target column: name those to forecast with --target",
    "fit s.csv -o m --target x": "s.csv has no column 'x': it has year, y, z",
    "fit s.csv -o m --target y --window 500": "has 84 rows in the training set, but a window has 500 steps",
    "fit s.csv -o m --target y --classes": "--classes has no meaning for s.csv, which is read as series",
    "fit s.csv -o m --target y --metric accuracy": "s.csv: --metric accuracy is of labels, but numbers are predicted",
    "fit s.csv -o m --target y --sequences": "name the column that says to which sequence a row belongs (--series-id)",
    "fit s.ts -o m --regression": "s.ts: a .ts file says itself what its targets are: leave out --classes",
    "fit s.ts -o m --split series": "--split has no meaning for s.ts",
    "fit s.csv -o m --target y --horizon 0": "--horizon 0 the network would read 'y'",
    "fit s.csv -o m --target y --missing guess": "--missing: there is no 'guess'; choose one of refuse, previous",
    "fit s.csv -o m --target y --predict all": "--predict: there is no 'all'; choose one of last, every",
    "fit s.csv -o m --target y --precision half": "--precision: there is no 'half'; choose one of float32, bfloat16",
    "fit s.csv -o m --target y --budget soon": "or of epochs such as 50epochs",
    "fit s.csv -o m --target y --checkpoint-every never": "--checkpoint-every: a budget is a time",
    "fit s.csv -o m --target y --checkpoint s.csv": "--checkpoint: s.csv is the input already",
    "fit s.csv -o m --target y --checkpoint s.ts": "s.ts is not a whole safetensors file",
    "fit s.csv -o m --target y --plot fit.gif": "--plot: fit.gif must end in .svg or .png",
    "fit s.ts -o m --target y": "a .ts file declares its targets itself",
    "fit s.ts -o m --horizon 3": "--horizon has no meaning for s.ts, which is read as sequences",
    "fit s.ts -o m --window 3": "--window has no meaning for s.ts",
    "fit s.ts -o m --test other.ts": "other.ts, line 4: label 'c' does not occur in the training set",
    "fit s.ts -o m --test nothing.ts": "nothing.ts: No such file or directory",
    "fit s.parquet -o m": "name it with --target",
    "fit nan.csv -o m --target y": "nan.csv, line 7, column 'y': the value is missing",
    "fit word.csv -o m --target y": "word.csv, line 7, column 'y': 'warm' is not a number",
    "fit ragged.csv -o m --target y": "ragged.csv, line 7: 2 fields, but the first line has 3 columns",
    "fit twice.csv -o m --target y --time year": "twice.csv, line 7, column 'year': 1904 is the same time as 1904 in",
    "fit back.csv -o m --target y --time year": "back.csv, line 7, column 'year': 1901 is earlier than 1904 in line 6",
    "fit date.csv -o m --target y --time year": "date.csv, line 7, column 'year': 'later' is no time",
    "fit no_time.parquet -o m --target y --time t": "no_time.parquet, row 2, column 't': there is no time",
    "fit few.csv -o m --target y": "few.csv has 3 rows, none of which are left for the test set",
    "fit word.ts -o m": "word.ts, line 6, dimension 1, value 2: 'x' is not a number",
    "fit few.ts -o m": "few.ts has 2 sequences: 15% of them leave none for the validation set",
    "fit gap.parquet -o m --target label": "gap.parquet, row 2, step 2, column 'x': the value is missing",
    "fit short.txt -o m": "short.txt has 3 bytes, but 2,311 are needed",
    "fit s.csv -o m --target y --workers 2": "--workers needs --on ray",
    "fit s.csv -o m --target y --on moon": "--on: there is no 'moon'; choose one of ray",
    "fit s.parquet -o m --target lvl": "no column 'lvl'",
    "run m.safetensors": "is not a byte-level language model",
    "run m.safetensors s.csv": "this network reads .ts or .parquet files",
    "run m.safetensors s.parquet": "no column 'dimension 1'",
    "run cell.safetensors s.csv": "does not describe the inputs and outputs of its network",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from treadle.training import sequence_model
    from treadle.training.scaling import Scaling

    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    scaling = Scaling.fit(["dimension 1"], [torch.randn(4, 1)])
    Fitted(sequence_model(1, 2, hidden_size=3), scaling, labels=("a", "b")).save(path)
    return path


def write_bad_files() -> None:
    lines = Path("s.csv").read_text().splitlines()
    for name, wrong in {
        "nan": "1905,NaN,3",
        "word": "1905,warm,3",
        "ragged": "1905,1",
        "twice": "1904,1,3",
        "back": "1901,1,3",
        "date": "later,1,3",
    }.items():
        Path(f"{name}.csv").write_text("\n".join([*lines[:6], wrong, *lines[7:]]))
    Path("few.csv").write_text("\n".join(lines[:4]))
    header = "@univariate true\n@problemName p\n@classLabel true a b\n@data\n"
    Path("word.ts").write_text(header + "1,2:a\n1,x,3:b\n")
    Path("few.ts").write_text(header + "1,2:a\n1,3:b\n")
    pq.write_table(pa.table({"x": [[1.0], [2.0, None], [3.0]] * 5, "label": ["a", "b", "a"] * 5}), "gap.parquet")
    pq.write_table(pa.table({"t": [1.0, math.nan, 3.0] * 9, "y": [1.0, 2.0, 3.0] * 9}), "no_time.parquet")
    Path("short.txt").write_text("abc")


@pytest.mark.share(21)
@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_with_status_2_and_loses_nothing(line, model, capfd):
    Path("other.ts").write_text("@univariate true\n@classLabel true a b c\n@data\n1,2:c\n")
    td.save("cell.safetensors", td.LSTMCell(3, 4))
    Path("m.safetensors").write_bytes(model.read_bytes())
    write_bad_files()
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    status, out, err = here(capfd, *line.split(), *(SMALL[:4] if line.startswith("fit") else ()))
    assert status == 2
    lines = [one for one in err.splitlines() if one.startswith("treadle: ")]
    assert len(lines) == 1
    assert BAD[line] in lines[0]
    assert out == ""
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.slow
def test_a_few_seconds_of_japanese_vowels_are_better_than_chance(capfd):
    """The whole, 96 % and more, is a bar of `benchmarks.fits`; here only that the real files go through."""
    start = f"{folder_of('aeon')}/datasets/data/JapaneseVowels/JapaneseVowels_"
    options = ["--test", start + "TEST.ts", "--budget", "8epochs", "--parameters", "10253"]
    status, out, _ = here(capfd, "fit", start + "TRAIN.ts", "-o", "m.safetensors", *options)
    assert status == 0
    assert float(out.split(": ")[1].split(" %")[0]) > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("sunspots/sunspots.csv", ["--target", "SUNACTIVITY", "--time", "YEAR"]),
        ("co2/co2.csv", ["--target", "co2", "--time", "date", "--missing", "previous"]),
    ],
)
def test_a_few_steps_of_public_series_beat_seasonal_naive(capfd, data, options):
    line = ["fit", f"{folder_of('statsmodels')}/datasets/{data}", "-o", "m.safetensors", *options, "--budget", "5steps"]
    status, out, err = here(capfd, *line)
    assert status == 0, err
    assert float(out.split("; ")[2].split(" % better")[0]) > 20


def test_where_the_picture_cannot_be_written_there_is_no_network_either(capfd, monkeypatch):
    def fails(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr("treadle.show.training.draw_fit", fails)
    status, out, err = here(capfd, "fit", "s.csv", "-o", "m", "--target", "y", *SMALL, "--plot", "fit.svg")
    assert (status, out) == (2, "")
    assert err.endswith("treadle: the disk is full\n")
    assert files() == set()


def test_a_second_run_on_a_checkpoint_is_one_line(capfd):
    line = ["fit", "s.csv", "-o", "m", "--target", "y", *SMALL, "--checkpoint", "run"]
    script = "from treadle.files.lock import locked\nwith locked('run'):\n    print(flush=True)\n    input()"
    first = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"\n"
    status, out, err = here(capfd, *line)
    assert (status, out) == (2, "")
    number = f"(process {first.pid})"
    assert err == f"treadle: run is in use by another run {number}: wait until it has ended, or name another file\n"
    first.kill()
    first.communicate()
    status, _, err = here(capfd, *line)
    assert status == 0, err
    assert files() == {"m", "run"}
