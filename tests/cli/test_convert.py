"""`treadle convert`: what it writes, says and refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import treadle as td
from treadle.cli import main
from treadle.files.model_file import read_notes

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    td.save("net.safetensors", td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(7, 4)], wiring="skip")))
    return tmp_path


def here(capfd, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["convert", *arguments])
    return end.value.code or 0, *capfd.readouterr()


@needs_cc
def test_a_c_file(capfd):
    status, out, err = here(capfd, "net.safetensors", "net.c", "--weights", "int8", "--name", "voice")
    assert (status, err) == (0, "")
    assert out.startswith("kept: LSTMCell, GRUCell; 300 weights in float32\nnet.c: agrees to ")
    assert "int8: " in out
    assert "voice_step(const float *x" in Path("net.c").read_text()


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_an_onnx_file(capfd, form):
    pytest.importorskip("onnxruntime", reason="it is not installed: pip install onnx onnxruntime")
    status, out, err = here(capfd, "net.safetensors", "net.onnx", "--form", form)
    assert (status, err) == (0, "")
    assert "in ONNX Runtime" in out
    assert ("\n  2 Scan nodes\n" in out) == (form == "sequence")
    assert Path("net.onnx").stat().st_size > 1000


def test_there_and_back_as_text(capfd):
    """The wiring and every number, as JSON for people and programs; notes too."""
    network = td.load("net.safetensors")
    with torch.no_grad():
        network.cell.cells[0].weight_hh[0, 0] = float("-inf")
    td.save("net.safetensors", network.double(), notes={"unit": "degrees"})
    for words in ("net.safetensors net.json", "net.json again.safetensors"):
        status, out, err = here(capfd, *words.split())
        assert (status, err) == (0, "")
        assert out.endswith("agrees to 0.0e+00 (every number, bit for bit)\n")
    assert td.fingerprint(td.load("again.safetensors")) == td.fingerprint(network)
    assert read_notes("again.safetensors") == {"unit": "degrees"}
    words = json.loads(Path("net.json").read_text())
    kinds = [one["type"] for one in words["network"]["arguments"]["cell"]["arguments"]["cells"]]
    assert kinds == ["treadle.LSTMCell", "treadle.GRUCell"]
    assert words["tensors"]["cell.layer0.bias_ih"]["data"] == network.cell.cells[0].bias_ih.tolist()


def test_it_says_what_is_left_out(capfd):
    td.save("dropped.safetensors", td.LSTM(3, 4, 2, dropout=0.5))
    status, out, _ = here(capfd, "dropped.safetensors", "net.json")
    assert status == 0
    assert "left out" not in out
    if shutil.which("cc"):
        status, out, _ = here(capfd, "dropped.safetensors", "net.c")
        assert status == 0
        assert "\nchanged: dropout of LSTM is left out, as in evaluation\n" in out


def test_from_onnx_and_to_treadle(capfd):
    pytest.importorskip("onnxruntime", reason="it is not installed: pip install onnx onnxruntime")
    td.interop.to_onnx(td.load("net.safetensors"), "net.onnx")
    td.interop.to_onnx(td.Recurrent(td.GRUCell(3, 4)), "gru.onnx", "sequence")
    status, out, err = here(capfd, "gru.onnx", "gru.safetensors")
    assert (status, err) == (0, "")
    assert out.startswith("gru.onnx: agrees to ")
    xs, lengths, h = torch.randn(2, 7, 3), torch.tensor([7, 4]), torch.randn(2, 4)
    given = (xs, lengths, h)
    ys, _ = td.load("gru.safetensors")(*given)
    wanted, _ = td.interop.from_onnx("gru.onnx")(*given)
    assert torch.equal(ys, wanted)
    status, out, err = here(capfd, "gru.onnx", "gru.json")
    assert (status, err) == (0, "")
    if shutil.which("cc"):
        status, out, err = here(capfd, "gru.onnx", "gru.c")
        assert (status, err) == (0, "")
        assert "gru.c: agrees to " in out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_to_pytorch(capfd):
    status, out, err = here(capfd, "net.safetensors", "net.pt2", "--form", "sequence")
    assert (status, err) == (0, "")
    assert "operators of PyTorch" in out
    rest = {"layer0.h": torch.zeros(2, 4), "layer0.c": torch.zeros(2, 4), "layer1.h": torch.zeros(2, 4)}
    xs = torch.randn(2, 9, 3)
    ys, _ = torch.export.load("net.pt2").module()(xs, torch.tensor([9, 9]), rest)
    torch.testing.assert_close(ys, td.load("net.safetensors")(xs)[0])


@needs_cc
def test_above_the_tolerance_nothing_is_written(capfd, folder):
    status, out, err = here(capfd, "net.safetensors", "net.c", "--tolerance", "0")
    assert (status, out) == (1, "")
    assert "differs from the network by" in err
    assert err.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("net.safetensors net.h5x", "net.h5x must end in .safetensors, "),
        ("net.c net.onnx", "net.c must end in .safetensors, "),
        ("net.safetensors net.c --form sequence", "--form is for .onnx and .pt2 files: leave it out"),
        ("net.safetensors net.onnx --weights int8", "--weights is for .c files: leave it out"),
        ("net.safetensors net.onnx --compiled", "--compiled is for .pt2 files: leave it out"),
        ("net.safetensors net.onnx --name net", "--name is for .c files: leave it out"),
        ("net.safetensors net.onnx --form steps", "--form: there is no 'steps'; choose one of step, sequence"),
        ("net.safetensors net.c --weights int4", "--weights: there is no 'int4'; choose one of float32, int8"),
        ("net.safetensors net.c --compiler no-such-cc", "there is no C compiler 'no-such-cc'"),
        ("net.safetensors net.c --name 2x", "an identifier such as 'net'"),
        ("none.safetensors net.c", "none.safetensors"),
        ("net.safetensors no/net.c", "there is no folder"),
    ],
)
def test_one_line_says_what_is_wrong(capfd, folder, words, message):
    status, out, err = here(capfd, *words.split())
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["net.safetensors"]
