"""What a network does stays what it did; what is new in it learns."""

import copy

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import CELLS, GRAPHS, STACKS, build, sequence, stack
from tests.tolerances import assert_close
from treadle.adapt import grow_hidden, grow_inputs, grow_vocabulary, insert_layer, replace_head, transplant
from treadle.errors import AdaptError
from treadle.wiring import WIRINGS

NORMED = {name for name in CELLS if "layer-norm" in name}
IN_HEADS = {
    "slstm-two-heads": "axis 2 of weight_hh goes from 5 to 6,.*divided into heads",
    "rg-lru-two-heads": "axis 2 of weight_gates goes from 5 to 6,.*divided into heads",
    "mlstm-two-heads": "cannot be given more units without a change of what the old ones do",
}
"""What is said of each when it is to have more units."""


def unchanged(network, operation):
    """What an operation gives, once it is seen to have left the network as it was."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    told = repr(network)
    new = operation(network)
    assert repr(network) == told
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert {p.data_ptr() for p in network.parameters()}.isdisjoint(p.data_ptr() for p in new.parameters())
    return new


def widened(xs, extra, axis=2):
    """Inputs with features behind them that may be anything."""
    more = torch.randn(*xs.shape[:axis], extra, *xs.shape[axis + 1 :], dtype=xs.dtype)
    return torch.cat([xs, 5 * more], axis)


@pytest.mark.parametrize("name", CELLS)
def test_cells_read_more(name):
    rnn = build(name, engine="reference")
    xs = sequence(rnn)
    wider = unchanged(rnn, lambda rnn: grow_inputs(rnn, 5))
    ys, state = rnn(xs)
    new_ys, new_state = wider(widened(xs, 2))
    assert_close(new_ys, ys)
    assert_close(new_state[0], state[0])
    new_ys.square().sum().backward()
    arrived = [p.grad for n, p in wider.named_parameters() if n.endswith(("weight_ih", "from_input.weight"))]
    assert all(gradient[:, 3:].abs().min() > 0 for gradient in arrived if "relu" not in name)


@pytest.mark.parametrize("name", [name for name in CELLS if name not in {*NORMED, *IN_HEADS}])
def test_cells_have_more_units(name):
    rnn = build(name, engine="reference")
    xs = sequence(rnn)
    larger = unchanged(rnn, lambda rnn: grow_hidden(rnn, 8))
    (ys, state), (new_ys, new_state) = rnn(xs), larger(xs)
    assert_close(new_ys[:, :, : ys.shape[2]], ys)
    for before, after in zip(state, new_state, strict=True):
        assert_close(after[:, : before.shape[1]], before)
    if "projection" not in name:
        assert new_ys.shape[2] == 8
        assert new_ys[:, -1, 5:].abs().max() > 0  # they live
    fresh = td.LSTMCell(3, 8, proj_size=2) if "projection" in name else CELLS[name](3, 8)
    assert [(n, p.shape) for n, p in larger.cell.named_parameters()] == [
        (n, p.shape) for n, p in fresh.named_parameters()
    ]


@pytest.mark.parametrize("name", sorted(NORMED))
def test_a_norm_over_the_units_is_refused(name):
    with pytest.raises(AdaptError, match=r"cannot be given more units without a change .* norm"):
        grow_hidden(build(name, engine="reference"), 8)


@pytest.mark.parametrize("name", sorted(IN_HEADS))
def test_units_in_heads_are_refused(name):
    with pytest.raises(AdaptError, match=IN_HEADS[name]):
        grow_hidden(build(name, engine="reference"), 12)


class Leaky(nn.Module):
    """A cell of a user's, whose one matrix multiplies x and h side by side, or h and x."""

    def __init__(self, input_size, hidden_size, h_first=False):
        super().__init__()
        self.input_size, self.hidden_size, self.h_first = input_size, hidden_size, h_first
        self.mix = nn.Linear(input_size + hidden_size, hidden_size)
        self.keep = nn.Parameter(torch.rand(hidden_size))

    def initial_state(self, batch_size):
        return (self.keep.new_zeros(batch_size, self.hidden_size),)

    def forward(self, x, state):
        (h,) = state
        new = self.mix(torch.cat([h, x] if self.h_first else [x, h], 1)).tanh()
        h = self.keep * h + (1 - self.keep) * new
        return h, (h,)


@pytest.mark.share(1)
@pytest.mark.parametrize("h_first", [False, True])
def test_a_cell_of_ones_own_is_grown_like_the_library_s(h_first):
    cell = Leaky(3, 4, h_first).double()
    rnn = td.Recurrent(td.Stack([cell, td.GRUCell(4, 4, dtype=torch.float64)]))
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    assert_close(grow_inputs(rnn, 5)(widened(xs, 2))[0], rnn(xs)[0])
    larger = grow_hidden(rnn, 6, at="cell.layer0")
    assert_close(larger(xs)[0], rnn(xs)[0])
    assert larger.cell.layer1.weight_ih.shape == (12, 6)


def test_a_cell_that_cannot_be_built_anew():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_size, self.w = 3, nn.Parameter(torch.ones(3))

        def initial_state(self, batch_size):
            return (torch.zeros(batch_size, 3),)

        def forward(self, x, state):
            return x * self.w + state[0], (x,)

    with pytest.raises(AdaptError, match="takes no input_size"):
        grow_inputs(td.Recurrent(Own()), 5)


def test_against_an_lstm_that_was_built_by_hand():
    """The layout that everybody would write: four blocks of gates, the new units behind the old in each."""
    old = nn.LSTM(3, 4, batch_first=True, dtype=torch.float64)
    new = grow_hidden(grow_inputs(old, 5), 6)
    by_hand = nn.LSTM(5, 6, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            target, before = getattr(by_hand, name), getattr(old, name)
            target.copy_(getattr(new, name))
            for gate in range(4):
                rows = target[6 * gate : 6 * gate + 4]
                if "ih" in name and "weight" in name:
                    rows[:, 3:] = 0
                    rows[:, :3] = before[4 * gate : 4 * gate + 4]
                elif "weight" in name:
                    rows[:, 4:] = 0
                    rows[:, :4] = before[4 * gate : 4 * gate + 4]
                else:
                    rows.copy_(before[4 * gate : 4 * gate + 4])
    assert type(new) is nn.LSTM
    for name, parameter in new.named_parameters():
        assert torch.equal(parameter, getattr(by_hand, name)), name
        assert parameter.abs().max() > 0
    xs = torch.randn(2, 9, 5, dtype=torch.float64)
    ys, (h, c) = old(xs[..., :3])
    new_ys, (new_h, new_c) = by_hand(xs)
    assert_close(new_ys[..., :4], ys)
    assert_close(new_h[..., :4], h)
    assert_close(new_c[..., :4], c)


OVER_TIME = {
    "lstm": lambda of: nn.LSTM(3, 4, 2, **of),
    "lstm-bidirectional": lambda of: nn.LSTM(3, 4, 2, bidirectional=True, **of),
    "lstm-projection": lambda of: nn.LSTM(3, 6, 2, proj_size=2, **of),
    "gru": lambda of: nn.GRU(3, 4, 3, bias=False, batch_first=True, **of),
    "rnn": lambda of: nn.RNN(3, 4, 2, nonlinearity="relu", bidirectional=True, **of),
    "td.LSTM": lambda of: td.LSTM(3, 4, 2, **of),
    "td.GRU of other cells": lambda of: td.GRU(3, 4, 2, cell=td.PeepholeLSTMCell, wiring="skip", **of),
    "td.RNN of other cells, both ways": lambda of: td.RNN(3, 4, 2, cell=td.MinimalGatedCell, bidirectional=True, **of),
} | {f"td.LSTM {w}": lambda of, w=w: td.LSTM(3, 4, 3, wiring=w, batch_first=True, **of) for w in WIRINGS}


@pytest.mark.share(2)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OVER_TIME)
def test_torch_s_networks_and_the_drop_ins(name, dtype):
    rnn = OVER_TIME[name]({"dtype": dtype}).eval()
    xs = torch.randn(5, 5, 3, dtype=dtype)
    ys = rnn(xs)[0]
    wider = unchanged(rnn, lambda rnn: grow_inputs(rnn, 4))
    assert type(wider) is type(rnn)
    assert not wider.training
    assert (wider(widened(xs, 1))[0] - ys).abs().max() < 1e-6
    larger = unchanged(rnn, lambda rnn: grow_hidden(rnn, 7))
    assert larger.hidden_size == 7
    new_ys = larger(xs)[0]
    directions = 2 if rnn.bidirectional else 1
    size, old_size = new_ys.shape[2] // directions, ys.shape[2] // directions
    for k in range(directions):
        old, new = ys[..., k * old_size : (k + 1) * old_size], new_ys[..., k * size : k * size + old_size]
        assert (new - old).abs().max() < 1e-6
    assert larger(xs)[0].dtype == dtype


@pytest.mark.parametrize("name", STACKS)
def test_wirings(name):
    rnn = build(name, engine="reference")
    xs = sequence(rnn)
    assert_close(unchanged(rnn, lambda rnn: grow_inputs(rnn, 5))(widened(xs, 2))[0], rnn(xs)[0])
    if name == "stack-residual":  # its uppermost layer is no part of the sum, and must not become one
        rnn = td.Recurrent(stack("residual", hidden_sizes=(4, 4, 4)), engine="reference").double()
    larger = unchanged(rnn, lambda rnn: grow_hidden(rnn, 8))
    ys, new_ys = rnn(xs)[0], larger(xs)[0]
    assert type(larger.cell) is td.Stack
    assert larger.cell.wiring == rnn.cell.wiring
    assert new_ys.shape[2] == 8
    assert_close(new_ys[..., : ys.shape[2]], ys)


@pytest.mark.parametrize("name", [n for n in STACKS if not n.endswith(("relay", "residual"))])
def test_one_layer_of_a_wiring(name):
    rnn = build(name, engine="reference")
    xs = sequence(rnn)
    for layer in range(2):
        larger = unchanged(rnn, lambda rnn, at=f"cell.layer{layer}": grow_hidden(rnn, 8, at=at))
        assert_close(larger(xs)[0], rnn(xs)[0])
        assert [cell.hidden_size == 8 for cell in larger.cell.cells] == [k == layer for k in range(3)]


def test_one_layer_where_sizes_belong_together():
    with pytest.raises(AdaptError, match=r"'layer1' steps from layer0.h .* grow them together"):
        grow_hidden(stack("relay"), 8, at="layer0")
    with pytest.raises(AdaptError, match="whose parts have one size"):
        grow_hidden(stack("residual"), 8, at="layer0")
    with pytest.raises(AdaptError, match="layers of equal size add up"):
        grow_hidden(stack("residual"), 4, at="layer2")


def without_norm():
    g = td.Graph(3)
    wide = g.add("wide", nn.Linear(3, 5), reads=g.x)
    low = g.add("low", td.RNNCell(10, 4), reads=[wide, wide.delayed()])
    bent = g.add("bent", nn.PReLU(4), reads=low)
    normed = g.add("normed", nn.BatchNorm1d(4), reads=bent)
    return g.outputs(g.add("scores", nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)), reads=normed), g.x)


NOT_WITH_MORE = ("graph-tokens", "graph-sums", "graph-images", "graph-shared-cell", "own-cell")
READ_MORE = {n: GRAPHS[n] for n in GRAPHS if n not in NOT_WITH_MORE and "loop" not in n} | {
    "without-norm": without_norm
}


@pytest.mark.parametrize("name", READ_MORE)
def test_any_wiring_reads_more(name):
    rnn = td.Recurrent(READ_MORE[name](), engine="reference").double().eval()
    xs = sequence(rnn)
    ys = rnn(xs)[0]
    new_ys = unchanged(rnn, lambda rnn: grow_inputs(rnn, 5))(widened(xs, 2))[0]
    assert_close(new_ys[..., : ys.shape[2]], ys)
    assert new_ys.shape[2] == ys.shape[2] + (2 if name == "without-norm" else 0)


HAVE_MORE = {
    n: READ_MORE.get(n, GRAPHS.get(n))
    for n in (
        *("graph-delays", "graph-nested", "graph-feedback-from-above", "graph-self-delayed", "graph-tokens"),
        *("graph-handed-over", "graph-images", "stack-of-stacks", "noisy-state", "closed-loop", "closed-loop-discrete"),
        *("without-norm", "graph-pooled"),
    )
}


SIDE_BY_SIDE = {
    "graph-delays": (5, 8, 4),
    "graph-feedback-from-above": (2, 2, 4),
    "graph-handed-over": (4, 8, 4),
    "graph-images": (1, 8, 2),
}
"""Where two outputs lie beside each other: the size of the first, where the second begins now, and its size."""


@pytest.mark.parametrize("name", HAVE_MORE)
def test_any_wiring_has_more_units(name):
    rnn = td.Recurrent(HAVE_MORE[name](), engine="reference").double().eval()
    xs = sequence(rnn)
    ys = rnn(xs)[0]
    larger = unchanged(rnn, lambda rnn: grow_hidden(rnn, 8))
    new_ys = larger(xs)[0]
    if name in SIDE_BY_SIDE:
        first, begin, second = SIDE_BY_SIDE[name]
        new_ys = torch.cat([new_ys[:, :, :first], new_ys[:, :, begin : begin + second]], 2)
    assert_close(new_ys[:, :, : ys.shape[2]], ys)
    for module in larger.modules():
        assert getattr(module, "hidden_size", 8) == 8


def test_images():
    g = td.Graph((2, 3, 5))
    g.outputs(g.add("low", td.ConvLSTMCell(4, 2, image_size=(3, 5)), reads=[g.x, g.x.delayed()]))
    rnn = td.Recurrent(g, engine="reference").double()
    xs = torch.randn(2, 4, 2, 3, 5, dtype=torch.float64)
    assert_close(grow_inputs(rnn, 3)(widened(xs, 1))[0], rnn(xs)[0])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    five = unchanged(model, lambda model: grow_inputs(model, 5))
    assert_close(five(widened(x, 2, 1)), model(x))
    by_hand = nn.Conv2d(5, 4, 3).double()
    with torch.no_grad():
        by_hand.weight.zero_()
        by_hand.weight[:, :3] = model[0].weight
        by_hand.bias.copy_(model[0].bias)
    assert torch.equal(five[0].weight, by_hand.weight)
    up = nn.ConvTranspose2d(3, 2, 4, 2).double()
    assert_close(grow_inputs(up, 5)(widened(x, 2, 1)), up(x))


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_layers_without_memory_grow_if_they_are_named(kind):
    of = () if kind is nn.Linear else (1,)
    norm = nn.BatchNorm1d(4) if kind is nn.Linear else nn.BatchNorm2d(4)
    model = nn.Sequential(kind(3, 4, *of), norm, nn.PReLU(4), nn.Dropout(), kind(4, 2, *of)).double()
    x = torch.randn(6, 3, *[2] * (2 * len(of)), dtype=torch.float64)
    model(x)
    model.eval()
    larger = unchanged(model, lambda model: grow_hidden(model, 9, at="0"))
    assert_close(larger(x), model(x))
    larger.train()(x).square().sum().backward()
    assert larger[4].weight.grad.shape[1] == 9
    assert larger[4].weight.grad[:, 4:].abs().max() > 0
    with pytest.raises(AdaptError, match="say with at= which of its layers"):
        grow_hidden(model, 9)


class Tagger(nn.Module):
    def __init__(self, rnn, size):
        super().__init__()
        self.rnn, self.head, self.other = rnn, nn.Linear(size, 2), nn.Sequential(nn.Tanh(), nn.Linear(size, 3))

    def forward(self, xs):
        ys, _ = self.rnn(xs)
        return torch.cat([self.head(ys), self.other(ys)], -1)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Tagger(nn.LSTM(3, 4, bidirectional=True, batch_first=True), 8),
        lambda: Tagger(td.GRU(3, 4, 2, batch_first=True), 4),
        lambda: Tagger(td.Recurrent(stack("lateral", hidden_sizes=(4, 5)), engine="reference"), 5),
    ],
)
def test_a_module_of_ones_own(make):
    model = make().double()
    xs = torch.randn(2, 9, 3, dtype=torch.float64)
    larger = unchanged(model, lambda model: grow_hidden(model, 7, at="rnn", readers=["head", "other"]))
    assert_close(larger(xs), model(xs))
    assert larger.head.in_features == (14 if getattr(model.rnn, "bidirectional", False) else 7)
    wider = unchanged(model, lambda model: grow_inputs(model, 5, at="rnn"))
    assert_close(wider(widened(xs, 2)), model(xs))


def test_new_parts_learn_from_the_first_step_or_from_the_second():
    model = Tagger(nn.LSTM(3, 4, batch_first=True), 4).double()
    larger = grow_hidden(grow_inputs(model, 5, at="rnn"), 6, at="rnn", readers=["head", "other"])
    optimiser = torch.optim.SGD(larger.parameters(), lr=0.1)
    xs = torch.randn(4, 9, 5, dtype=torch.float64)

    def gradients():
        optimiser.zero_grad()
        larger(xs).square().sum().backward()
        rows = larger.rnn.weight_ih_l0.grad.unflatten(0, (4, 6))
        crossing = larger.rnn.weight_hh_l0.grad.unflatten(0, (4, 6))
        optimiser.step()
        return larger.head.weight.grad[:, 4:], rows[:, :4, 3:], crossing[:, :4, 4:], rows[:, 4:]

    head, inputs, crossing, into_new = gradients()
    assert all(g.abs().min() > 0 for g in (head, inputs, crossing))
    assert not into_new.any()
    assert gradients()[3].abs().min() > 0


def test_learned_initial_states_and_frozen_weights_and_modes_are_kept(tmp_path):
    rnn = td.Recurrent(stack("feedback"), learn_initial_state=True, engine="reference").double().eval()
    with torch.no_grad():
        for parameter in rnn.initial.parameters():
            parameter.normal_()
    rnn.cell.layer1.requires_grad_(False)
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    larger = grow_hidden(rnn, 8)
    assert_close(larger(xs)[0][..., :4], rnn(xs)[0])
    assert not any(p.requires_grad for p in larger.cell.layer1.parameters())
    assert all(p.requires_grad for p in larger.cell.layer2.parameters())
    assert not larger.training
    td.save(tmp_path / "larger.safetensors", larger)
    assert torch.equal(td.load(tmp_path / "larger.safetensors")(xs)[0], larger(xs)[0])


@pytest.mark.slow
def test_a_closed_loop(tmp_path):
    loop = td.ClosedLoop(td.GRUCell(3 + 2, 4), td.Continuous(3), td.Continuous(2)).double()
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    assert_close(grow_hidden(loop, 6)(xs)[0], loop(xs)[0])
    wider = grow_inputs(loop, 5)
    assert wider.readings.size == 5
    assert_close(wider(widened(xs, 2))[0], loop(xs)[0])
    actions = torch.randn(2, 7, 2, dtype=torch.float64)
    assert_close(grow_hidden(loop, 6).follow(xs, actions)[0], loop.follow(xs, actions)[0])
    td.save(tmp_path / "wider.safetensors", grow_hidden(wider, 6))
    assert td.load(tmp_path / "wider.safetensors").readings == td.Continuous(5)


def test_both_directions():
    both = td.Bidirectional(td.GRUCell(3, 4), stack("skip", hidden_sizes=(5, 2))).double()
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    ys, _ = both(xs, lengths=[7, 4])
    assert_close(unchanged(both, lambda both: grow_inputs(both, 5))(widened(xs, 2), lengths=[7, 4])[0], ys)
    new_ys, _ = unchanged(both, lambda both: grow_hidden(both, 6))(xs, lengths=[7, 4])
    assert_close(torch.cat([new_ys[..., :4], new_ys[..., 6:8]], 2), ys)


def test_a_compiled_network_stays_one():
    rnn = td.Recurrent(stack("dense"), engine="cpu")
    larger = grow_hidden(grow_inputs(rnn, 5), 8)
    xs = torch.randn(2, 7, 3)
    assert (larger(widened(xs, 2))[0][..., :4] - rnn(xs)[0]).abs().max() < 1e-6


def test_the_same_size_is_a_copy():
    rnn = build("stack-skip", engine="reference")
    xs = sequence(rnn)
    assert torch.equal(grow_inputs(rnn, 3)(xs)[0], rnn(xs)[0])
    assert torch.equal(grow_hidden(rnn, 5, at="cell.layer0")(xs)[0], rnn(xs)[0])


REFUSED = {
    "smaller": (lambda: grow_inputs(nn.LSTM(3, 4), 2), "there are 3 features, and networks grow only: pass 3 or more"),
    "shrink": (lambda: grow_hidden(nn.LSTM(3, 4), 2), "4 units and cannot shrink to 2"),
    "no number": (lambda: grow_hidden(nn.LSTM(3, 4), "8"), "positive whole number"),
    "own module": (
        lambda: grow_inputs(Tagger(nn.GRU(3, 4), 4), 5),
        "which part of this Tagger reads the input: pass at='rnn' or another of rnn, head, other",
    ),
    "own module, hidden": (
        lambda: grow_hidden(Tagger(nn.GRU(3, 4), 4), 5),
        "which part of this Tagger grows: pass at='rnn'",
    ),
    "no reader": (
        lambda: grow_hidden(Tagger(nn.GRU(3, 4), 4), 5, at="rnn"),
        r"will give 5 features instead of 4: say who.*readers=\['head'\]",
    ),
    "wrong reader": (
        lambda: grow_hidden(Tagger(nn.GRU(3, 4), 5), 6, at="rnn", readers="head"),
        "'head' reads 5 features, but 'rnn' gives 4",
    ),
    "no such part": (lambda: grow_inputs(Tagger(nn.GRU(3, 4), 4), 5, at="rn"), "did you mean 'rnn'"),
    "no such cell": (
        lambda: grow_hidden(stack("stack"), 9, at="layer7"),
        "'layer7' names nothing that could grow: did you mean 'layer",
    ),
    "inside": (lambda: grow_inputs(stack("skip"), 5, at="layer0"), "grow that one, with at=''"),
    "a norm": (
        lambda: grow_hidden(GRAPHS["graph-memoryless-nodes"](), 8),
        "'normed' is a LayerNorm and would read 8 features",
    ),
    "tokens": (
        lambda: grow_inputs(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)), 8),
        "is a Embedding.*grow_vocabulary",
    ),
    "outputs in groups": (
        lambda: grow_hidden(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)), 8, at="0"),
        "'0' is a Conv2d of 4 groups, and with 8 channels the old ones would lie in others",
    ),
    "groups": (lambda: grow_inputs(nn.Conv2d(4, 4, 3, groups=2), 6), "has 2 groups"),
    "one layer": (lambda: grow_hidden(td.LSTM(3, 4, 2), 6, at="layer1"), "layers are of one size"),
    "shared cell": (lambda: grow_hidden(GRAPHS["graph-shared-cell"](), 6), "is the same LSTMCell as another part"),
    "sums": (lambda: grow_inputs(GRAPHS["graph-sums"](), 6), "whose parts have one size"),
    "bridge": (lambda: grow_hidden(td.EncoderDecoder(td.GRUCell(2, 3), td.GRUCell(2, 3)), 5), "bridge"),
    "readers known": (lambda: grow_hidden(nn.LSTM(3, 4), 5, readers="x"), "who reads in this network is known"),
    "start": (lambda: grow_inputs(nn.LSTM(3, 4), 5, start="ones"), "new weights start as zeros"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    operation, message = REFUSED[name]
    with pytest.raises(AdaptError, match=message) as caught:
        operation()
    assert "\n" not in str(caught.value)


class OwnSequence(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_sequence_stays_what_it_is():
    """A part that stands in it twice does, its class is the same, and a ``forward`` of its own is not bypassed."""

    class Tower(nn.Sequential):
        pass

    act = nn.Tanh()
    model = Tower(nn.Linear(3, 4), act, nn.Linear(4, 4), act).double()
    wider = unchanged(model, lambda model: grow_inputs(model, 5))
    x = torch.randn(2, 5, dtype=torch.float64)
    assert_close(wider(x), model(x[:, :3]))
    assert (type(wider), wider[1]) == (Tower, wider[3])
    own = OwnSequence(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with pytest.raises(AdaptError, match="not known which part of this OwnSequence reads the input: pass at='0'"):
        grow_inputs(own, 5)
    with pytest.raises(AdaptError, match="'0' is a OwnSequence, a Sequential with a forward of your own"):
        grow_inputs(nn.Sequential(own, nn.Linear(2, 2)), 5)
    assert_close(grow_inputs(own, 5, at="0")(x), own(x[:, :3]))
    larger = grow_hidden(own, 7, at="0", readers="2")
    assert_close(larger(x[:, :3]), own(x[:, :3]))


def test_a_layer_that_is_added_to_what_another_gives_grows_with_it_or_not_at_all():
    rnn = insert_layer(td.Recurrent(td.Stack([td.GRUCell(3, 4), td.GRUCell(4, 2)])), "cell.layer0")
    with pytest.raises(AdaptError, match="whose parts have one size: they grow together"):
        grow_hidden(rnn, 5)
    larger = grow_hidden(rnn.double(), 5, at="cell.inserted.layer")
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    assert_close(larger(xs)[0], rnn(xs)[0])


def test_tied_weights_that_would_come_apart():
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(7, 4), reads=g.x)
    low = g.add("low", td.GRUCell(4, 4), reads=embedded)
    scores = g.add("scores", nn.Linear(4, 7, bias=False), reads=low)
    g.outputs(scores).scores.weight = g.embedded.weight
    with pytest.raises(AdaptError, match=r"embedded.weight and scores.weight are one weight.*\[7, 4\] and \[7, 6\]"):
        grow_hidden(g, 6)


@pytest.mark.parametrize("start", ["xavier", "mean"])
def test_other_starts_change_nothing_while_the_new_inputs_are_zero(start):
    rnn = build("stack-dense", engine="reference")
    xs = sequence(rnn)
    wider = grow_inputs(rnn, 5, start=start)
    zeros = torch.zeros(*xs.shape[:2], 2, dtype=xs.dtype)
    assert_close(wider(torch.cat([xs, zeros], 2))[0], rnn(xs)[0])
    assert (wider(torch.cat([xs, zeros + 1], 2))[0] - rnn(xs)[0]).abs().max() > 1e-3
    if start == "mean":
        old = rnn.cell.layer0.weight_ih.mean(1, keepdim=True).expand(-1, 2)
        assert_close(wider.cell.layer0.weight_ih[:, 3:], old)


def test_it_can_be_copied_and_trained_on():
    larger = copy.deepcopy(grow_hidden(build("stack-stack", engine="reference"), 8))
    optimiser = torch.optim.SGD(larger.parameters(), lr=0.1)
    xs = sequence(larger)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = (larger(xs)[0] - 0.5).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["minimal-gated", "recurrent-highway", "gru", "peephole-lstm", "slstm", "rnn"])
def test_nothing_is_zero_but_what_leads_from_new_units_to_old_ones(name):
    cell = grow_hidden(build(name, engine="reference"), 8).cell
    for parameter, value in cell.named_parameters():
        zero = value == 0
        if parameter == "weight_hh":
            crossing = zero.reshape(-1, 8, 8)
            assert crossing[:, :5, 5:].all()
            crossing[:, :5, 5:] = False
        assert not zero.any(), parameter


def layers():
    return td.Recurrent(td.Stack([td.GRUCell(3, 4), td.GRUCell(4, 4)])), torch.randn(2, 4, 3)


def headed():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(2, 3)


def of_tokens():
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(10, 8), reads=g.x)
    low = g.add("low", td.LSTMCell(8, 8), reads=embedded)
    scores = g.add("scores", nn.Linear(8, 10), reads=low)
    return td.Recurrent(g.outputs(scores)), torch.arange(12).view(1, 12)


MAKING = {
    "grow_hidden": (layers, lambda network: grow_hidden(network, 6)),
    "grow_inputs": (lambda: (layers()[0], torch.randn(2, 4, 5)), lambda network: grow_inputs(network, 5)),
    "insert_layer": (layers, lambda network: insert_layer(network, "cell.layer1")),
    "replace_head": (headed, lambda network: replace_head(network, 5)),
    "transplant": (headed, lambda network: transplant(network, headed()[0])[0]),
    "grow_vocabulary": (of_tokens, lambda network: grow_vocabulary(network, 12)),
}


@pytest.mark.parametrize("name", MAKING)
def test_what_is_made_in_inference_mode_can_be_trained(name):
    make, operation = MAKING[name]
    network, x = make()
    with torch.inference_mode():
        new = operation(network)
    y = new(x)
    (y if isinstance(y, torch.Tensor) else y[0]).sum().backward()
    assert all(parameter.grad is not None for parameter in new.parameters())
