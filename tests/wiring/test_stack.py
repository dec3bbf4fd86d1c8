"""Cells above each other: layers, dropout on the way up, and what is refused."""

import copy

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import stack
from tests.tolerances import assert_close
from treadle.errors import CellError, ShapeError


class Unsized(nn.Module):
    """A cell that does not say its sizes; it takes three features and gives as many."""

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 3),)

    def forward(self, x, state):
        return x + state[0], (x + state[0],)


def test_cells_in_order_and_names_in_the_state():
    cells = [td.LSTMCell(3, 5), td.GRUCell(5, 4), td.RNNCell(4, 2)]
    network = td.Stack(cells)
    assert network.cells == cells
    assert list(network.initial_state(2)) == ["layer0", "layer1", "layer2"]
    assert isinstance(network.initial_state(2)["layer1"], td.HiddenState)
    assert td.Stack(iter(cells)).num_layers == 3
    assert "wiring='stack'" in repr(network)
    assert "dropout" not in repr(network)
    assert "dropout=0.5" in repr(td.Stack(cells, dropout=0.5))


@pytest.mark.share(2)
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_layers_of_different_kinds(wiring):
    kinds = iter([td.LSTMCell, td.GRUCell, td.LayerNormLSTMCell])
    network = stack(wiring, lambda I, H: next(kinds)(I, H))
    ys, _ = td.Recurrent(network)(torch.randn(2, 5, 3))
    assert ys.shape == (2, 5, network.output_size)


@pytest.mark.parametrize("wiring", ["stack", "skip", "lateral", "residual", "dense", "feedback"])
def test_images_can_be_stacked(wiring):
    network = stack(wiring, lambda I, H: td.ConvLSTMCell(I, H, (3, 5)), 2, (2, 3))
    ys, _ = td.Recurrent(network)(torch.randn(2, 4, 2, 3, 5))
    assert ys.shape == (2, 4, 3, 3, 5)
    assert network.input_size == (2, 3, 5)


# Dropout


@pytest.mark.share(2)
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_dropout_reaches_what_goes_up_and_nothing_in_evaluation(wiring):
    plain = stack(wiring, td.GRUCell, 3, (40, 40, 40)).double()
    dropped = stack(wiring, td.GRUCell, 3, (40, 40, 40), dropout=0.5).double()
    dropped.load_state_dict(plain.state_dict())
    xs = torch.randn(4, 5, 3, dtype=torch.float64)
    expected, _ = td.Recurrent(plain)(xs)
    assert torch.equal(td.Recurrent(dropped.eval())(xs)[0], expected)
    ys, _ = td.Recurrent(dropped.train())(xs)
    assert ys.all()  # the last layer's output is not dropped itself
    assert (ys - expected).norm() > 0.01 * expected.norm()
    inside = [module for module in dropped.modules() if isinstance(module, nn.Dropout)]
    assert len(inside) == (4 if wiring == "lateral" else 2)  # there, both readings of a layer have their own


@pytest.mark.share(4)
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_everything_dropped_is_nothing_from_below(wiring):
    """With a share of 1 the upper layer cannot see the lower, so changing the lower changes nothing."""
    network = stack(wiring, td.GRUCell, 3, (4, 4), dropout=1.0).train()
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in changed.cells[0].parameters():
            parameter.add_(1)
    xs = torch.randn(2, 5, 3)
    assert torch.equal(td.Recurrent(network)(xs)[0], td.Recurrent(changed)(xs)[0])


def test_dropout_is_that_of_torch_nn():
    """The same share, scaled up, and a mask of its own for every step, row and unit."""
    network = stack("stack", lambda I, H: td.RNNCell(I, H, nonlinearity="relu"), 3, (50, 50), dropout=0.25)
    top = network.cells[1]
    with torch.no_grad():
        top.weight_ih.copy_(torch.eye(50))
        for zero in (top.weight_hh, top.bias_ih, top.bias_hh):
            zero.zero_()
    xs = torch.randn(8, 20, 3)
    below, _ = td.Recurrent(network.cells[0])(xs)
    ys, _ = td.Recurrent(network)(xs)
    kept = (ys != 0)[below > 0]
    assert abs(kept.double().mean() - 0.75) < 0.03
    assert_close(ys, torch.where(ys != 0, below / 0.75, 0))
    masks = (ys != 0) | (below == 0)
    assert not torch.equal(masks[:, 0], masks[:, 1])
    assert not torch.equal(masks[0], masks[1])


# Refusals


def refused(cells, wiring, words):
    with pytest.raises(ShapeError, match=words):
        td.Stack(cells, wiring)


def test_sizes_that_do_not_fit():
    refused(
        [td.LSTMCell(40, 64), td.LSTMCell(64, 32)],
        "skip",
        r"'layer1' reads layer0 \(64\) \+ x \(40\) = 104 features, but its cell expects 64: pass LSTMCell\(104, 32\)",
    )
    refused(
        [td.LSTMCell(40, 64), td.GRUCell(65, 32)],
        "stack",
        r"reads layer0 \(64\) features.*expects 65: pass GRUCell\(64, 32\)",
    )
    refused(
        [td.LSTMCell(3, 5), td.LSTMCell(5, 4)],
        "lateral",
        r"layer0 \(5\) \+ layer0\(t-1\) \(5\) = 10 features.*LSTMCell\(10, 4\)",
    )
    refused(
        [td.GRUCell(3, 5), td.GRUCell(8, 4), td.GRUCell(9, 4)],
        "dense",
        r"'layer2' reads x \(3\) \+ layer0 \(5\) \+ layer1 \(4\) = 12 features.*expects 9: pass GRUCell\(12, 4\)",
    )
    refused(
        [td.GRUCell(3, 4), td.GRUCell(4, 4), td.GRUCell(3, 4)], "residual", r"\(layer0 \+ layer1\) \(4\).*expects 3"
    )
    refused([td.GRUCell(3, 5), td.GRUCell(4, 5)], "relay", r"'layer1' reads x \(3\) features, but its cell expects 4")


def test_relay_needs_one_hidden_size_and_a_hidden_state():
    refused(
        [td.LSTMCell(3, 5), td.LSTMCell(3, 4)],
        "relay",
        r"'layer1' steps from layer0\.h \(5\) as its previous h, but its own h has 4: give both layers the same size",
    )
    refused([Unsized(), Unsized()], "relay", "'layer0' is a Unsized, whose state has no field 'h'")


def test_relay_hands_over_the_projected_hidden_state():
    network = td.Stack([td.LSTMCell(3, 5, proj_size=2), td.LSTMCell(3, 4, proj_size=2), td.GRUCell(3, 2)], "relay")
    assert td.Recurrent(network)(torch.randn(2, 4, 3))[0].shape == (2, 4, 2)


def test_feedback_leaves_features_for_x():
    for first in (td.GRUCell(4, 5), td.GRUCell(3, 5), td.ConvLSTMCell(5, 5, (3, 5))):
        refused(
            [first, td.GRUCell(5, 4)],
            "feedback",
            r"'layer0' reads x and the top layer's output \(4\).*takes 4 more than x has",
        )

    class Tokens(Unsized):
        input_size, output_size = (), 3

    refused([Tokens(), td.GRUCell(3, 4)], "feedback", r"expects one number")


def test_sizes_that_nobody_knows():
    refused([Unsized(), Unsized()], "feedback", "'layer1' is fed back.*give its cell an output_size")
    refused([Unsized(), Unsized()], "residual", "'layer1': a residual sum needs known sizes.*an output_size")
    refused(
        [Unsized(), Unsized()],
        "lateral",
        "layer0 is read 1 steps late.*attribute output_size, or the graph an input_size",
    )
    ys, _ = td.Recurrent(td.Stack([Unsized(), Unsized()]))(torch.ones(1, 3, 3))
    assert ys[0, :, 0].tolist() == [1, 3, 6]


def test_what_is_no_stack():
    with pytest.raises(
        ValueError, match="no wiring 'ladder': choose one of stack, relay, skip, lateral, residual, dense, feedback"
    ):
        td.Stack([td.GRUCell(3, 5)], "ladder")
    with pytest.raises(ShapeError, match="at least one cell"):
        td.Stack([])
    for module, cell in {nn.LSTM(3, 5): "LSTM", nn.LSTMCell(3, 5): "LSTM", nn.RNN(3, 5): "RNN"}.items():
        with pytest.raises(TypeError, match=rf"layer 1 is a .*, not a cell: pass td\.{cell}Cell$"):
            td.Stack([td.GRUCell(3, 3), module])
    for module in (nn.Linear(3, 5), "gru", td.GRUCell):
        with pytest.raises(
            TypeError, match=r"layer 1 is a .*, not a cell: it has no initial_state; td\.Graph takes other modules"
        ):
            td.Stack([td.GRUCell(3, 3), module])
    for dropout in (-0.1, 1.5, "half", None):
        with pytest.raises(ValueError, match="dropout is a fraction, from 0 to 1, but"):
            td.Stack([td.GRUCell(3, 5)], dropout=dropout)
    with pytest.raises(ValueError, match="after outputs"):
        stack("skip").add("more", td.GRUCell(3, 3), reads=())


def test_a_state_of_another_wiring():
    network = stack("lateral")
    with pytest.raises(
        td.errors.StateError,
        match=r"state of this wiring is a dict of \['layer0', 'layer0.delayed', .*given \['layer0'",
    ):
        network(torch.zeros(2, 3), stack("stack").initial_state(2))
    with pytest.raises(td.errors.StateError, match="but it was given tuple"):
        network(torch.zeros(2, 3), ())


# Stack.of: no arithmetic


@pytest.mark.share(4)
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_layers_are_as_wide_as_the_wiring_says(wiring):
    sizes = [6, 6, 6] if wiring == "relay" else [6, 5, 4]
    network = td.Stack.of(td.LSTMCell, 3, sizes, wiring=wiring)
    by_hand = stack(wiring, td.LSTMCell, 3, tuple(sizes))
    assert [cell.input_size for cell in network.cells] == [cell.input_size for cell in by_hand.cells]
    assert network.input_size == 3
    xs, state = torch.randn(2, 5, 3), {}
    network.load_state_dict(by_hand.state_dict())
    for name, one in by_hand.initial_state(2).items():
        state[name] = type(one)(*(torch.randn_like(part) for part in one)) if hasattr(one, "_fields") else one
    assert_close(td.Recurrent(network)(xs, state)[0], td.Recurrent(by_hand)(xs, state)[0])
    # That of a drop-in with the same names.
    drop_in = td.GRU(3, 6, 2, wiring=wiring)
    same = td.Stack.of(td.GRUCell, input_size=3, hidden_size=6, layers=2, wiring=wiring)
    assert [cell.weight_ih.shape for cell in same.cells] == [cell.weight_ih.shape for cell in drop_in.cells()]


def test_options_of_cells_and_what_they_give():
    network = td.Stack.of(td.LSTMCell, 3, 8, 2, "dense", dropout=0.5, proj_size=5, forget_bias=1.0)
    assert [(cell.input_size, cell.output_size) for cell in network.cells] == [(3, 5), (8, 5)]
    assert network.dropout == 0.5
    torch.manual_seed(0)
    made = td.Stack.of(td.GRUCell, 3, 4, 2, "skip")
    torch.manual_seed(0)
    cells = [td.GRUCell(3, 4), td.GRUCell(7, 4)]
    assert torch.equal(made.cells[1].weight_hh, cells[1].weight_hh)  # what is found out takes no random numbers
    images = td.Stack.of(td.ConvLSTMCell, 2, 3, 2, "feedback", image_size=(4, 5))
    assert [cell.input_size for cell in images.cells] == [(5, 4, 5), (3, 4, 5)]


class Measured(td.GRUCell):
    """A cell that looks at its weights when it is made."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.largest = self.weight_hh.abs().max().item()


def test_what_cannot_be_made_is_refused():
    with pytest.raises(ShapeError, match="layers=3 was passed with 2 hidden sizes"):
        td.Stack.of(td.GRUCell, 3, [4, 5], 3)
    with pytest.raises(ShapeError, match="at least one cell"):
        td.Stack.of(td.GRUCell, 3, 4, 0)
    with pytest.raises(ValueError, match="no wiring 'skp': choose one of stack, relay"):
        td.Stack.of(td.GRUCell, 3, 4, 2, "skp")
    with pytest.raises(ShapeError, match="a Unsized does not say how many features it gives"):
        td.Stack.of(lambda I, H: Unsized(), 3, 3, 2, "skip")
    with pytest.raises(CellError, match=r"Measured reads numbers .* pass them to Stack\(cells, wiring\)"):
        td.Stack.of(Measured, 3, 4, 2)
    with pytest.raises(TypeError, match="no_option"):
        td.Stack.of(td.GRUCell, 3, 4, 2, no_option=1)
