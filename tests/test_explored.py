"""The explorer of the site: its networks are those that the script trains, and have learned their text."""

import re

import explored
import pytest
import torch

import treadle as td
from treadle.recipes.explore import built_in_text, small_network


@pytest.mark.share(1)
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_the_networks_have_learned_the_text(wiring):
    text, rnn = built_in_text(), explored.networks()[wiring]
    fresh = small_network(text, wiring, explored.DESIGN)
    assert repr(rnn) == repr(fresh.eval())
    xs, answers = text.inputs()
    with torch.no_grad():
        loss = text.loss(rnn(xs[None, :2000])[0], answers[None, :2000])
    assert loss < 0.4  # to know how frequent each letter is takes 2.8


def test_the_files_are_small():
    files = list(explored.FOLDER.glob("*.safetensors"))
    assert {file.stem for file in files} == set(td.WIRINGS)
    assert sum(file.stat().st_size for file in files) < 200_000


@pytest.mark.slow
def test_the_page_shows_them_all():
    page = explored.explorer_page()
    assert re.search(r'"tour":\s*true', page)
    for wiring in td.WIRINGS:
        assert f'"name":"{wiring}"' in page
    assert len(page) < 5_000_000
