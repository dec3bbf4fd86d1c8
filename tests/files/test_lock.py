"""One run at a time writes a file, and a killed one keeps nobody out."""

import os
import signal
import subprocess
import sys

import pytest
import torch

import treadle as td
from treadle.errors import ModelFileError
from treadle.files.lock import locked
from treadle.training import load_checkpoint, save_checkpoint

HOLDER = """
import sys
from treadle.files.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def take(path):
    with locked(path):
        assert path.with_name("run.lock").exists()


def test_another_process_is_refused_by_number_and_comes_in_when_it_is_free(tmp_path, holder):
    with pytest.raises(ModelFileError, match=rf"run is in use by another run \(process {holder.pid}\): wait until"):
        take(tmp_path / "run")
    holder.communicate("")
    assert os.listdir(tmp_path) == []
    take(tmp_path / "run")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over_and_removed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert os.listdir(tmp_path) == ["run.lock"]
    take(tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_in_one_process_blocks_lie_inside_each_other_and_a_child_holds_nothing(tmp_path):
    path = tmp_path / "run"
    with locked(path):
        take(path)
        pid = os.fork()
        if not pid:
            try:
                take(path)
            except ModelFileError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert path.with_name("run.lock").exists()
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_waits_for_who_writes_it(tmp_path, holder, monkeypatch):
    path, model = tmp_path / "run", td.GRUCell(2, 3)
    monkeypatch.setattr("treadle.files.checkpoint.PATIENCE", 0.0)
    with pytest.raises(ModelFileError, match="in use by another run"):
        save_checkpoint(path, model)
    monkeypatch.undo()
    holder.stdin.close()
    save_checkpoint(path, model, weight=torch.ones(2))
    assert load_checkpoint(path, model)["weight"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["run"]
