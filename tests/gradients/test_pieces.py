"""A sequence that comes in pieces has the gradient that it has whole, and is never held."""

import weakref

import pytest
import torch
from torch import nn

import treadle as td
from tests.gradients.test_schedule import fewest
from tests.registry import build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.byte_sizes import as_bytes
from treadle.state import map_state, named_tensors

T, STEPS = 40, 3


class Reader:
    """Reads pieces, and notes which."""

    def __init__(self, xs):
        self.xs, self.read = xs, []

    def piece(self, number):
        def read():
            self.read.append(number)
            return self.xs[:, number * STEPS : (number + 1) * STEPS].clone()

        return read

    def __len__(self):
        return -(-self.xs.shape[1] // STEPS)


def together(rnn, head, loss, state=None):
    rnn.zero_grad()
    head.zero_grad()
    loss.backward()
    found = {f"rnn {name}": p.grad.clone() for name, p in rnn.named_parameters()}
    found |= {f"head {name}": p.grad.clone() for name, p in head.named_parameters()}
    return found | ({} if state is None else {f"state {n}": t.grad for n, t in named_tensors(state)})


def memory_for(rnn, states):
    return states * sum(tensor.nbytes for _, tensor in named_tensors(rnn.initial_state(2)))


@pytest.mark.share(2)
@pytest.mark.parametrize("subject", ["lstm", "stack-feedback", "graph-delays"])
@pytest.mark.parametrize("states", [1, 2, 5, 10**6])
def test_the_gradient_is_that_of_the_whole(subject, states):
    rnn = build(subject, engine="interpreter")
    xs = sequence(rnn, 2, T)
    head = nn.Linear(rnn(xs)[0].shape[2], 1).double()

    def run(piece, state):
        ys, state = rnn(piece, state)
        return head(ys).square().sum() / T, state

    for given in (False, True):
        first = map_state(lambda t: t.clone().requires_grad_(), random_state(rnn, 2)) if given else None
        expected = together(rnn, head, run(xs, first)[0], first)
        first = map_state(lambda t: t.detach().clone().requires_grad_(), first) if given else None
        rnn.zero_grad()
        head.zero_grad()
        reader = Reader(xs)
        sequence_ = td.SequenceInPieces(run, first, memory_for(rnn, states))
        losses = [sequence_.push(reader.piece(i)) for i in range(len(reader))]
        assert_close(sum(losses), run(xs, first)[0].detach())
        assert_all_close(dict(named_tensors(sequence_.state)), dict(named_tensors(td.detach(rnn(xs, first)[1]))))
        assert reader.read == list(range(len(reader)))
        reader.read.clear()
        sequence_.backward()
        found = {f"rnn {name}": p.grad for name, p in rnn.named_parameters()}
        found |= {f"head {name}": p.grad for name, p in head.named_parameters()}
        found |= {f"state {n}": t.grad for n, t in named_tensors(first)} if given else {}
        assert_all_close(found, expected)
        if states >= len(reader):
            assert reader.read == list(reversed(range(len(reader))))
        if states == 1:
            assert len(reader.read) == len(reader) + fewest(len(reader), 1)


def test_no_more_is_kept_than_allowed_and_nothing_of_a_piece():
    rnn = build("lstm", engine="interpreter")
    pieces, alive = [], []

    def run(piece, state):
        ys, state = rnn(piece, state)
        return ys.sum(), state

    def read(number):
        piece = torch.randn(2, STEPS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        pieces.append(weakref.ref(piece))
        return piece

    whole = td.SequenceInPieces(run, memory=memory_for(rnn, 4))
    for number in range(50):
        whole.push(lambda number=number: read(number))
        alive.append(sum(piece() is not None for piece in pieces))
        assert len(whole._borders) <= 4
    assert not any(alive)
    assert whole.pieces == 50
    whole.backward()
    assert whole.pieces == 0


def test_the_next_sequence_goes_on_without_the_past():
    rnn = build("gru", engine="interpreter")
    xs = sequence(rnn, 2, 2 * STEPS)

    def run(piece, state):
        ys, state = rnn(piece, state)
        return ys.square().sum(), state

    whole, reader = td.SequenceInPieces(run), Reader(xs)
    whole.backward()  # over nothing
    whole.push(reader.piece(0))
    whole.backward()
    rnn.zero_grad()
    whole.push(reader.piece(1))
    whole.backward()
    middle = td.detach(rnn(xs[:, :STEPS])[1])
    expected = torch.autograd.grad(run(xs[:, STEPS:], middle)[0], list(rnn.parameters()))
    for parameter, gradient in zip(rnn.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient)


def test_random_masks_are_the_same_when_run_again():
    rnn = build("zoneout-lstm", engine="interpreter").train()
    xs = sequence(rnn, 2, T)

    def run(piece, state):
        ys, state = rnn(piece, state)
        return ys.square().sum(), state

    torch.manual_seed(1)
    expected = torch.autograd.grad(run(xs, None)[0], list(rnn.parameters()))
    whole, reader = td.SequenceInPieces(run, memory=memory_for(rnn, 3)), Reader(xs)
    torch.manual_seed(1)
    for i in range(len(reader)):
        whole.push(reader.piece(i))
    after = torch.get_rng_state()
    whole.backward()
    assert torch.equal(torch.get_rng_state(), after)
    for parameter, gradient in zip(rnn.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient)


def test_losses_that_nothing_depends_on():
    rnn = build("gru", engine="interpreter")
    xs = sequence(rnn, 2, 4 * STEPS)
    last = xs[:, -STEPS:]

    def run(piece, state):
        ys, state = rnn(piece, state)
        return (ys.sum() if torch.equal(piece, last) else torch.zeros(())), state

    whole, reader = td.SequenceInPieces(run), Reader(xs)
    for i in range(len(reader)):
        whole.push(reader.piece(i))
    whole.backward()
    expected = torch.autograd.grad(rnn(xs)[0][:, -STEPS:].sum(), list(rnn.parameters()))
    for parameter, gradient in zip(rnn.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient)


def test_another_piece_and_other_weights_are_noticed():
    rnn = build("gru", engine="interpreter")

    def run(piece, state):
        ys, state = rnn(piece, state)
        return ys.square().sum(), state

    whole = td.SequenceInPieces(run)
    whole.push(lambda: torch.randn(2, 5, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"piece 0 gave a loss of .* when it was pushed, but .* now"):
        whole.backward()
    whole, reader = td.SequenceInPieces(run), Reader(sequence(rnn, 2, T))
    whole.push(reader.piece(0))
    with torch.no_grad():
        rnn.cell.weight_hh += 1
    with pytest.raises(RuntimeError, match="weights may not change"):
        whole.backward()


def test_what_is_refused():
    rnn = build("gru", engine="interpreter")
    with pytest.raises(TypeError, match=r"its loss is a tensor \[2, 5, 5\]"):
        td.SequenceInPieces(rnn).push(lambda: sequence(rnn, 2, 5))
    with pytest.raises(TypeError, match="its loss is a float"):
        td.SequenceInPieces(lambda piece, state: (1.0, state)).push(lambda: None)
    with pytest.raises(ValueError, match="memory is a positive number"):
        td.SequenceInPieces(rnn, memory="much")
    assert as_bytes("1GB") == td.SequenceInPieces(rnn)._memory
