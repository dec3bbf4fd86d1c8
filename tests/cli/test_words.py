"""Words: `treadle fit --words`, and what the other commands do with such a network."""

import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import treadle as td
from tests.cli.test_fit import here, stopped
from treadle.streams import WordFile
from treadle.training import WordModel, language_model

SMALL = ["--layers", "1", "--parameters", "3166", "--window", "8", "--rows", "4"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    lines = [" ".join(draw.choice(["the cat", "a dog", "no bird"]) + f" sees w{draw.randrange(40)}" for _ in range(3))
             for _ in range(300)]  # fmt: skip
    Path("text.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def fit(capfd, *arguments, output="m.safetensors"):
    status, out, err = here(capfd, "fit", "text.txt", "-o", output, *SMALL, *arguments)
    assert status == 0, err
    return out, err


def test_fit_says_the_perplexity_and_keeps_the_vocabulary(capfd):
    out, err = fit(
        capfd, "--words", "--vocabulary", "30", "--budget", "60steps", "--json", "s.json", "--learning-rate", "0.02"
    )
    assert "words, a vocabulary of 30)" in err
    assert re.search(r"perplexity [\d.]+ .* words/s", err)
    found = re.fullmatch(
        r"m.safetensors: perplexity ([\d.]+) per word of held-out text \(([\d.]+) bits per character; ([\d.]+)% of its"
        r" words are unknown\), after 60 steps\n",
        out,
    )
    assert found is not None
    kept = json.loads(Path("s.json").read_text())
    assert kept["kind"] == "words"
    scores = kept["scores"]
    assert scores["perplexity"] == pytest.approx(float(found[1]), abs=0.1)
    assert math.log2(scores["perplexity"]) == pytest.approx(scores["bits_per_word"])
    assert scores["unknown_words"] == pytest.approx(float(found[3]) / 100, abs=1e-3)
    assert scores["perplexity"] < 12  # 4 of 7 words are certain, one is one of three
    words = WordModel.load("m.safetensors")
    assert len(words.vocabulary) == 30
    assert words.vocabulary.symbols[:2] == ("<unk>", "sees")


def test_run_writes_words_and_scores_a_text(capfd):
    fit(capfd, "--words", "--vocabulary", "30", "--budget", "60steps")
    line = ["run", "m.safetensors", "--prompt", "the cat", "--words", "12"]
    status, out, err = here(capfd, *line)
    assert (status, err) == (0, "")
    assert out.startswith("the cat")
    assert len(re.findall(r"\S+|\n", out)) == 14
    assert "<unk>" not in out
    assert here(capfd, *line)[1] == out
    Path("other.txt").write_text("the cat sees w3\n" * 40 + "the zebra")
    status, out, err = here(capfd, "run", "m.safetensors", "other.txt", "--json", "-")
    assert status == 0
    assert re.match(r"perplexity [\d.]+ per word of other.txt's 20\d words \(", err)
    scores = json.loads(out)["scores"]
    words = WordModel.load("m.safetensors")
    stream = WordFile("other.txt", words.vocabulary)
    assert stream.length == 202
    tokens = torch.cat([torch.from_numpy(piece.x) for piece in stream.pieces()])
    with torch.no_grad():
        loss = F.cross_entropy(words.model(tokens[None, :-1])[0][0], tokens[1:])
    assert scores["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)
    assert scores["scored_words"] == 201
    bits = loss.item() / math.log(2) * stream.length / stream.characters
    assert scores["bits_per_character"] == pytest.approx(bits, rel=1e-5)


def test_a_run_of_words_is_resumed_bit_for_bit(capfd):
    line = ["--words", "--vocabulary", "30", "--budget", "30steps", "--checkpoint-every", "2steps"]
    fit(capfd, *line, output="whole.safetensors")
    stopped(capfd, 11, "fit", "text.txt", *SMALL, *line, "-o", "m.safetensors", "--checkpoint", "run")
    assert "after 30 steps" in fit(capfd, *line, "--checkpoint", "run")[0]
    assert td.fingerprint(td.load("m.safetensors")) == td.fingerprint(td.load("whole.safetensors"))
    line[2] = "31"
    status, _, err = here(capfd, "fit", "text.txt", *SMALL, *line, "-o", "m.safetensors", "--checkpoint", "run")
    assert status == 2
    assert "run is the checkpoint of another" in err


def test_fine_tuning_keeps_the_vocabulary(capfd):
    fit(capfd, "--words", "--vocabulary", "30", "--budget", "5steps")
    Path("text.txt").write_text("something else is read here\n" * 400)
    line = ["fit", "text.txt", "--resume", "m.safetensors", "-o", "n.safetensors", "--budget", "5steps", "--rows", "4"]
    status, out, err = here(capfd, *line)
    assert status == 0, err
    assert "perplexity" in out
    assert WordModel.load("n.safetensors").vocabulary == WordModel.load("m.safetensors").vocabulary
    status, _, err = here(capfd, *line, "--vocabulary", "50")
    assert status == 2
    assert "--vocabulary: the network of --resume m.safetensors has that already; leave it out" in err


def test_other_commands_take_a_network_of_words(capfd):
    fit(capfd, "--vocabulary", "300", "--budget", "3steps", "--parameters", "3439")  # which says --words as well
    assert here(capfd, "show", "m.safetensors", "--explain", "-o", "m.svg")[0] == 0
    Path("few.txt").write_text("the cat sees\na mouse\n" * 10)
    status, _, err = here(capfd, "explore", "m.safetensors", "--text", "few.txt", "-o", "page.html")
    assert status == 0, err
    assert all(f'"{word}"' in Path("page.html").read_text() for word in ("the", "cat", "sees"))


def refused(capfd, *arguments) -> str:
    status, out, err = here(capfd, *arguments)
    assert (status, out) == (2, "")
    return " ".join(err.split())


def test_what_does_not_go_together_is_refused(capfd):
    fit(capfd, "--words", "--vocabulary", "30", "--budget", "1steps")
    td.save("bytes.safetensors", language_model("gru", hidden_size=4))
    assert "m.safetensors writes words: say how many with --words" in refused(
        capfd, "run", "m.safetensors", "--bytes", "9"
    )
    assert "writes bytes: say how many with --bytes" in refused(capfd, "run", "bytes.safetensors", "--words", "9")
    line = ["run", "m.safetensors", "text.txt", "-o", "p.csv"]
    assert "--output need a network of series or sequences" in refused(capfd, *line)
    assert "the prompt has no words" in refused(capfd, "run", "m.safetensors", "--prompt", " ")
    line = ["fit", "text.txt", "--words", "-o", "n.safetensors"]
    assert "does not hold a word-level language model" in refused(capfd, *line, "--resume", "bytes.safetensors")
    assert "--target has no meaning for text.txt, which is read as words" in refused(capfd, *line, "--target", "y")
    Path("short.txt").write_text("too short a text\n" * 9)
    assert "words for training and" in refused(capfd, "fit", "short.txt", "--words", "-o", "n.safetensors")
    Path("latin.txt").write_bytes("un café\n".encode("latin-1") * 999)
    assert "latin.txt is not UTF-8 at byte 6" in refused(capfd, "fit", "latin.txt", "--words", "-o", "n.safetensors")
    Path("s.csv").write_text("y\n" + "1\n" * 99)
    assert "--words has no meaning for s.csv, which is read as series" in refused(
        capfd, "fit", "s.csv", "--words", "-o", "n.safetensors"
    )
    for command in (
        ["fit", "m.safetensors", "-o", "n.safetensors"],
        ["compare", "m.safetensors", "--save", "n.safetensors"],
    ):
        assert "m.safetensors is a saved network, not a text" in refused(capfd, *command)
    assert not Path("n.safetensors").exists()


@pytest.mark.share(2)
@pytest.mark.parametrize("change", [{"symbols": ["<unk>", "a"]}, {"unit": "characters"}, {"unknown": None}])
def test_a_vocabulary_that_does_not_fit_is_refused(capfd, change):
    fit(capfd, "--words", "--vocabulary", "30", "--budget", "1steps")
    words = WordModel.load("m.safetensors")
    td.save("m.safetensors", words.model, notes={"vocabulary": words.vocabulary.as_json() | change})
    for command in (["run", "m.safetensors"], ["explore", "m.safetensors", "--text", "text.txt", "-o", "page.html"]):
        assert "m.safetensors is damaged: its vocabulary does not fit" in refused(capfd, *command)
