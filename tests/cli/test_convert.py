"""`treadle convert`: what it writes, says and refuses."""

import shutil
from pathlib import Path

import pytest

import treadle as td
from treadle.cli import main

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
    assert out.startswith("net.c: agrees to ")
    assert "int8: " in out
    assert "voice_step(const float *x" in Path("net.c").read_text()


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_an_onnx_file(capfd, form):
    pytest.importorskip("onnxruntime", reason="it is not installed: pip install onnx onnxruntime")
    status, out, err = here(capfd, "net.safetensors", "net.onnx", "--form", form)
    assert (status, err) == (0, "")
    assert "in ONNX Runtime" in out
    assert Path("net.onnx").stat().st_size > 1000


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
        ("net.safetensors net.h5x", "net.h5x must end in .onnx or .c"),
        ("net.safetensors net.c --form sequence", "--form: a C file takes one step a call"),
        ("net.safetensors net.onnx --weights int8", "--weights and --name are for C files"),
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
