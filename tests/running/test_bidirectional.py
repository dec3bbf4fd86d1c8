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
