"""`treadle translate`, as people use it."""

import io
import signal
import sys
import time

import pytest

from tests.cli.test_commands import Terminal, command
from treadle.cli import main
from treadle.recipes.translate import Translator

SMALL = ["--hidden-size", "8", "--budget", "3steps"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{letter * n}\t{letter.upper()}{n}\n" for letter in "abcdef" for n in range(1, 6)]
    (tmp_path / "pairs.tsv").write_text("".join(lines))
    return tmp_path


def run(capsys, *arguments):
    """In this process: exit status, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_it_learns_and_translates(capsys, folder, monkeypatch):
    code, out, _ = run(capsys, "translate", "pairs.tsv", "-o", "m.safetensors", *SMALL, "--plot", "lengths.svg")
    assert code == 0
    assert out.startswith("m.safetensors: ")
    assert "% of 3 validation pairs after 3 steps" in out
    assert (folder / "lengths.svg").read_text().startswith("<?xml")
    (folder / "new.txt").write_text("abc\nfed\n")
    for beams in ((), ("--beams", "3")):
        code, out, err = run(capsys, "translate", "new.txt", "--model", "m.safetensors", *beams)
        assert (code, err) == (0, "")
        assert out.split("\n")[:-1] == Translator.load("m.safetensors").translate(
            ["abc", "fed"], int(*beams[1:] or "1")
        )
    code, out, err = run(capsys, "translate", "pairs.tsv", "--model", "m.safetensors")
    assert "% of 30 targets" in err
    stdin = io.TextIOWrapper(io.BytesIO(b"cab\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    code, out, err = run(capsys, "translate", "-", "--model", "m.safetensors")
    assert (code, out.count("\n")) == (0, 1)


def test_tasks_have_names_and_files_judge(capsys, folder):
    (folder / "test.tsv").write_text("3 May 1999\t1999-05-03\n")
    code, out, _ = run(capsys, "translate", "dates", "-o", "m.safetensors", *SMALL[:3], "1steps", "--test", "test.tsv")
    assert code == 0
    assert "% of 1 test pairs" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pairs.tsv"], "pass '--output' MODEL to train on pairs, or '--model' MODEL to translate with it"),
        (["pairs.tsv", "-o", "m", "--model", "m"], "pass '--output' MODEL"),
        (["none.tsv", "-o", "m"], "none.tsv: No such file"),
        (["bad.tsv", "-o", "m"], "bad.tsv, line 2 has no tab: a line is a source, one tab and its target"),
        (["empty.tsv", "-o", "m"], "empty.tsv is empty: it needs pairs"),
        (["pairs.tsv", "-o", "pairs.tsv"], "pairs.tsv is the input already"),
        (["pairs.tsv", "-o", "m", "--attention", "cosine"], "--attention: there is no 'cosine'; choose one of dot"),
        (["pairs.tsv", "-o", "m", "--cell", "gnu"], "--cell: there is no 'gnu'"),
        (["pairs.tsv", "-o", "m", "--budget", "soon"], "--budget: a budget is a time"),
        (["pairs.tsv", "-o", "m", "--plot", "a.gif"], "must end in .svg or .png"),
        (["pairs.tsv", "-o", "m", "--test", "strange.tsv"], "strange.tsv, line 2: 'xyz' has 'x', which was nowhere"),
        (["new.txt", "--model", "pairs.tsv"], "pairs.tsv is not a whole safetensors file"),
    ],
)
def test_errors_are_one_line(capsys, folder, arguments, message):
    (folder / "bad.tsv").write_text("a\tb\nc\n")
    (folder / "empty.tsv").write_text("")
    (folder / "strange.tsv").write_text("a\tb\nxyz\tb\n")
    code, out, err = run(capsys, "translate", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("treadle: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (folder / "m").exists()


def test_unknown_characters_are_named_with_their_line(capsys, folder):
    run(capsys, "translate", "pairs.tsv", "-o", "m.safetensors", *SMALL)
    (folder / "new.txt").write_text("abc\naß\n")
    code, out, err = run(capsys, "translate", "new.txt", "--model", "m.safetensors")
    assert (code, out) == (2, "")
    assert "new.txt, line 2: 'aß' has 'ß', which was nowhere in the training set" in err


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_learned(folder):
    terminal = Terminal()
    process = command("translate", "pairs.tsv", "-o", "m.safetensors", "--budget", "10m", stderr=terminal.writer)
    terminal.until(lambda seen: b"step" in seen)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    out = terminal.until_the_end(process, 100)
    assert process.returncode == 130
    assert time.monotonic() - start < 60
    assert b"exact match on" in out
    assert b"interrupted; the network trained so far is saved" in terminal.seen
    Translator.load(folder / "m.safetensors").translate(["abc"])
