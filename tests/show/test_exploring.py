"""The explorer as an object: one page, saved, shown by notebooks, of one network or several."""

import html
import json
import re

import pytest
import torch

import treadle as td
from tests.registry import build, stack
from treadle.show.explorer_data import network


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', str(page), re.DOTALL)[1])


def test_one_network(tmp_path):
    page = td.show.explorer(td.Recurrent(stack("skip")), torch.randn(2, 5, 3), tmp_path / "page.html", row=1)
    assert repr(page) == "<Explorer of skip>"
    assert (tmp_path / "page.html").read_text() == str(page)
    assert page.save(tmp_path / "again.html").read_text() == str(page)
    assert data_of(page) == json.loads(json.dumps(page.data))
    frame = re.fullmatch(r'<iframe srcdoc="([^"]*)"[^>]*></iframe>', page._repr_html_())
    assert html.unescape(frame[1]) == str(page)


def test_the_row_that_is_asked_for():
    rnn, xs = build("gru", torch.float32), torch.randn(3, 5, 3)
    assert td.show.explorer(rnn, xs, row=-1).data == td.show.explorer(rnn, xs[2:]).data
    other = build("gru", torch.float32, batch_first=False)
    shown = td.show.explorer(other, xs.transpose(0, 1), row=2).data["networks"][0]
    assert shown["record"] == td.show.explorer(rnn, xs[2:]).data["networks"][0]["record"]


def test_several_networks_side_by_side():
    models = {"one": td.LSTM(3, 4, batch_first=True), "other": td.Recurrent(stack("relay")), "cell": td.GRUCell(2, 4)}
    xs = torch.randn(1, 5, 3)
    page = td.show.explorer(models, {"one": xs, "other": xs, "cell": xs[..., :2]}, title="All <b>", features=None)
    assert [one["name"] for one in page.data["networks"]] == ["one", "other", "cell"]
    assert page.data["title"] == "All <b>"
    assert "<title>All &lt;b&gt;" in str(page)


def test_random_masks_stay_as_they_would_have_been():
    rnn = td.Recurrent(stack("relay", dropout=0.5)).train()
    torch.manual_seed(0)
    td.show.explorer(rnn, torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.initial_seed() == 0
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(torch.rand(()), drawn)


def test_what_cannot_be_explored(monkeypatch):
    with pytest.raises(TypeError, match="no network to explore"):
        td.show.explorer({}, torch.randn(1, 4, 3))
    with pytest.raises(TypeError, match="but this is a Linear"):
        td.show.explorer(torch.nn.Linear(3, 4), torch.randn(1, 4, 3))
    with pytest.raises(TypeError, match="reads the sequence from its end"):
        td.show.explorer(td.Bidirectional(td.GRUCell(3, 4), td.GRUCell(3, 4)), torch.randn(1, 4, 3))
    with pytest.raises(td.errors.ShapeError, match=r"xs is \[1, 4, 3\] and row=1"):
        td.show.explorer(td.GRUCell(3, 4), torch.randn(1, 4, 3), row=1)
    with pytest.raises(td.errors.ShapeError, match="no sequence for 'b'"):
        td.show.explorer({"a": td.GRUCell(3, 4), "b": td.GRUCell(3, 4)}, {"a": torch.randn(1, 4, 3)})
    with pytest.raises(td.errors.ShapeError, match="reads 4 steps, but 3 labels were passed"):
        td.show.explorer(td.GRUCell(3, 4), torch.randn(1, 4, 3), labels=list("abc"))
    with pytest.raises(td.errors.ShapeError, match="reads 3 features, but 2 names of features were passed"):
        td.show.explorer(td.GRUCell(3, 4), torch.randn(1, 4, 3), features=["a", "b"])
    monkeypatch.setattr(network, "MOST_NUMBERS", 500)
    with pytest.raises(td.errors.ShapeError, match=r"numbers to show, but a page holds at most 500: pass fewer steps"):
        td.show.explorer(td.GRUCell(3, 4), torch.randn(1, 40, 3))
