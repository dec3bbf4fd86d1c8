"""Truncated backpropagation against what it means: every row alone, step by step, detached where its reach ends."""

import copy

import pytest
import torch
from torch import Tensor

import treadle as td
from tests.outcome import Run, outcome, whole
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.state import map_state, named_tensors

T = 8
LENGTHS = [3, 0, 8, 6]  # unsorted, empty, full, at the end of a block
RESETS = torch.zeros(4, T, dtype=torch.bool)
for row, step in [(0, 0), (0, 2), (2, 4), (2, 5), (2, 7), (3, 3)]:
    RESETS[row, step] = True
METHODS = [(3, 3), (1, 1), (2, 6), (3, 4), (3, 7), (4, 5), (1, 5), (5, 100)]
"""Steps and horizon; where one is no multiple of the other, windows begin inside of blocks."""


def network(subject: str) -> td.Recurrent:
    """On an engine that needs no machine code: what is tested here is the same for all."""
    return build(subject, engine="interpreter")


def by_detaching(steps: int, horizon: int, lengths=None, resets=None) -> Run:
    """Each row for itself, each of its blocks again from the very beginning, detached before the block's window."""

    def run(rnn, xs, state):
        B, T = xs.shape[:2]
        state = rnn.initial_state(B) if state is None else state
        rows = []
        for b in range(B):
            first = map_state(lambda s, b=b: s[b : b + 1], state)
            own = T if lengths is None else lengths[b]
            ys, moments = [], []
            for block in range(0, own, steps):
                now = first
                for t in range(min(block + steps, own)):
                    if t > 0 and t == block + steps - horizon:
                        now = td.detach(now)
                    if resets is not None and resets[b, t]:
                        now = rnn.initial_state(1)
                    y, now = rnn.step(xs[b : b + 1, t], now)
                    if t >= block:
                        ys.append(y)
                        moments.append(now)
            end = moments[-1] if moments else first
            zeros = torch.zeros_like(rnn.step(torch.zeros_like(xs[b : b + 1, 0]), first)[0])
            ys += [zeros] * (T - own)
            moments += [end] * (T - own)
            rows.append((torch.stack(ys, 1), end, map_state(lambda *parts: torch.stack(parts, 1), *moments)))

        def join(*parts: Tensor) -> Tensor:
            return torch.cat(parts)

        return torch.cat([row[0] for row in rows]), *(map_state(join, *(row[i] for row in rows)) for i in (1, 2))

    return run


def truncated(rnn: td.Recurrent, steps: int, horizon: int | None = None) -> td.Recurrent:
    rnn.gradient = td.TruncatedBPTT(steps, horizon)
    return rnn


@pytest.mark.share(6)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize(("steps", "horizon"), [(3, 3), (2, 5)])
def test_every_network(subject, steps, horizon):
    rnn = build(subject, learn_initial_state=True, engine="interpreter")
    xs, state = sequence(rnn, 4, T), random_state(rnn, 4)
    reference = outcome(by_detaching(steps, horizon, LENGTHS, RESETS), rnn, xs, state)

    def run(rnn, xs, state):
        return rnn(xs, state, LENGTHS, RESETS, return_states=True)

    assert_all_close(outcome(run, truncated(rnn, steps, horizon), xs, state), reference)


@pytest.mark.share(6)
@pytest.mark.parametrize("engine", ["auto", "interpreter", "reference"])
@pytest.mark.parametrize(("steps", "horizon"), METHODS)
def test_every_engine_and_horizon(steps, horizon, engine):
    rnn = build("gru", engine=engine)
    xs = sequence(rnn, 4, T)
    for lengths, resets in ((None, None), (LENGTHS, None), (None, RESETS)):

        def run(rnn, xs, state, lengths=lengths, resets=resets):
            return rnn(xs, state, lengths, resets, return_states=True)

        reference = outcome(by_detaching(steps, horizon, lengths, resets), rnn, xs)
        assert_all_close(outcome(run, truncated(copy.deepcopy(rnn), steps, horizon), xs), reference)


def test_horizon_reaches_the_whole():
    rnn = network("lstm")
    xs, state = sequence(rnn, 2, T), random_state(rnn, 2)
    reference = outcome(whole, rnn, xs, state)
    assert_all_close(outcome(whole, truncated(rnn, 3, 9), xs, state), reference)
    with pytest.raises(AssertionError):
        assert_all_close(outcome(whole, truncated(rnn, 3, 8), xs, state), reference)


@pytest.mark.parametrize("horizon", [3, 5])
def test_values_alone_keep_nothing(horizon):
    rnn = truncated(network("lstm"), 3, horizon)
    xs = sequence(rnn, 2, T)
    with torch.no_grad():
        ys, _ = rnn(xs)
    assert not ys.requires_grad
    assert_close(ys, network("lstm")(xs)[0])


def test_the_reach_of_one_output():
    rnn = truncated(network("gru"), 2, 5)
    xs = sequence(rnn, 1, T).requires_grad_()
    ys, _ = rnn(xs)
    for t in range(T):
        first = max(0, t - t % 2 + 2 - 5)
        reached = torch.autograd.grad(ys[0, t].sum(), xs, retain_graph=True)[0][0].any(1)
        assert reached.tolist() == [first <= k <= t for k in range(T)], t


@pytest.mark.parametrize("subject", ["zoneout-lstm", "stack-with-dropout"])
@pytest.mark.parametrize(("steps", "horizon"), [(3, 3), (3, 5)])
def test_random_masks_are_those_of_the_whole(subject, steps, horizon):
    rnn = build(subject, engine="interpreter").train()
    xs = sequence(rnn, 3, T)
    torch.manual_seed(1)
    reference = rnn(xs)[0]
    after = torch.rand(1)
    torch.manual_seed(1)
    ys, _ = truncated(rnn, steps, horizon)(xs)
    assert_close(ys, reference)
    assert torch.equal(torch.rand(1), after)
    # The same masks in the definition, which the derivative of the derivative goes through.
    weights = list(rnn.parameters())
    first = torch.autograd.grad(ys.sum(), weights, retain_graph=True)
    second = torch.autograd.grad(ys.sum(), weights, create_graph=True)
    for a, b in zip(first, second, strict=True):
        assert_close(a, b)


def test_second_derivatives_are_those_of_the_definition():
    rnn = network("gru")
    xs = sequence(rnn, 1, 7)

    def curvature(run):
        x = xs.clone().requires_grad_()
        ys, end, _ = run(rnn, x, None)
        total = ys.square().sum() + sum(s.sum() for _, s in named_tensors(end))
        first = torch.autograd.grad(total, [x, *rnn.parameters()], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), [x, *rnn.parameters()])

    reference = curvature(by_detaching(2, 5))
    truncated(rnn, 2, 5)
    for a, b in zip(curvature(whole), reference, strict=True):
        assert_close(a, b)


def test_transforms_of_torch_func():
    rnn = build("gru")
    xs = sequence(rnn, 1, 7)
    truncated(rnn, 2, 5)
    x = xs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(rnn(x)[0].square().sum(), x)
    assert_close(torch.func.grad(lambda x: rnn(x)[0].square().sum())(xs), expected)


def test_a_graph_that_is_used_twice():
    rnn = truncated(network("lstm"), 2, 6)
    xs = sequence(rnn, 2, T).requires_grad_()
    ys, _ = rnn(xs)
    first = torch.autograd.grad(ys.sum(), xs, retain_graph=True)[0]
    assert_close(torch.autograd.grad(ys.sum(), xs)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(ys.sum(), xs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "steps is a whole number of at least 1, but is 0"),
        ((2.5,), "steps .* 2.5"),
        ((True,), "steps .* True"),
        ((4, 3), "horizon is a whole number of at least steps=4, but is 3"),
        ((4, "8"), "horizon .* '8'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        td.TruncatedBPTT(*arguments)


def test_the_horizon_is_a_block_unless_said_otherwise():
    assert td.TruncatedBPTT(5) == td.TruncatedBPTT(5, 5)
    assert repr(td.TruncatedBPTT(5)) == "TruncatedBPTT(steps=5, horizon=5)"
