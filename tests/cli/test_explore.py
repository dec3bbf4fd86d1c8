"""`treadle explore`: a page of saved networks, or of small ones that it trains."""

import json
import re

import pytest
import torch

import treadle as td
from treadle.cli import main
from treadle.files import model_file
from treadle.recipes.explore import Design, built_in_text, read_letters, read_numbers, small_network, train_small
from treadle.training import Fitted, language_model, sequence_model
from treadle.training.scaling import Scaling

QUICK = ["--steps", "0", "--length", "6", "--layers", "2", "--hidden", "4"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose.txt").write_text("Now is the time for all good men.\n" * 20)
    rows = "".join(f"2020-01-{1 + row:02},{row % 7},{row * row % 11}\n" for row in range(28))
    (tmp_path / "heat.csv").write_text("day,heat,rain\n" + rows)
    return tmp_path


def explore(*words):
    with pytest.raises(SystemExit) as end:
        main(["explore", *map(str, words)])
    return end.value.code or 0


def data_of(path):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_small_networks_on_the_built_in_text(folder, capsys):
    assert explore("relay", "stack", *QUICK, "-o", "page.html") == 0
    out, err = capsys.readouterr()
    assert out == f"The page is {folder / 'page.html'}: open it in a browser\n"
    assert not err
    first, second = data_of(folder / "page.html")["networks"]
    assert (first["name"], second["name"]) == ("relay", "stack")
    assert first["wiring"] == "relay"
    assert [box["title"] for box in first["boxes"]] == ["x(t)", "embedded", "layer0", "layer1", "scores", "y(t)"]
    assert "".join(first["input"]["labels"]) == built_in_text().text[:6]


def test_small_networks_on_a_text_and_on_a_series(folder):
    assert explore("dense", *QUICK, "--text", "prose.txt", "-o", "page.html") == 0
    assert "".join(data_of(folder / "page.html")["networks"][0]["input"]["labels"]) == "Now is"
    assert explore("dense", *QUICK, "--series", "heat.csv", "-o", "page.html") == 0
    (network,) = data_of(folder / "page.html")["networks"]
    assert network["input"]["names"] == ["heat", "rain"]
    assert "forecast" in [box["title"] for box in network["boxes"]]


def test_saved_networks(folder):
    model_file.save("words.safetensors", language_model("gru", "skip", hidden_size=4))
    assert explore("words.safetensors", "--text", "prose.txt", "--length", "5", "-o", "page.html") == 0
    (network,) = data_of(folder / "page.html")["networks"]
    assert network["name"] == "words"
    assert network["input"] == {"kind": "tokens", "labels": list("Now i"), "names": None}

    scaling = Scaling.fit(["rain", "heat"], [torch.randn(20, 2)])
    Fitted(sequence_model(2, 2, hidden_size=4), scaling, labels=("dry", "wet")).save("fitted.safetensors")
    assert explore("fitted.safetensors", "--series", "heat.csv", "--length", "5", "-o", "page.html") == 0
    assert data_of(folder / "page.html")["networks"][0]["input"]["names"] == ["rain", "heat"]

    td.save("plain.safetensors", td.Recurrent(td.LSTMCell(3, 4)))
    assert explore("plain.safetensors", "--length", "5", "-o", "page.html") == 0
    assert data_of(folder / "page.html")["networks"][0]["input"]["names"] == ["wave 1", "wave 2", "wave 3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stak"], "neither a file nor a wiring 'stak'; the wirings are stack, relay"),
        (["stack", "stack"], "two networks are called 'stack'"),
        (["stack", "--text", "prose.txt", "--series", "heat.csv"], "'--text' or '--series', not both"),
        (["stack", "--text", "no.txt"], "no.txt: No such file or directory"),
        (["stack", "--text", "short.txt"], "short.txt has 5 letters, but 200 are needed"),
        (["stack", "--series", "words.csv"], "words.csv has no column of numbers"),
        (["stack", "--series", "gap.csv"], "the value is missing"),
        (["stack", "--cell", "lstn"], "--cell: there is no 'lstn'"),
        (["stack", "-o", "no/page.html"], "--output"),
        (["plain.safetensors", "--text", "prose.txt"], "reads 3 numbers at each step, but a text was passed"),
        (["plain.safetensors", "--series", "heat.csv"], "reads 3 numbers at each step, but heat.csv has 2 columns"),
        (["plain.safetensors", "-o", "plain.safetensors"], "is the input already"),
        (["both.safetensors"], "reads the sequence from its end"),
        (["heat.csv"], "heat.csv"),
    ],
)
def test_what_cannot_be_explored_is_said_in_one_line(words, message, folder, capsys):
    td.save("plain.safetensors", td.Recurrent(td.LSTMCell(3, 4)))
    td.save("both.safetensors", td.Bidirectional(td.LSTMCell(3, 4), td.LSTMCell(3, 4)))
    (folder / "short.txt").write_text("short")
    (folder / "words.csv").write_text("a,b\n" + "x,y\n" * 30)
    (folder / "gap.csv").write_text("a,b\n" + "1,2\n" * 15 + "3,\n" * 15)
    before = sorted(path.name for path in folder.iterdir())
    assert explore(*words, "--steps", "0", "--length", "5") == 2
    error = capsys.readouterr().err
    assert error.startswith("treadle: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def test_training_learns_and_the_seed_says_what():
    material = built_in_text()

    def losses(seed):
        torch.manual_seed(seed)
        rnn = small_network(material, "stack", Design("gru", 1, 8))
        return list(train_small(rnn, material, 40, seed))

    first = losses(0)
    assert sum(first[-5:]) < 0.9 * sum(first[:5])
    assert losses(0) == first
    assert losses(1) != first


def test_material(folder):
    letters = read_letters(folder / "prose.txt")
    assert "".join(letters.alphabet[number] for number in letters.numbers[:3]) == "Now"
    xs, answers = letters.inputs()
    assert torch.equal(xs[1:], answers[:-1])
    (folder / "many.txt").write_text("".join(map(chr, range(200, 500))) + "a" * 50)
    many = read_letters(folder / "many.txt")
    assert len(many.alphabet) == 64
    assert many.numbers.max() == 63
    numbers = read_numbers(folder / "heat.csv")
    assert numbers.columns == ("heat", "rain")
    assert torch.allclose(numbers.values.mean(0), torch.zeros(2), atol=1e-6)
