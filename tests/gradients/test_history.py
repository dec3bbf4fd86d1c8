"""A history over windows equals truncated backpropagation over the sequence, as long as nobody updates the weights."""

import pytest
import torch

import treadle as td
from tests.registry import build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.state import named_tensors

T = 23


def network(subject: str, steps: int, horizon: int, **options) -> td.Recurrent:
    rnn = build(subject, engine="interpreter", **options)
    rnn.gradient = td.TruncatedBPTT(steps, horizon)
    return rnn


def gradients(rnn, loss):
    found = torch.autograd.grad(loss, list(rnn.parameters()), allow_unused=True, materialize_grads=True)
    return dict(zip(dict(rnn.named_parameters()), found, strict=True))


@pytest.mark.share(4)
@pytest.mark.parametrize("subject", ["lstm", "gru", "stack-feedback", "graph-delays", "graph-tokens"])
@pytest.mark.parametrize(("steps", "horizon"), [(5, 5), (5, 10), (4, 11), (3, 100)])
@pytest.mark.parametrize("holes", [False, True])
def test_windows_equal_the_whole(subject, steps, horizon, holes):
    rnn = network(subject, steps, horizon, learn_initial_state=True)
    xs, resets = sequence(rnn, 3, T), torch.zeros(3, T, dtype=torch.bool)
    resets[0, 6] = resets[1, 10] = resets[2, 0] = True
    lengths = torch.tensor([T, 14, 2])
    mask = torch.rand(3, T, generator=torch.Generator().manual_seed(1)) < 0.6 if holes else None
    expected, _ = rnn(xs, None, lengths, resets, mask=mask)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=expected.dtype)
    history = td.History(rnn)
    total: dict = {}
    for begin in range(0, T, steps):
        part = slice(begin, begin + steps)
        left = (lengths - begin).clamp(0, xs[:, part].shape[1])
        if not left.any():
            continue
        ys, _ = history(xs[:, part], left, resets[:, part], None if mask is None else mask[:, part])
        assert_close(ys, expected[:, part])
        found = gradients(rnn, (ys * weights[:, part]).sum())
        total = {name: total.get(name, 0) + g for name, g in found.items()}
    assert_all_close(total, gradients(rnn, (expected * weights).sum()))
    assert sum(window.xs.shape[1] for window in history._windows) <= max(horizon, steps) + steps


def test_what_runs_again_has_the_weights_as_they_are_now():
    rnn = network("gru", 4, 12)
    history, windows = td.History(rnn), sequence(rnn, 2, 16).split(4, 1)
    for window in windows:
        before = history.state
        ys, state = history(window)
        ys.sum().backward()
        with torch.no_grad():
            for parameter in rnn.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    # The last window's values follow from the state before the window two back, with the weights of that call.
    assert before is not None
    (first, second, third) = list(history._windows)[-3:]
    with torch.no_grad():
        assert_close(first.state.h, first.state.h)
        assert not torch.allclose(rnn(first.xs, first.state)[1].h, second.state.h)  # updated since
    assert_close(state.h.detach(), history.state.h)
    assert third.xs.equal(windows[-1])


def test_nothing_runs_again_without_gradients():
    rnn = network("gru", 4, 12)
    xs = sequence(rnn, 2, 12)
    history = td.History(rnn)
    history(xs[:, :4])
    with torch.no_grad():
        ys, state = history(xs[:, 4:8])
    assert not ys.requires_grad
    assert not state.h.requires_grad
    expected, _ = rnn(xs)
    assert_close(ys, expected[:, 4:8])
    assert_close(history(xs[:, 8:])[0], expected[:, 8:])


def test_inputs_may_be_overwritten_afterwards():
    rnn = network("gru", 4, 8)
    xs = sequence(rnn, 2, 8)
    history, memory = td.History(rnn), xs[:, :4].clone()
    history(memory)
    memory.fill_(float("nan"))
    assert_close(history(xs[:, 4:])[0], rnn(xs)[0][:, 4:])


@pytest.mark.parametrize("subject", ["lstm", "stack-feedback"])
def test_it_goes_on_from_a_checkpoint(subject):
    rnn = network(subject, 4, 11)
    windows = sequence(rnn, 2, 24).split(4, 1)
    resets = torch.zeros(2, 4, dtype=torch.bool)
    resets[1, 2] = True
    history = td.History(rnn)
    for window in windows[:4]:
        history(window, [4, 3], resets, resets.logical_not())
    other = td.History(rnn)
    other.load_state_dict({name: tensor.clone() for name, tensor in history.state_dict().items()})
    for window in windows[4:]:
        a, b = (gradients(rnn, one(window)[0].sum()) for one in (history, other))
        assert all(map(torch.equal, a.values(), b.values()))
    assert td.History(rnn).state_dict() == {}


def test_a_state_that_is_set_begins_anew():
    rnn = network("lstm", 4, 12)
    xs, state = sequence(rnn, 2, 8), random_state(rnn, 2)
    history = td.History(rnn)
    history(xs[:, 4:])
    history.state = state
    ys, _ = history(xs[:, :4])
    assert_close(ys, rnn(xs[:, :4], state)[0])
    history.state = None
    assert_close(history(xs[:, :4])[0], rnn(xs[:, :4])[0])


def test_drop_ins():
    rnn = td.LSTM(3, 4, 2, batch_first=True, gradient=td.TruncatedBPTT(4, 8)).double()
    xs = torch.randn(2, 12, 3, dtype=torch.float64)
    expected, _ = rnn(xs)
    history = td.History(rnn)
    ys = [history(window)[0] for window in xs.split(4, 1)]
    assert_close(torch.cat(ys, 1), expected)


@pytest.mark.share(4)
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_a_drop_in_has_its_own_state(wiring):
    torch.manual_seed(0)
    rnn = td.LSTM(3, 4, 2, batch_first=True, wiring=wiring, gradient=td.TruncatedBPTT(4, 8)).double()
    xs = torch.randn(2, 12, 3, dtype=torch.float64)
    whole, (h, c) = rnn(xs)
    history = td.History(rnn)
    history(xs[:, :4])
    ys, hx = history(xs[:, 4:8])
    assert [part.shape for part in hx] == [(2, 2, 4)] * 2
    assert_close(rnn(xs[:, 8:], hx)[0], whole[:, 8:])
    other = td.History(rnn)
    other.state = history.state
    assert_close(other(xs[:, 8:])[0], whole[:, 8:])
    assert_close(other.state[1], c)
    again = td.History(rnn)
    again.load_state_dict(history.state_dict())
    ys, hx = again(xs[:, 8:])
    assert_close(ys, whole[:, 8:])
    assert_close(hx[0], h)


def test_states_take_no_more_memory_than_they_need():
    rnn = build("lstm", torch.float32)
    rnn.gradient = td.TruncatedBPTT(50, 200)
    history = td.History(rnn)
    for window in sequence(rnn, 2, 200, torch.float32).split(50, 1):
        history(window)
    for kept in (history.state, *(window.state for window in history._windows if window.state is not None)):
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for _, tensor in named_tensors(kept))


def test_what_is_refused():
    with pytest.raises(TypeError, match=r"TruncatedBPTT\(steps, horizon\).*gradient=FullBPTT\(\)"):
        td.History(build("gru"))
    rnn = network("gru", 4, 8)
    history = td.History(rnn)
    with pytest.raises(td.errors.ShapeError, match=r"a window has up to 4 steps.*this one has 5"):
        history(sequence(rnn, 2, 5))
    history(sequence(rnn, 2, 4))
    with pytest.raises(td.errors.StateError, match="the input has 3 rows, but state h has 2"):
        history(sequence(rnn, 3, 4))
    other = td.History(network("lstm", 4, 8))
    with pytest.raises(td.errors.StateError, match="another network"):
        other.load_state_dict(history.state_dict())
    damaged = history.state_dict() | {"2/xs": torch.zeros(2, 4, 3)}
    with pytest.raises(td.errors.StateError, match="damaged"):
        history.load_state_dict(damaged)
