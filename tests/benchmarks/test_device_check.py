"""The check for machines with a GPU runs through on the interpreter; what it says of time means nothing there."""

import json

import pytest

from benchmarks import device_check


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_it_runs_through_in_tiny_sizes(tmp_path, capsys):
    path = tmp_path / "lines.json"
    assert device_check.main(["--tiny", "--cells", "lstm,feedback", "--json", str(path)]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_text() == capsys.readouterr().out
    assert not [line for line in lines if line["what"] in ("broken", "wrong", "out of time")]
    found = {(line["cell"], line["precision"], line["ragged"]) for line in lines if line["what"] == "agreement"}
    assert found == {(c, p, r) for c in ("lstm", "feedback") for p in ("float32", "bfloat16") for r in (False, True)}
    sides = {line["by"] for line in lines if line["what"] == "time"}
    assert sides == {"treadle", "torch.nn", "torch.nn, packed", "Python"}
