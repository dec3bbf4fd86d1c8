"""A sequence in both directions, against one direction at a time."""

import itertools

import pytest
import torch
from torch import nn

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import StateError

LENGTHS = [4, 7, 0, 1]


def both():
    return td.Bidirectional(td.LSTMCell(3, 4, dtype=torch.float64), td.GRUCell(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor(LENGTHS, dtype=torch.int8), None])
def test_each_row_is_read_from_its_own_end(lengths):
    network, xs = both(), torch.randn(4, 7, 3, dtype=torch.float64)
    ys, state = network(xs, lengths=lengths)
    for row, length in enumerate(LENGTHS if lengths is not None else [7] * 4):
        one = xs[row : row + 1, :length]
        ahead, end = network.ahead(one)
        back, start = network.back(one.flip(1))
        assert_close(ys[row, :length], torch.cat([ahead, back.flip(1)], -1)[0])
        assert not ys[row, length:].any()
        assert_close(state["forward"].c[row], end.c[0])
        assert_close(state["backward"].h[row], start.h[0])


def test_it_is_a_bidirectional_lstm_of_torch():
    theirs = nn.LSTM(3, 5, batch_first=True, bidirectional=True).double()
    network = td.Bidirectional(td.LSTMCell(3, 5), td.LSTMCell(3, 5)).double()
    for cell, suffix in ((network.ahead.cell, ""), (network.back.cell, "_reverse")):
        cell.load_state_dict({name: getattr(theirs, f"{name}_l0{suffix}") for name in cell.state_dict()})
    xs = torch.randn(2, 6, 3, dtype=torch.float64)
    ys, state = network(xs)
    expected, (h, c) = theirs(xs)
    assert_close(ys, expected)
    assert_close(torch.stack([state["forward"].h, state["backward"].h]), h)
    assert_close(torch.stack([state["forward"].c, state["backward"].c]), c)


def test_it_starts_from_the_states_that_it_is_given():
    network, xs = both(), torch.randn(2, 5, 3, dtype=torch.float64)
    start = {
        "forward": td.LSTMState(torch.randn(2, 4).double(), torch.randn(2, 4).double()),
        "backward": td.HiddenState(torch.randn(2, 2).double()),
    }
    ys, _ = network(xs, start)
    assert_close(ys[..., :4], network.ahead(xs, start["forward"])[0])
    assert_close(ys[..., 4:], network.back(xs.flip(1), start["backward"])[0].flip(1))
    with pytest.raises(StateError):
        network(xs[:1], start)


def test_tokens_and_no_steps():
    graph = td.Graph(())
    graph.outputs(graph.add("layer", td.GRUCell(2, 3), reads=graph.add("embedded", nn.Embedding(9, 2), reads=graph.x)))
    network = td.Bidirectional(graph, graph)
    assert network(torch.randint(9, (2, 5)), lengths=[5, 2])[0].shape == (2, 5, 6)
    ys, state = network(torch.zeros(2, 0, dtype=torch.long))
    assert ys.shape == (2, 0, 6)
    assert not state["backward"]["layer"].h.any()


def test_what_begins_anew_is_as_if_alone_in_both_directions():
    network, xs = both(), torch.randn(4, 7, 3, dtype=torch.float64)
    resets = torch.zeros(4, 7, dtype=torch.bool)
    resets[0, 0] = resets[0, 3] = resets[1, [2, 3, 6]] = resets[2, 1] = True
    ys, state = network(xs, lengths=LENGTHS, resets=resets)
    for row, length in enumerate(LENGTHS):
        borders = [0, *(t for t in range(1, length) if resets[row, t]), length]
        for start, end in itertools.pairwise(borders):
            alone, ends = network(xs[row : row + 1, start:end])
            assert_close(ys[row, start:end], alone[0])
            if end == length:
                assert_close(state["forward"].h[row], ends["forward"].h[0])
            if start == 0 and length:
                assert_close(state["backward"].h[row], ends["backward"].h[0])


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_rows_with_resets_and_padding_are_those_of_each_piece_alone(engine):
    """Values, states, states at every step and gradients, where resets stand at both ends and in padding as well."""
    cells = td.LSTMCell(3, 4, dtype=torch.float64), td.GRUCell(3, 2, dtype=torch.float64)
    network = td.Bidirectional(*(td.Recurrent(cell, engine=engine) for cell in cells))
    lengths = [5, 7, 0, 1, 7]
    resets = torch.zeros(5, 7, dtype=torch.bool)
    resets[0, [0, 2, 4, 5, 6]] = resets[1, [0, 6]] = resets[2, [0, 3]] = resets[3, [1, 6]] = resets[4, [3, 4]] = True
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    xs, h, c, h_back = draw(5, 7, 3), draw(5, 4), draw(5, 4), draw(5, 2)
    leaves = [xs, h, c, h_back, *network.parameters()]
    state = {"forward": td.LSTMState(h, c), "backward": td.HiddenState(h_back)}
    ys, ends, every = network(xs, state, lengths, resets, return_states=True)

    def alone(row, length):
        """The pieces between borders, each through both cells by itself; the outer ones from the states passed."""
        borders = [0, *(t for t in range(length) if resets[row, t]), length]
        pieces = [(a, b) for a, b in itertools.pairwise(borders) if b > a]
        ahead, back = [], []
        start = None if length and resets[row, 0] else td.select(state["forward"], [row])
        for begin, end in pieces:
            start = start if begin == 0 else None
            ahead.append(network.ahead(xs[row : row + 1, begin:end], start, return_states=True))
            start = td.select(state["backward"], [row]) if end == length else None
            back.append(network.back(xs[row : row + 1, begin:end].flip(1), start, return_states=True))
        if not pieces:
            return ys.new_zeros(0, 6), td.select(state["forward"], [row]), td.select(state["backward"], [row]), None
        outputs = [torch.cat([a[0], b[0].flip(1)], -1)[0] for a, b in zip(ahead, back, strict=True)]
        states = [torch.cat([a[2].c, b[2].h.flip(1)], -1)[0] for a, b in zip(ahead, back, strict=True)]
        return torch.cat(outputs), ahead[-1][1], back[0][1], torch.cat(states)

    found, expected = [], []
    for row, length in enumerate(lengths):
        outputs, end, start, states = alone(row, length)
        assert not ys[row, length:].any()
        found += [ys[row, :length], ends["forward"].c[row], ends["backward"].h[row]]
        expected += [outputs, end.c[0], start.h[0]]
        if length:
            found.append(torch.cat([every["forward"].c, every["backward"].h], -1)[row, :length])
            expected.append(states)
    weights = [torch.randn_like(tensor) for tensor in found]

    def gradients(results):
        total = sum((weight * result).sum() for weight, result in zip(weights, results, strict=True))
        return torch.autograd.grad(total, leaves, retain_graph=True, materialize_grads=True, allow_unused=True)

    for one, other in zip([*found, *gradients(found)], [*expected, *gradients(expected)], strict=True):
        assert_close(one, other)


def test_two_directions_in_two_directions():
    network = td.Bidirectional(both(), both())
    xs = torch.randn(2, 5, 3, dtype=torch.float64)
    ys, state = network(xs, lengths=[5, 3])
    assert_close(ys[1:, :3], network(xs[1:, :3])[0])
    assert sorted(state["forward"]) == ["backward", "forward"]
