"""The check for machines with a GPU runs through on the interpreter; what it says of time means nothing there."""

import argparse
import json

import pytest
import torch

from benchmarks import device_check


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_it_runs_through_in_tiny_sizes(tmp_path, capsys):
    path = tmp_path / "lines.json"
    assert device_check.main(["--tiny", "--cells", "lstm,feedback", "--json", str(path)]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_text() == capsys.readouterr().out
    failed = [line for line in lines if line["what"] in ("broken", "wrong", "out of time")]
    # PyTorch has no LSTM in bfloat16 on CPUs without such instructions.
    assert not [line for line in failed if "could not create a primitive" not in line.get("error", "")]
    found = {(line["cell"], line["precision"], line["ragged"]) for line in lines if "ragged" in line}
    assert found == {(c, p, r) for c in ("lstm", "feedback") for p in ("float32", "bfloat16") for r in (False, True)}
    assert {line["mode"] for line in lines if "mode" in line} == {"rows", "steps"}
    sides = {line["by"] for line in lines if line["what"] == "time"}
    live = {"a session, gpu", "a session, reference"}
    assert sides == {"treadle", "torch.nn", "torch.nn, packed", "Python"} | live


@pytest.fixture
def check(tmp_path):
    return device_check.Check(argparse.Namespace(tiny=True, seconds=9.0, json=tmp_path / "lines.json", cells="lstm"))


def test_a_side_that_computes_something_else_is_not_timed(check):
    side = device_check.Side("somebody", lambda: torch.ones(1, 2, 3), {})
    for expected, says in ((torch.zeros(1, 2, 3), ["wrong"]), (torch.ones(1, 2, 3), ["agreement", "time"])):
        check.path.unlink(missing_ok=True)
        size = device_check.Size(B=1, H=3, T=2)
        assert device_check._timed(check, side, size, {"output": expected}, "float32", {}) == (len(says) > 1)
        assert [json.loads(line)["what"] for line in check.path.read_text().splitlines()] == says


@pytest.mark.parametrize("part", ["agreement", "no_waiting", "times", None])
def test_the_status_says_whether_anything_is_wrong(part, monkeypatch):
    for name in ("agreement", "no_waiting", "times"):
        monkeypatch.setattr(device_check, name, lambda check, name=name: name != part)
    assert device_check.main(["--tiny"]) == (part is not None)


def test_precisions_are_as_they_were_afterwards():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in backends]
    for name in device_check.ALLOWED:
        with device_check.precision(name, "cpu"):
            assert [one.allow_tf32 for one in backends] == [name == "tf32"] * 2
        assert [one.allow_tf32 for one in backends] == before
