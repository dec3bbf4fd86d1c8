import pytest
import torch
from torch import nn

import treadle as td
from tests.adapt.test_grow import unchanged
from tests.seq2seq import networks
from tests.tolerances import assert_close
from treadle.adapt import grow_vocabulary
from treadle.errors import AdaptError


class Own(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.embedded = nn.Embedding(7, 4, padding_idx=0)
        self.rnn = td.GRU(4, 4, batch_first=True)
        self.scores = nn.Linear(4, 7)
        self.share = nn.LogSoftmax(-1)
        if tied:
            self.scores.weight = self.embedded.weight

    def forward(self, tokens):
        return self.scores(self.rnn(self.embedded(tokens))[0])


def graph(tied):
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(7, 4), reads=g.x)
    low = g.add("low", td.GRUCell(4, 4), reads=embedded)
    g.outputs(g.add("scores", nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 7)), reads=low))
    if tied:
        g.scores[1].weight = g.embedded.weight
    return td.Recurrent(g)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [Own, graph])
@pytest.mark.parametrize("start", ["mean", "zeros", "xavier"])
def test_old_scores_stay_and_ties_hold(make, tied, start):
    model = make(tied).double().eval()
    larger = unchanged(model, lambda model: grow_vocabulary(model, 9, start=start))
    tokens = torch.randint(7, (3, 5))

    def scores(model, tokens):
        found = model(tokens)
        return found[0] if isinstance(found, tuple) else found

    assert_close(scores(larger, tokens)[..., :7], scores(model, tokens))
    assert scores(larger, tokens).shape == (3, 5, 9)
    scores(larger, tokens + 2)
    embedding = next(m for m in larger.modules() if isinstance(m, nn.Embedding))
    last = [m for m in larger.modules() if isinstance(m, nn.Linear)][-1]
    assert (last.weight is embedding.weight) == tied
    assert (embedding.num_embeddings, last.out_features) == (9, 9)
    if start == "mean":
        assert_close(embedding.weight[7:], embedding.weight[:7].mean(0).expand(2, -1))
        assert_close(scores(larger, tokens)[..., 8], scores(model, tokens).mean(-1))


def test_the_two_vocabularies_of_an_encoder_decoder():
    model = networks.model()
    larger = unchanged(model, lambda model: grow_vocabulary(model, 9, at="encoder"))
    source, target = torch.randint(networks.TOKENS, (3, 5)), torch.randint(networks.TOKENS, (3, 4))
    assert_close(larger(source, target)[0], model(source, target)[0])
    larger(source + 3, target)
    larger = grow_vocabulary(model, 9, at=["decoder", "head"])
    assert_close(larger(source, target)[0][..., : networks.TOKENS], model(source, target)[0])
    assert larger(source, target + 3)[0].shape[-1] == 9


def test_refusals():
    with pytest.raises(AdaptError, match=r"no torch\.nn\.Embedding"):
        grow_vocabulary(nn.LSTM(3, 4), 9)
    with pytest.raises(AdaptError, match=r"different numbers of tokens: 0 \(5\), 1 \(6\)"):
        grow_vocabulary(nn.ModuleList([nn.Embedding(5, 2), nn.Embedding(6, 2)]), 9)
    with pytest.raises(AdaptError, match="pass 7 or more"):
        grow_vocabulary(Own(True), 6)
    several = nn.ModuleList([nn.Embedding(5, 2), nn.Linear(2, 5), nn.Linear(5, 5)])
    with pytest.raises(AdaptError, match=r"1, 2 all give 5 features.*at=\['0', '2'\]"):
        grow_vocabulary(several, 9)
    grown = grow_vocabulary(several, 9, at=["0", "2"])
    assert [m.weight.shape[0] for m in grown] == [9, 5, 9]
    with pytest.raises(AdaptError, match="names no embedding"):
        grow_vocabulary(Own(True), 9, at="words")
    with pytest.raises(AdaptError, match="mean, zeros or xavier"):
        grow_vocabulary(Own(True), 9, start="ones")


def test_an_embedding_inside_of_a_cell_of_ones_own():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedded, self.inner = nn.Embedding(7, 4), td.GRUCell(4, 3)

        def initial_state(self, batch_size):
            return self.inner.initial_state(batch_size)

        def forward(self, token, state):
            return self.inner(self.embedded(token), state)

    rnn = td.Recurrent(Reads())
    larger = unchanged(rnn, lambda rnn: grow_vocabulary(rnn, 9))
    tokens = torch.randint(7, (2, 5))
    assert_close(larger(tokens)[0], rnn(tokens)[0])
    larger(tokens + 2)
