import pytest
import torch
from torch import nn

import treadle as td
from tests.adapt.test_grow import Tagger, unchanged
from tests.tolerances import assert_close
from treadle.adapt import freeze, replace_head
from treadle.errors import AdaptError


def graph():
    g = td.Graph(3)
    low = g.add("low", td.LSTMCell(3, 4), reads=g.x)
    return td.Recurrent(g.outputs(g.add("head", nn.Sequential(nn.Tanh(), nn.Linear(4, 2)), reads=low)))


def test_in_a_graph():
    model = freeze(graph())
    new = unchanged(model, lambda model: replace_head(model, 5))
    xs = torch.randn(2, 7, 3)
    ys, _ = new(xs)
    assert ys.shape == (2, 7, 5)
    assert new.cell.output_size == 5
    below, _ = td.Recurrent(model.cell.low)(xs)
    assert_close(ys, nn.functional.linear(below.tanh(), new.cell.head[1].weight, new.cell.head[1].bias))
    assert {n for n, p in new.named_parameters() if p.requires_grad} == {"cell.head.1.weight", "cell.head.1.bias"}
    other = replace_head(model, nn.Linear(4, 6), at="cell.head")
    assert other(xs)[0].shape == (2, 7, 6)
    assert other.cell.head.weight.requires_grad


def test_in_a_sequence_and_in_a_module_of_ones_own():
    images = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 21, 3, padding=1, dtype=torch.float64), nn.Upsample(scale_factor=2)
    )
    new = unchanged(images, lambda model: replace_head(model, 2))
    assert (new[1].out_channels, new[1].padding, new[1].weight.dtype) == (2, (1, 1), torch.float64)
    tagger = Tagger(nn.GRU(3, 4), 4)
    new = unchanged(tagger, lambda model: replace_head(model, 5, at="head"))
    assert new(torch.randn(2, 7, 3)).shape == (2, 7, 8)
    new = replace_head(freeze(tagger), 5, at="head")
    assert {n for n, p in new.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    assert replace_head(tagger, nn.Identity(), at="other").other.__class__ is nn.Identity


@pytest.mark.parametrize("head", [7, 9, nn.Sequential(nn.Linear(4, 9))])
def test_a_new_head_is_its_own(head):
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(7, 4), reads=g.x)
    low = g.add("low", td.GRUCell(4, 4), reads=embedded)
    tied = td.Recurrent(g.outputs(g.add("scores", nn.Linear(4, 7), reads=low)))
    tied.cell.scores.weight = tied.cell.embedded.weight
    new = unchanged(tied, lambda model: replace_head(model, head, at="cell.scores"))
    assert torch.equal(new.cell.embedded.weight, tied.cell.embedded.weight)
    assert all(p is not new.cell.embedded.weight for p in new.cell.scores.parameters())
    assert tied.cell.scores.weight is tied.cell.embedded.weight


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda: replace_head(Tagger(nn.GRU(3, 4), 4), 5), "module of your own: name the head with at="),
        (lambda: replace_head(graph(), nn.Linear(5, 2)), "reads 4 features, but the new head takes 5"),
        (lambda: replace_head(graph(), 0), "positive number of outputs"),
        (lambda: replace_head(graph(), "two"), "a number of outputs or a module"),
        (lambda: replace_head(td.Recurrent(td.GRUCell(2, 3)), 2), "is no linear layer: name the head"),
        (
            lambda: replace_head(td.ClosedLoop(td.GRUCell(5, 4), td.Continuous(3), td.Continuous(2)), 3),
            "decides about 2 actions of a closed loop, but the new head gives 3",
        ),
        (lambda: replace_head(nn.Linear(2, 3), 2), "without a head of its own"),
        (lambda: replace_head(graph(), td.GRUCell(4, 2)), "has no state, unlike the new head"),
        (lambda: replace_head(Tagger(nn.GRU(3, 4), 4), 5, at="rnn"), "pass a module"),
    ],
)
def test_refusals(operation, message):
    with pytest.raises(AdaptError, match=message):
        operation()
