"""`treadle decode`, as people use it."""

import builtins
import io
import json
import os

import pytest

from tests.cli.test_commands import WIDE, Terminal, command
from tests.cli.test_translate import run
from treadle.recipes.decode import Game, load_network
from treadle.recipes.decode.decoder_training import new_network


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_study_says_what_came_of_it(capsys, folder):
    options = ["--users", "2", "--presses", "25", "--processes", "1", "-o", "study.json", "--plot", "study.svg"]
    options += ["--online-rate", "0.0001"]
    code, out, _ = run(capsys, "decode", "--study", *options)
    assert code == 0
    assert "2 users: accuracy relative to the best attainable on the same 50 presses" in out
    for name in ("attainable", "decoder", "memory alone", "Bayes", "perceptron"):
        assert name in out
    found = json.loads((folder / "study.json").read_text())
    assert sorted(found) == ["0", "1"]
    assert len(found["1"]["decoder"]["right"]) == 50
    assert (folder / "study.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_a_network_is_learned_and_used(capsys, folder, monkeypatch):
    monkeypatch.setattr("treadle.recipes.decode.decoder_training.PRESSES", 100)
    code, out, _ = run(capsys, "decode", "--learn", "network.safetensors", "--budget", "1epochs")
    assert code == 0
    assert out.startswith("network.safetensors: after 1 rounds, ")
    first = load_network("network.safetensors")
    assert first.cell.actions == 11
    shown = "--learn", "again.safetensors", "--budget", "1epoch", "--resume", "network.safetensors"
    assert run(capsys, "decode", *shown)[0] == 0
    on, new = load_network("again.safetensors"), new_network()
    moved = [
        sum((a - b).abs().sum() for a, b in zip(on.parameters(), of.parameters(), strict=True)) for of in (first, new)
    ]
    assert 0 < moved[0] < moved[1]  # it went on from the first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "--learn", "n.safetensors"], "--study and --learn are two commands"),
        (["--plot", "study.svg"], "--plot needs --study"),
        (["--study", "--plot", "study.gif"], "--plot: study.gif must end in"),
        (["--study", "--save", "game"], "--save is the file of a game"),
        (["--study", "--checkpoint", "run"], "--checkpoint needs --learn: only that trains"),
        (["--learn", "n", "--model", "text"], "to train it further, pass it as --resume"),
        (["--study", "-o", "nowhere/study.json"], "--output: there is no folder nowhere"),
        (["--study", "--model", "none.safetensors"], "none.safetensors: No such file"),
        (["--study", "--model", "text"], "text is not a whole safetensors file"),
        (["--save", "text"], "text is not a whole safetensors file"),
        ([], "the game needs a terminal"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, folder, arguments, message, monkeypatch):
    (folder / "text").write_text("no")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, out, err = run(capsys, "decode", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_textual_it_says_what_to_install(capsys, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("textual") or name == "treadle.recipes.decode.app":
            raise ModuleNotFoundError("No module named 'textual'", name="textual")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    code, _, err = run(capsys, "decode")
    assert code == 2
    assert "pip install textual" in err


@pytest.mark.slow
def test_the_game_is_kept_from_one_time_to_the_next(folder):
    for presses in (3, 6):
        terminal = Terminal()
        process = command(
            "decode", "--save", "game", stdin=terminal.writer, stdout=terminal.writer, stderr=terminal.writer, env=WIDE
        )
        terminal.until(lambda seen: b"want" in seen)
        for key in b"abc":
            os.write(terminal.reader, bytes([key]))
        terminal.until(lambda seen: b" presses" in seen)
        os.write(terminal.reader, b"\x11")  # Ctrl+Q
        terminal.until(lambda seen: b"Resume with: treadle decode --save" in seen)
        assert process.wait(timeout=60) == 0
        game = Game()
        game.restore("game")
        assert len(game.right) <= presses
        assert set(game.known) == set("abc")
