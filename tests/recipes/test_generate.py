from itertools import islice

import pytest
import torch

from treadle.errors import ModelFileError, ShapeError
from treadle.recipes.generate import generate, readable
from treadle.training import language_model


@pytest.fixture
def model():
    torch.manual_seed(1)
    return language_model("gru", "feedback", 2, 12)


def written(model, prompt, count=40, **options):
    return bytes(one.byte for one in islice(generate(model, prompt, **options), count))


def test_the_likeliest_bytes_are_those_of_the_whole_sequence(model):
    """Temperature 0, one step at a time, against the network run over all that has been written."""
    prompt = b"import "
    text = prompt + written(model, prompt, temperature=0)
    scores, _ = model.eval()(torch.tensor([list(text)]))
    assert scores[0, len(prompt) - 1 : -1].argmax(1).tolist() == list(text[len(prompt) :])


def test_the_same_seed_writes_the_same(model):
    assert written(model, b"a", seed=5) == written(model, b"a", seed=5)
    assert written(model, b"a", seed=5) != written(model, b"a", seed=6)


def test_bytes_are_drawn_as_often_as_the_model_says(model):
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.cell.scores.bias.fill_(-torch.inf)
        model.cell.scores.bias[list(b"ab")] = torch.tensor([0.0, 0.8 * torch.log(torch.tensor(3.0))])
        model.cell.scores.bias.clamp_(min=-1e4)
    drawn = written(model, b"a", count=800, temperature=0.8)
    assert set(drawn) == set(b"ab")
    assert drawn.count(b"b") / 800 == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("prompt", "temperature"), [(b"", 0.8), (b"a", -1), (b"a", float("nan")), (b"a", float("inf"))]
)
def test_bad_arguments_are_refused(model, prompt, temperature):
    with pytest.raises(ShapeError):
        written(model, prompt, temperature=temperature)


def test_a_diverged_network_is_refused(model):
    torch.nn.init.constant_(model.cell.scores.bias, torch.nan)
    with pytest.raises(ModelFileError, match="diverged"):
        written(model, b"a")


def test_readable_text_has_no_control_characters():
    assert readable(b"a\tb\n\x1b[31m\xff\xc3\xa9\r\x00") == "a\tb\n�[31m�é��"
