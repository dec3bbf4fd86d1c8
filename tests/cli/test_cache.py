"""`treadle cache` shows and deletes what is kept."""

import re
import subprocess
import sys

import pytest
from torch import nn

import treadle as td
from treadle.cli import main
from treadle.engines.cpu.machine import disk_cache


def here(capfd, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["cache", *arguments])
    out, err = capfd.readouterr()
    assert (end.value.code or 0, err) == (0, "")
    return out


def test_shows_and_clears(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    folder = f"folder   {tmp_path / 'cpu'}\n"
    assert here(capfd) == folder + "kernels  0\nsize     0.00 MB\n"
    disk_cache.write("0" * 64, bytes(2_000_000))
    disk_cache.write("1" * 64, bytes(340_000))
    assert here(capfd) == folder + "kernels  2\nsize     2.34 MB\n"
    assert here(capfd, "--clear") == folder + "deleted  2\nfreed    2.34 MB\n"
    assert here(capfd) == folder + "kernels  0\nsize     0.00 MB\n"


USE = """
import sys
import numpy as np, torch, treadle as td
from treadle.engines.cpu.machine import compilation

threads, path, training, weights = sys.argv[1:]
torch.set_num_threads(int(threads))
rnn = td.load(path)
size = rnn.input_size
for rows, steps in ((1, 5), (4, 60)):
    xs = torch.randn(rows, steps, size)
    with torch.no_grad():
        rnn(xs)
        rnn(xs, lengths=[steps] * rows)
    if training == "training":
        rnn(xs)[0].sum().backward()
    session = rnn.session(batch_size=rows, weights=weights)
    session.step(np.zeros((rows, size), np.float32))
    session.steps(xs)
pool = rnn.sessions(weights=weights)
pool.open("a")
pool.step({"a": np.zeros(size, np.float32)})
print(compilation.counts.compiled, compilation.counts.read)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and the working directory."""
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def counts(threads, path, training="", weights="float32"):
    code, out, err = run("-c", USE, str(threads), path, training, weights)
    assert code == 0, err
    return tuple(map(int, out.split()))


def warmed(line, path):
    """How many kernels were compiled and found, as the line of a network says."""
    found = re.fullmatch(rf"{path}: (\d+) kernels compiled, (\d+) were there, \d+\.\d s", line)
    assert found, line
    return int(found[1]), int(found[2])


@pytest.mark.slow
def test_after_warming_a_new_process_compiles_nothing(folder):
    td.save("stack.safetensors", td.Recurrent(td.Stack([td.LSTMCell(3, 37), td.GRUCell(37, 40)])))
    td.save("drop-in.safetensors", td.LSTM(3, 5, batch_first=True, engine="cpu"))
    words = ("-m", "treadle", "cache", "--warm", "stack.safetensors", "drop-in.safetensors")
    options = ("--training", "--batch-size", "1", "--batch-size", "4", "--weights", "float32,int8")
    code, out, err = run(*words, *options)
    assert (code, err) == (0, "")
    for line, path in zip(out.splitlines(), words[4:], strict=True):
        assert warmed(line, path)[0] > 4
    for path, threads, weights in (
        ("stack.safetensors", 1, "int8"),
        ("stack.safetensors", 2, "float32"),
        ("drop-in.safetensors", 2, "int8"),
    ):
        made, read = counts(threads, path, "training", weights)
        assert made == 0
        assert read > 4
    code, out, _ = run(*words, *options)
    for line, path in zip(out.splitlines(), words[4:], strict=True):
        assert warmed(line, path)[0] == 0


@pytest.mark.slow
def test_without_training_the_backward_pass_is_left_out(folder):
    td.save("m.safetensors", td.Recurrent(td.GRUCell(3, 5)))
    assert run("-m", "treadle", "cache", "--warm", "m.safetensors", "--batch-size", "4")[0] == 0
    assert counts(1, "m.safetensors")[0] == 0
    assert counts(1, "m.safetensors", "training")[0] > 0


@pytest.mark.slow
def test_both_directions_are_warmed(folder):
    td.save("both.safetensors", td.Bidirectional(td.GRUCell(3, 5), td.GRUCell(3, 4)))
    code, out, _ = run("-m", "treadle", "cache", "--warm", "both.safetensors")
    assert code == 0
    assert warmed(out.strip(), "both.safetensors")[0] > 0


REFUSED = {
    "--warm": "--warm needs the networks to compile: pass files saved by treadle",
    "--warm --clear m.safetensors": "--clear deletes what --warm makes: pass one of them",
    "m.safetensors": "MODELS: only --warm compiles: pass '--warm', too",
    "--training": "--training: only --warm compiles: pass '--warm', too",
    "--batch-size 3": "--batch-size: only --warm compiles: pass '--warm', too",
    "--warm m.safetensors --weights int4": "--weights: there is no 'int4'; choose from float32, bfloat16, int8, or all",
    "--warm m.safetensors --batch-size 0": "should be greater than or equal to 1",
    "--warm none.safetensors": "none.safetensors: No such file or directory",
    "--warm linear.safetensors": "linear.safetensors holds a Linear, and only networks over time are compiled ahead",
    "--warm double.safetensors --weights int8": "double.safetensors: weights='int8' is for networks in float32",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused(folder, words, capfd):
    td.save("m.safetensors", td.Recurrent(td.GRUCell(3, 5)))
    td.save("double.safetensors", td.Recurrent(td.GRUCell(3, 5)).double())
    td.save("linear.safetensors", nn.Linear(3, 5))
    with pytest.raises(SystemExit) as end:
        main(["cache", *words.split()])
    out, err = capfd.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("treadle: ")
    assert err.count("\n") == 1
    assert REFUSED[words] in err


def test_a_disk_that_nothing_can_be_kept_on_is_refused(folder, capfd, monkeypatch):
    td.save("m.safetensors", td.Recurrent(td.GRUCell(3, 5)))
    (folder / "taken").write_text("no folder")
    monkeypatch.setenv("TREADLE_CACHE", str(folder / "taken"))
    with pytest.raises(SystemExit) as end:
        main(["cache", "--warm", "m.safetensors"])
    assert end.value.code == 2
    assert "taken" in capfd.readouterr().err
