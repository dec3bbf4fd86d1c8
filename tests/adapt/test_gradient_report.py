import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle as td
from treadle.adapt import freeze, gradient_report
from treadle.errors import AdaptError


def images():
    return nn.Sequential(
        nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )


def test_the_first_layer_learns_while_all_others_are_frozen():
    model = freeze(images(), except_="0")
    x, labels = torch.randn(2, 5, 8, 8), torch.randint(2, (2, 4, 4))
    report = gradient_report(model, (x, labels), loss=F.cross_entropy)
    assert {row.name: row.verdict for row in report} == {"0": "learns", "1": "frozen", "3": "frozen", "5": "frozen"}
    assert all(parameter.grad is None for parameter in model.parameters())
    loss = F.cross_entropy(model(x), labels)
    loss.backward()
    by_hand = torch.cat([model[0].weight.grad.flatten(), model[0].bias.grad]).norm()
    assert report["0"].gradient == pytest.approx(by_hand.item(), rel=1e-5)
    assert report.loss == pytest.approx(loss.item())
    assert report.learning == ["0"]
    own = torch.cat([model[0].weight.flatten(), model[0].bias]).norm().item()
    assert report["0"].relative == pytest.approx(by_hand.item() / own, rel=1e-5)


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_recurrent_networks(engine):
    g = td.Graph(3)
    low = g.add("low", td.LSTMCell(3, 4), reads=g.x)
    high = g.add("high", td.GRUCell(4, 4), reads=low)
    rnn = td.Recurrent(g.outputs(g.add("head", nn.Linear(4, 2), reads=high)), engine=engine)
    tuned = freeze(rnn, "cell.low")
    xs = torch.randn(2, 9, 3)
    report = gradient_report(tuned, xs, loss=lambda ys: ys.square().mean())
    assert report.learning == ["cell.low"]
    tuned(xs)[0].square().mean().backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in tuned.cell.low.parameters()]).norm()
    assert report["cell.low"].gradient == pytest.approx(norm.item(), rel=1e-5)
    assert gradient_report(rnn, xs, at="cell.h*").learning == ["cell.high", "cell.head"]


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.low, self.high, self.spare = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.high(self.low(x).detach())


def test_why_nothing_arrives():
    cut = Cut()
    assert {r.name: r.verdict for r in gradient_report(cut, torch.randn(2, 3))} == {
        "low": "not reached",
        "high": "learns",
        "spare": "not reached",
    }
    dead = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.init.zeros_(dead[1].weight)
    report = gradient_report(dead, torch.randn(2, 3))
    assert (report["0"].verdict, report["1"].verdict) == ("zero", "learns")
    assert gradient_report(dead, torch.full((2, 3), torch.inf))["1"].verdict == "not finite"
    assert not gradient_report(freeze(dead), torch.randn(2, 3)).learning
    xs = torch.randn(2, 3)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert gradient_report(cut, xs).learning == ["high"]


def test_networks_that_give_more_than_a_tensor():
    class Named(nn.Linear):
        def forward(self, x):
            return {"out": super().forward(x)}

    xs, ys = torch.randn(2, 3), torch.randn(2, 2)
    report = gradient_report(Named(3, 2), (xs, ys), loss=lambda found, y: (found["out"] - y).square().mean())
    assert report.learning == [""]
    with pytest.raises(AdaptError, match="gives a dict, so its loss is not known"):
        gradient_report(Named(3, 2), xs)


def test_it_leaves_no_traces():
    model = nn.Sequential(images(), nn.Dropout(0.5))
    model[0][0].weight.grad = torch.ones_like(model[0][0].weight)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    report = gradient_report(model, torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model[0][0].weight.grad.eq(1).all()
    assert report.loss is None


def test_a_very_small_gradient_is_one():
    model = nn.Linear(3, 1)
    report = gradient_report(model, torch.randn(2, 3), loss=lambda y: 1e-30 * y.sum())
    assert report[""].verdict == "learns"
    assert 0 < report[""].gradient < 1e-28
    assert "(itself)" in str(report)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (torch.zeros(2, 3), {"loss": lambda y: y}, r"\[2, 2\] came out: take its mean"),
        ((torch.zeros(2, 3), torch.zeros(2)), {}, "no loss that compares them"),
        ("text", {}, "a str was passed"),
        (torch.zeros(0, 3), {}, r"a batch of \[0, 3\] has no rows"),
        (torch.zeros(2, 3), {"at": "lwo"}, "did you mean 'low'"),
    ],
)
def test_refusals(batch, options, message):
    with pytest.raises(AdaptError, match=message):
        gradient_report(Cut(), batch, **options)
