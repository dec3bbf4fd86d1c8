"""Networks as JSON text: read back bit for bit, and not trusted."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import treadle as td
from tests import registry
from treadle.errors import ModelFileError
from treadle.files.json_file import load_json, save_json


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("subject", ["stack-relay", "graph-handed-over"])
def test_every_number_comes_back(subject, dtype):
    rnn = registry.build(subject, dtype)
    with torch.no_grad():
        first = next(rnn.parameters()).view(-1)
        first[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    save_json("net.json", rnn)
    assert td.fingerprint(load_json("net.json")) == td.fingerprint(rnn)
    json.loads(Path("net.json").read_text(), parse_constant=pytest.fail)  # JSON of any reader's


class Halves(nn.Linear):
    """A module of a user's own, with numbers of other kinds."""

    def __init__(self, size: int):
        super().__init__(size, size)
        self.size = size
        self.register_buffer("places", torch.arange(size))
        self.register_buffer("on", torch.arange(size) > 1)
        self.register_buffer("none", torch.zeros(0, 3))


def test_cells_of_ones_own():
    module = Halves(3)
    save_json("own.json", module)
    with pytest.raises(ModelFileError, match=r"td.load\(path, cells=\[Halves\]\)"):
        load_json("own.json")
    again = load_json("own.json", cells=[Halves])
    assert again.on.dtype == torch.bool
    assert td.fingerprint(again) == td.fingerprint(module)


def test_what_is_no_such_file_is_refused():
    save_json("net.json", td.GRUCell(2, 3))
    text = Path("net.json").read_text()
    words = json.loads(text)
    words["tensors"]["bias_ih"]["data"][0] += 1
    changed = json.dumps(words)
    words["tensors"]["bias_ih"]["data"][0] = "1"
    for content, message in {
        text[:-20]: "is not a JSON file of treadle's",
        "[1, 2]": "is not a JSON file of treadle's",
        "[" * 100_000: "is not a JSON file of treadle's",
        '{"tensors": {}}': "not a treadle model file",
        json.dumps(words): "is not a JSON file of treadle's",
        text.replace("float32", "load"): "is not a JSON file of treadle's",
        text.replace('"shape": [9]', '"shape": [900000000000]'): "is not a JSON file of treadle's",
        changed: "its checksum does not fit",
    }.items():
        Path("bad.json").write_text(content)
        with pytest.raises(ModelFileError, match=message):
            load_json("bad.json")
    Path("bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFileError, match="not UTF-8"):
        load_json("bad.json")
    with pytest.raises(ModelFileError, match="complex64, which a JSON file cannot hold"):
        save_json("net.json", nn.Linear(2, 2, dtype=torch.complex64))
    assert Path("net.json").read_text() == text
