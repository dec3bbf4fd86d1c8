"""Whatever is returned is memory of the caller's own: who writes into it changes nothing else, now or later."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.covering import pairwise
from tests.registry import CELLS, GRAPHS, STACKS, build, sequence
from treadle.state import map_state, named_tensors

ENGINES = ["reference", "interpreter", "auto"]


class Passing(nn.Module):
    """A cell whose outputs and states are what it was given, one thing twice, or a parameter."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(5, 3)
        self.kept = nn.Parameter(torch.randn(3))

    def initial_state(self, batch_size):
        zeros = self.kept.new_zeros(batch_size, 3)
        return {"x": zeros, "same": zeros, "h": zeros, "twin": zeros, "own": self.kept.expand(batch_size, 3)}

    def forward(self, x, state):
        h = self.mix(torch.cat([x, state["h"][:, :2]], 1)).tanh()
        kept = self.kept.expand(len(x), 3)
        return h, {"x": x, "same": state["same"], "h": h, "twin": h, "own": kept}


class Echo(nn.Module):
    """A cell whose output is its input itself."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 3)

    def initial_state(self, batch_size):
        return {"h": self.mix.weight.new_zeros(batch_size, 3)}

    def forward(self, x, state):
        return x, {"h": self.mix(torch.cat([x, state["h"]], 1)).tanh()}


def own_output() -> td.Graph:
    """A graph that gives its input, and what that was a step ago."""
    g = td.Graph(3)
    low = g.add("low", td.GRUCell(6, 3), reads=[g.x, g.x.delayed()])
    return g.outputs(g.x, g.x.delayed(2), low)


OWN = {"passing": Passing, "echo": Echo, "own-output": own_output}
SUBJECTS = [
    *OWN,
    "lstm",
    "gru",
    "zoneout-lstm",
    "own-cell",
    *STACKS,
    "graph-delays",
    "graph-sums",
    "graph-self-delayed",
]
ALL = [*OWN, *CELLS, *STACKS, *GRAPHS]


def network(subject: str, **options) -> td.Recurrent:
    if subject in OWN:
        torch.manual_seed(1)
        return td.Recurrent(OWN[subject](), **options).double()
    return build(subject, **options)


def tensors(results) -> dict:
    """All tensors of nested results, by place."""
    if isinstance(results, torch.Tensor):
        return {"": results}
    pairs = results.items() if isinstance(results, dict) else enumerate(results)
    return {f"{key}.{name}": t for key, part in pairs if part is not None for name, t in tensors(part).items()}


def own(call, *given, module=None):
    """Write into each tensor that a call returns: no other one changes, nor what was given, nor the next call."""
    given = {f"given {i}": tensor for i, tensor in enumerate(given)}
    if module is not None:
        given |= dict(module.named_parameters()) | dict(module.named_buffers())
    torch.manual_seed(5)
    results = tensors(call())
    expected = {name: tensor.detach().clone() for name, tensor in results.items()}
    everything = {**given, **results}
    before = {name: tensor.detach().clone() for name, tensor in everything.items()}
    for name, result in results.items():
        result.detach().fill_(13)
        changed = [other for other, t in everything.items() if other != name and not torch.equal(t, before[other])]
        assert not changed, f"writing into {name} changes {changed}"
        result.detach().copy_(before[name])
    for result in results.values():
        result.detach().fill_(13)
    torch.manual_seed(5)
    for name, result in tensors(call()).items():
        assert torch.equal(result, expected[name]), f"the next call gives another {name}"


def call_of(rnn, B, T, **options):
    xs = sequence(rnn, B, T)
    xs = (xs if rnn.batch_first else xs.transpose(0, 1)).contiguous()
    state = map_state(torch.clone, rnn.initial_state(B))
    given = [xs, *(tensor for _, tensor in named_tensors(state))]
    return given, lambda: rnn(xs, state, **options)


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_what_an_echo_gives_is_not_its_input(engine):
    xs = torch.randn(2, 4, 3)
    before = xs.clone()
    ys, _ = td.Recurrent(Echo(), batch_first=False, engine=engine)(xs)
    torch.testing.assert_close(ys, before)
    ys.detach().fill_(13)
    assert torch.equal(xs, before)


@pytest.mark.share(40)
@pytest.mark.parametrize(
    ("subject", "engine", "modes", "size"),
    pairwise(
        subject=list(ALL),
        engine=ENGINES,
        modes=list(itertools.product([False, True], repeat=3)),
        size=[(1, 1), (1, 4), (3, 1), (3, 4)],
    ),
    ids=str,
)
def test_over_a_sequence(subject, engine, modes, size):
    (grad, ragged, batch_first), (B, T) = modes, size
    rnn = network(subject, engine=engine, batch_first=batch_first)
    options = {}
    if ragged:
        options = {"lengths": torch.tensor([T, 0, T - 1][:B]), "resets": torch.arange(B * T).reshape(B, T) % 3 == 1}
    with torch.set_grad_enabled(grad):
        for return_states in (True, False):
            given, call = call_of(rnn, B, T, return_states=return_states, **options)
            own(call, *given, module=rnn)


@pytest.mark.parametrize("gradient", [td.TruncatedBPTT(2), td.TruncatedBPTT(2, 3), td.CheckpointedBPTT("1kB")], ids=str)
@pytest.mark.parametrize("subject", ["passing", "own-output", "lstm"])
def test_with_every_gradient_method(subject, gradient):
    rnn = network(subject, gradient=gradient)
    for T in (1, 5):
        given, call = call_of(rnn, 1, T, return_states=True)
        own(call, *given, module=rnn)


@pytest.mark.share(9)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_steps_and_no_state(subject):
    rnn = network(subject)
    given, call = call_of(rnn, 2, 0, return_states=True)
    own(call, *given, module=rnn)
    xs = sequence(rnn, 1, 3)
    own(lambda: rnn(xs), xs, module=rnn)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_one_step(subject, learned):
    rnn = network(subject, learn_initial_state=learned)
    x, state = sequence(rnn, 1, 1)[:, 0], map_state(torch.clone, rnn.initial_state(1))
    own(lambda: rnn.step(x, state), x, *(tensor for _, tensor in named_tensors(state)), module=rnn)
    own(lambda: rnn.step(x), x, module=rnn)


@pytest.mark.share(8)
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_live(subject, engine):
    rnn = network(subject, engine=engine)
    xs = sequence(rnn, 1, 4)
    session = rnn.session()
    start = session.state

    def steps():
        session.load(start)
        ys = session.steps(xs)
        return ys, session.state, session.state, session.steps(xs)

    own(steps, xs, *(tensor for _, tensor in named_tensors(start)), module=rnn)

    def step():
        session.load(start)
        return session.step(xs[:, 0]), session.state

    own(step, xs, module=rnn)


@pytest.mark.share(10)
@pytest.mark.parametrize("kind", ["numpy", "tensor"])
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(("rows", "size"), [(1, 3), (1, 12), (1, 33), (1, 700), (3, 40)])
def test_a_session_reads_its_own_output(rows, size, engine, kind):
    """The buffer of the answer, or a part of it, as the next input."""
    for features in {size, size // 2}:
        rnn = td.Recurrent(td.LSTMCell(features, size), engine=engine)
        one, other = rnn.session(rows), rnn.session(rows)
        x = torch.randn(rows, features)
        x, copy = (x.numpy(), np.copy) if kind == "numpy" else (x, torch.clone)
        y, expected = one.step(x), copy(other.step(x))
        for first in (0, size - features):
            for _ in range(3):
                y, expected = (
                    one.step(y[:, first : first + features]),
                    other.step(copy(expected[:, first:][:, :features])),
                )
                expected = copy(expected)
                assert (y == expected).all()


@pytest.mark.share(6)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    "options", [{}, {"wiring": "residual"}, {"bidirectional": True}, {"engine": "reference"}], ids=str
)
def test_drop_ins(options, kind, ragged, grad):
    rnn = getattr(td, kind)(4, 4, num_layers=1 if options.get("engine") else 2, batch_first=True, **options).double()
    with torch.set_grad_enabled(grad):
        for B, T in ((1, 1), (1, 9), (3, 9)):
            xs = torch.randn(B, T, 4, dtype=torch.float64)
            hidden = torch.randn((2 if rnn.bidirectional else 1) * rnn.num_layers, B, 4, dtype=torch.float64)
            hx = (hidden, hidden.clone()) if kind == "LSTM" else hidden
            more = {"lengths": torch.tensor([T, 0, T - 1][:B])} if ragged else {}
            for return_states in (False, True):
                own(lambda: rnn(xs, hx, return_states=return_states, **more), xs, hidden, module=rnn)  # noqa: B023
                own(lambda: rnn(xs, return_states=return_states, **more), xs, module=rnn)  # noqa: B023
            if B == 1 and not ragged:
                own(lambda: rnn(xs[0], None), xs, module=rnn)  # noqa: B023
            if not rnn.bidirectional:
                own(lambda: rnn.step(xs[:, 0], hx), xs, hidden, module=rnn)  # noqa: B023


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("subject", ["passing", "lstm", "own-output"])
def test_both_directions(subject, T):
    both = td.Bidirectional(network(subject).cell, network(subject).cell)
    xs = sequence(network(subject), 1, T)
    state = map_state(torch.clone, both.initial_state(1))
    given = [xs, *(tensor for _, tensor in named_tensors(state))]
    for lengths in (None, torch.tensor([T - 1])):
        own(lambda: both(xs, state, lengths, return_states=True), *given, module=both)  # noqa: B023


@pytest.mark.share(9)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_gradients_of_parameters_are_apart(subject):
    """Optimisers and gradient clipping change them in place."""
    rnn = network(subject)
    for B in (1, 3):
        rnn.zero_grad()
        xs = sequence(rnn, B, 4)
        xs = xs.requires_grad_() if xs.is_floating_point() else xs
        ys, _ = rnn(xs)
        ys.sum().backward()
        found = {name: p.grad for name, p in rnn.named_parameters() if p.grad is not None}
        found |= {} if xs.grad is None else {"xs": xs.grad}
        before = {name: grad.clone() for name, grad in found.items()}
        for name, grad in found.items():
            grad.fill_(13)
            assert all(torch.equal(g, before[other]) for other, g in found.items() if other != name), name
            grad.copy_(before[name])
