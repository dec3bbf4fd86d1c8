"""A sequence read from its end, against PyTorch's reverse direction and step by step."""

import itertools

import pytest
import torch
from torch import nn

import treadle as td
from tests.running.test_mask import MASK, RESETS, B, T, gradients
from tests.tolerances import assert_close

LENGTHS = torch.tensor([7, 5, 0, 6, 1, 4])


def row_from_its_end(rnn, xs, state, taken, resets, ended):
    """One row [1, T, I], a taken step after another from the last: outputs, the end, the states at every step."""
    ys, every = [torch.zeros(rnn.output_size, dtype=xs.dtype)] * T, [None] * T
    steps = taken.nonzero()[:, 0].tolist()
    crossed = False
    for t in reversed(steps):
        state = rnn.initial_state(1) if crossed else state
        y, state = rnn.step(xs[:, t], state)
        ys[t], every[t], crossed = y[0], state, bool(resets[t])
    following = state  # padding shows the end, a hole the state after what was read last
    for t in reversed(range(T)):
        following = every[t] if every[t] is not None else following
        every[t] = every[t] or (state if t >= ended else following)
    return torch.stack(ys), state, torch.cat([one.c for one in every])


@pytest.mark.parametrize("engine", ["auto", "interpreter", "reference"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("masked", [False, True], ids=["every step", "mask"])
@pytest.mark.parametrize("reset", [False, True], ids=["no reset", "resets"])
def test_as_step_by_step(engine, padded, masked, reset):
    network = td.Reversed(td.Recurrent(td.LSTMCell(3, 4), engine=engine)).double()
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    xs, h, c = draw(B, T, 3), draw(B, 4), draw(B, 4)
    lengths = LENGTHS if padded else torch.full((B,), T)
    taken = (torch.arange(T) < lengths[:, None]) & (MASK if masked else True)
    resets = RESETS if reset else torch.zeros_like(RESETS)
    ys, end, every = network(
        xs, td.LSTMState(h, c), lengths if padded else None, RESETS if reset else None, True, MASK if masked else None
    )
    found, expected = [ys, end.h, end.c, every.c], []
    for row in range(B):
        start = td.LSTMState(h[row : row + 1], c[row : row + 1])
        ended = int(taken[row].nonzero().max()) + 1 if taken[row].any() else 0
        one, last, states = row_from_its_end(network.network, xs[row : row + 1], start, taken[row], resets[row], ended)
        expected.append((one, last.h[0], last.c[0], states))
    expected = [torch.stack(parts) for parts in zip(*expected, strict=True)]
    leaves = [xs, h, c, *network.parameters()]
    for one, other in itertools.chain(
        zip(found, expected, strict=True),
        zip(gradients(found, leaves), gradients(expected, leaves), strict=True),
    ):
        assert_close(one, other)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_it_is_the_reverse_direction_of_torch(kind):
    theirs = getattr(nn, kind)(3, 5, batch_first=True, bidirectional=True).double()
    network = td.Reversed(getattr(td, f"{kind}Cell")(3, 5)).double()
    network.network.cell.load_state_dict(
        {name: getattr(theirs, f"{name}_l0_reverse") for name in network.network.cell.state_dict()}
    )
    xs, lengths = torch.randn(4, 6, 3, dtype=torch.float64), [6, 2, 1, 5]
    packed = nn.utils.rnn.pack_padded_sequence(xs, lengths, batch_first=True, enforce_sorted=False)
    out, hidden = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    ys, state = network(xs, lengths=lengths)
    assert_close(ys, expected[..., 5:])
    assert_close(state.h, (hidden[0] if kind == "LSTM" else hidden)[1])


def test_it_is_the_backward_half_of_both_directions():
    cells = [td.LSTMCell(3, 4).double(), td.GRUCell(3, 2).double()]
    both, back = td.Bidirectional(*cells), td.Reversed(cells[1])
    xs = torch.randn(B, T, 3, dtype=torch.float64)
    for given in itertools.product((None, LENGTHS), (None, RESETS), (True,), (None, MASK)):
        ys, state, every = both(xs, None, *given)
        ahead = both.ahead(xs, None, *given)
        alone = back(xs, None, *given)
        assert torch.equal(ys, torch.cat([ahead[0], alone[0]], -1))
        assert torch.equal(state["backward"].h, alone[1].h)
        assert torch.equal(every["backward"].h, alone[2].h)
        assert torch.equal(every["forward"].c, ahead[2].c)
    twice = td.Reversed(td.Reversed(cells[0]))
    assert_close(twice(xs, resets=RESETS, mask=MASK)[0], both.ahead(xs, resets=RESETS, mask=MASK)[0])


def test_as_keras_goes_backwards(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # before the first import
    keras = pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    layer = keras.layers.SimpleRNN(4, return_sequences=True, return_state=True, go_backwards=True)
    layer.build((None, T, 3))
    network = td.Reversed(td.RNNCell(3, 4))
    kernel, recurrent, bias = (torch.tensor(one) for one in layer.get_weights())
    network.network.cell.load_state_dict(
        {"weight_ih": kernel.T, "weight_hh": recurrent.T, "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    )
    xs = torch.randn(B, T, 3)
    with torch.no_grad():
        expected, h = (torch.as_tensor(one) for one in layer(xs))
        ys, state = network(xs)
    torch.testing.assert_close(ys.flip(1), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state.h, h, atol=1e-6, rtol=1e-5)


def test_in_files_growing_and_recorded(tmp_path):
    network = td.Reversed(td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 5)]))
    assert (network.input_size, network.output_size) == (3, 5)
    xs = torch.randn(B, T, 3)
    td.save(tmp_path / "net.safetensors", network)
    ys, _ = network(xs, lengths=LENGTHS)
    assert torch.equal(td.load(tmp_path / "net.safetensors")(xs, lengths=LENGTHS)[0], ys)
    grown = td.adapt.grow_inputs(network, 5)
    torch.testing.assert_close(grown(torch.cat([xs, torch.randn(B, T, 2)], -1), lengths=LENGTHS)[0], ys)
    values = td.record(network, xs, lengths=LENGTHS)
    torch.testing.assert_close(values["y"], ys)
    torch.testing.assert_close(values["layer0.x"][1, :5], xs[1, :5])


def test_it_has_no_steps():
    network = td.Reversed(td.GRUCell(3, 4))
    for refused in (lambda: network.step(torch.randn(2, 3)), network.session):
        with pytest.raises(ValueError, match="a Reversed reads the whole sequence before its first output"):
            refused()
    with pytest.raises(TypeError, match="a decoder goes forward only"):
        td.EncoderDecoder(td.GRUCell(3, 4), network)
    with pytest.raises(TypeError, match="network is a cell or a network over time, but is a list"):
        td.Reversed([])
    encoder = td.EncoderDecoder(network, td.GRUCell(2, 4))
    assert encoder.encode(torch.randn(2, 5, 3), [5, 2]).memory.shape == (2, 5, 4)
