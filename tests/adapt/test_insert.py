from collections import OrderedDict

import pytest
import torch
from torch import nn

import treadle as td
from tests.adapt.test_grow import unchanged
from tests.registry import GRAPHS, STACKS, build, sequence
from tests.tolerances import assert_close
from treadle.adapt import freeze, gradient_report, insert_layer
from treadle.errors import AdaptError

PLACES = {name: ["cell.layer0", "cell.layer2"] for name in STACKS if name != "stack-relay"} | {
    "stack-relay": ["cell.layer2"],
    "graph-delays": ["cell.low", "cell.high"],
    "graph-memoryless-nodes": ["cell.low"],
    "graph-nested": ["cell.low", "cell.inner.layer0"],
    "graph-feedback-from-above": ["cell.low", "cell.middle"],
    "graph-self-delayed": ["cell.low"],
    "graph-tokens": ["cell.low"],
    "graph-images": ["cell.low", "cell.high"],
    "graph-shared-cell": ["cell.low"],
    "stack-with-dropout": ["cell.layer2"],
    "noisy-state": ["cell.cell.layer2"],
    "lstm": ["cell"],
    "slstm-two-heads": ["cell"],
    "conv-lstm": ["cell"],
}


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, places in PLACES.items() for at in places])
def test_it_starts_as_the_identity_and_learns(name, at):
    rnn = build(name, engine="reference")
    xs = sequence(rnn)
    deeper = unchanged(rnn, lambda rnn: insert_layer(rnn, at))
    assert sum(p.numel() for p in deeper.parameters()) > sum(p.numel() for p in rnn.parameters())
    assert not any(module.training for module in deeper.modules())
    assert_close(deeper(xs)[0], rnn(xs)[0])
    optimiser = torch.optim.SGD(deeper.parameters(), lr=0.1)
    out = next(m for n, m in deeper.named_modules() if n.endswith("inserted.out"))
    for reached in (False, True):
        optimiser.zero_grad()
        (deeper(xs)[0] - 1).square().sum().backward()
        assert out.weight.grad.abs().max() > 0
        inner = next(m for n, m in deeper.named_modules() if n.endswith("inserted.layer"))
        assert all(bool(p.grad.any()) == reached for p in list(inner.parameters())[:1])
        optimiser.step()


def test_the_new_layer_by_hand():
    rnn = td.Recurrent(td.Stack([td.GRUCell(3, 4), td.GRUCell(4, 2)])).double()
    deeper = insert_layer(rnn, "cell.layer0", td.LSTMCell(4, 5), name="middle")
    with torch.no_grad():
        deeper.cell.middle.out.weight.normal_()
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    low, _ = td.Recurrent(rnn.cell.layer0)(xs)
    middle, _ = td.Recurrent(deeper.cell.middle.layer)(low)
    high, _ = td.Recurrent(rnn.cell.layer1)(low + middle @ deeper.cell.middle.out.weight.T)
    assert_close(deeper(xs)[0], high)
    assert deeper.cell.middle.layer.weight_ih.dtype == torch.float64


def test_before_everything_and_with_a_module_without_memory():
    rnn = build("stack-skip", engine="reference")
    xs = sequence(rnn)
    deeper = unchanged(rnn, lambda rnn: insert_layer(rnn, "cell.x", nn.Sequential(nn.Linear(3, 6), nn.Tanh())))
    assert_close(deeper(xs)[0], rnn(xs)[0])
    again = insert_layer(deeper, "cell.inserted", td.GRUCell(3, 3), name="second")
    assert_close(again(xs)[0], rnn(xs)[0])


def test_learned_initial_states_go_on(tmp_path):
    for make, at in (
        (lambda: td.Stack([td.GRUCell(5, 4), td.GRUCell(4, 2)], "feedback"), "cell.layer1"),
        (lambda: td.LSTMCell(3, 4), "cell"),
    ):
        rnn = td.Recurrent(make(), learn_initial_state=True, engine="reference").double()
        with torch.no_grad():
            for parameter in rnn.initial.parameters():
                parameter.normal_()
        deeper = unchanged(rnn, lambda rnn, at=at: insert_layer(rnn, at))
        xs = torch.randn(2, 7, 3, dtype=torch.float64)
        assert_close(deeper(xs)[0], rnn(xs)[0])
        td.save(tmp_path / "deeper.safetensors", deeper)
        assert torch.equal(td.load(tmp_path / "deeper.safetensors")(xs)[0], deeper(xs)[0])


@pytest.mark.share(1)
@pytest.mark.parametrize("cell", [lambda: td.GRUCell(5, 4), lambda: td.Stack([td.GRUCell(5, 4)])])
def test_behind_the_controller_of_a_closed_loop(cell, tmp_path):
    loop = td.ClosedLoop(cell(), td.Continuous(3), td.Continuous(2), learn_initial_state=True).double()
    with torch.no_grad():
        for parameter in loop.initial.parameters():
            parameter.normal_()
    at = "cell.controller.layer0" if isinstance(loop.cell.controller, td.Stack) else "cell.controller"
    deeper = unchanged(loop, lambda loop: insert_layer(loop, at))
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    assert_close(deeper(xs)[0], loop(xs)[0])
    td.save(tmp_path / "deeper.safetensors", deeper)
    assert torch.equal(td.load(tmp_path / "deeper.safetensors")(xs)[0], deeper(xs)[0])


def test_in_a_sequence():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    model(x)
    deeper = unchanged(model.eval(), lambda model: insert_layer(model, "2"))
    assert isinstance(deeper[3], nn.Conv2d)
    assert_close(deeper(x), model(x))
    deeper(x).square().sum().backward()
    assert deeper[3].weight.grad.abs().max() > 0
    layer = nn.Sequential(nn.Conv2d(4, 4, 5, padding=2), nn.PReLU(4))
    assert_close(insert_layer(model, "1", layer.double())(x), model(x))
    tied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    tied[2].weight = tied[0].weight
    deeper = insert_layer(nn.ModuleDict({"part": tied}), "part.0")["part"]
    assert deeper[3].weight is deeper[0].weight
    assert_close(deeper(x[0, 0, :, :3].float()), tied(x[0, 0, :, :3].float()))


def test_parts_that_have_names_keep_them():
    parts = {"convolution": nn.Conv2d(3, 4, 3), "act": nn.ReLU(), "head": nn.Conv2d(4, 2, 1)}
    model = nn.Sequential(OrderedDict(parts))
    deeper = unchanged(model, lambda model: insert_layer(model, "act", name="more"))
    assert list(deeper._modules) == ["convolution", "act", "more", "head"]
    x = torch.randn(2, 3, 6, 7)
    assert_close(deeper(x), model(x))
    with pytest.raises(AdaptError, match="there is a part 'head' already: pass another name="):
        insert_layer(model, "act", name="head")


def test_a_part_that_is_there_twice_stays_so():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    deeper = unchanged(model, lambda model: insert_layer(model, "0"))
    assert_close(deeper(x), model(x))
    assert deeper[2] is deeper[4]


def test_the_new_layer_learns_alone_by_its_name():
    rnn = td.Recurrent(td.Stack([td.GRUCell(3, 4), td.GRUCell(4, 2)]), engine="reference")
    tuned = freeze(insert_layer(rnn, "cell.layer0"), except_="cell.inserted")
    xs = torch.randn(2, 7, 3)
    report = gradient_report(tuned, xs)
    assert report.learning == ["cell.inserted.out"]
    torch.optim.SGD(tuned.parameters(), lr=0.1).step(lambda: _backward(tuned, xs))
    assert gradient_report(tuned, xs).learning == ["cell.inserted.layer", "cell.inserted.out"]


def _backward(model, xs):
    with torch.enable_grad():
        model(xs)[0].square().sum().backward()


class OwnSequence(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = td.Recurrent(td.Stack([td.GRUCell(3, 4)])), nn.Linear(4, 2)

    def forward(self, xs):
        return self.head(self.rnn(xs)[0])


def test_in_a_module_of_ones_own():
    model, xs = Own().double(), torch.randn(2, 7, 3, dtype=torch.float64)
    assert_close(unchanged(model, lambda model: insert_layer(model, "rnn.cell.layer0"))(xs), model(xs))


REFUSED = {
    "decision": (
        lambda: insert_layer(td.ClosedLoop(td.GRUCell(5, 4), td.Continuous(3), td.Continuous(2)), "cell.decision"),
        "pass at='cell.controller'",
    ),
    "relay": (
        lambda: insert_layer(STACKS["stack-relay"](), "layer0"),
        "no layer reads the output of 'layer0'.*the last of them",
    ),
    "no such part": (lambda: insert_layer(STACKS["stack-skip"](), "layer9"), "did you mean 'layer"),
    "torch.nn": (lambda: insert_layer(nn.ModuleDict({"rnn": nn.LSTM(3, 4)}), "rnn"), r"recurrent\(\)"),
    "own": (lambda: insert_layer(Own(), "head"), "'head' is a Linear in a Own"),
    "tokens": (lambda: insert_layer(GRAPHS["graph-tokens"](), "x", nn.Linear(1, 1)), "reads tokens"),
    "name": (lambda: insert_layer(STACKS["stack-skip"](), "layer0", name="layer1"), "a node 'layer1' already"),
    "a sequence itself": (lambda: insert_layer(nn.Sequential(nn.Linear(3, 4)), ""), "behind a part of a Sequential"),
    "input of a sequence": (lambda: insert_layer(nn.Sequential(nn.Linear(3, 4)), "x"), "behind a part of a Sequential"),
    "own sequence": (lambda: insert_layer(OwnSequence(nn.Linear(3, 4)), "0"), "'0' is a Linear in a OwnSequence"),
    "class": (lambda: insert_layer(STACKS["stack-skip"](), "layer0", td.GRUCell), "layer is a module, such as"),
    "kind": (lambda: insert_layer(GRAPHS["graph-memoryless-nodes"](), "wide"), "is Linear, which does not say"),
    "sizes": (
        lambda: insert_layer(nn.Sequential(nn.Linear(3, 4)), "0", nn.Linear(5, 5)),
        "cannot read what '0' gives, 4 features",
    ),
    "relu": (
        lambda: insert_layer(nn.Sequential(nn.Linear(3, 4)), "0", nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        "PReLU between",
    ),
    "unknown": (lambda: insert_layer(nn.Sequential(nn.Flatten(), nn.ReLU()), "1"), "behind a linear layer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    operation, message = REFUSED[name]
    with pytest.raises(AdaptError, match=message):
        operation()
