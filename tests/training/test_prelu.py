"""When the slope of a PReLU is updated: together with the weights, from gradients against the same old values.

The network is h(t) = PReLU(w x(t) + u h(t-1)) with slope a; over two steps x = -1 with w = u = 1 and a = 1/2:

    z1 = w x1           = -1        h1 = a z1 = -1/2
    z2 = w x2 + u h1    = -3/2      h2 = a z2 = -3/4        loss = (h2 - 1/4)² / 2,   dloss/dh2 = -1

    dloss/da = -(z2 + a u z1)       = 2             both steps, the first through the second
    dloss/dw = -a (x2 + u a x1)     = 3/4
    dloss/du = -a h1                = 1/4
"""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import build, random_state, sequence
from tests.tolerances import assert_close
from treadle.training import parameter_groups

RATE = 0.1
OLD = {"a": 0.5, "w": 1.0, "u": 1.0}
GRADIENT = {"a": 2.0, "w": 0.75, "u": 0.25}
TOGETHER = {"a": 0.5 - 0.2, "w": 1 - 0.075, "u": 1 - 0.025}
# With the slope at 3/10 already: h1 = -3/10, z2 = -13/10, h2 = -39/100, dloss/dh2 = -64/100.
SLOPE_FIRST = {
    "a": 0.5 - 0.2,
    "w": 1 - RATE * (-0.64 * 0.3 * (-1 - 0.3)),
    "u": 1 - RATE * (-0.64 * 0.3 * -0.3),
}


def network(engine="cpu"):
    cell = td.RNNCell(1, 1, bias=False, nonlinearity=nn.PReLU(init=0.5), dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.fill_(1)
        cell.weight_hh.fill_(1)
    return td.Recurrent(cell.double(), engine=engine)


def named(rnn):
    return {"a": rnn.cell.nonlinearity.weight, "w": rnn.cell.weight_ih, "u": rnn.cell.weight_hh}


def values(rnn):
    return {name: parameter.item() for name, parameter in named(rnn).items()}


def backward(rnn):
    ys, _ = rnn(torch.full((1, 2, 1), -1.0, dtype=torch.float64))
    rnn.zero_grad()
    (0.5 * (ys[0, -1, 0] - 0.25) ** 2).backward()


@pytest.mark.parametrize("engine", ["cpu", "interpreter", "reference"])
def test_the_slope_has_its_gradient_from_the_same_backward_pass(engine):
    rnn = network(engine)
    backward(rnn)
    assert values(rnn) == OLD
    assert {name: parameter.grad.item() for name, parameter in named(rnn).items()} == pytest.approx(GRADIENT, rel=1e-12)


def test_one_step_of_the_optimiser_moves_everything_from_the_old_values():
    rnn = network()
    optimiser = torch.optim.SGD(parameter_groups(rnn), lr=RATE)
    for group in optimiser.param_groups:
        group["weight_decay"] = 0.0
    backward(rnn)
    optimiser.step()
    assert values(rnn) == pytest.approx(TOGETHER, rel=1e-12)


@pytest.mark.parametrize("first", [("a",), ("w", "u")])
def test_the_order_of_updates_does_not_matter_after_one_backward_pass(first):
    rnn = network()
    backward(rnn)
    rest = [name for name in OLD if name not in first]
    for names in (first, rest):
        torch.optim.SGD([named(rnn)[name] for name in names], lr=RATE).step()
    assert values(rnn) == pytest.approx(TOGETHER, rel=1e-12)


def test_a_sequential_update_is_another_algorithm():
    rnn = network()
    for names in (("a",), ("w", "u")):
        backward(rnn)  # a pass for each: the second sees the new slope
        torch.optim.SGD([named(rnn)[name] for name in names], lr=RATE).step()
    assert values(rnn) == pytest.approx(SLOPE_FIRST, rel=1e-12)
    assert SLOPE_FIRST["w"] - TOGETHER["w"] > 0.05  # a step of a third of the size


def test_weight_decay_leaves_slopes_where_they_are():
    rnn = td.Recurrent(td.RNNCell(2, 3, nonlinearity=nn.PReLU(3, init=0.25)))
    optimiser = torch.optim.AdamW(parameter_groups(rnn, weight_decay=0.5), lr=0.1)
    before = rnn.cell.weight_ih.detach().clone()
    rnn(torch.zeros(1, 4, 2))[0].mul(0).sum().backward()  # no gradient: what moves, moves by decay
    optimiser.step()
    assert (rnn.cell.nonlinearity.weight == 0.25).all()
    assert_close(rnn.cell.weight_ih, before * 0.95)


@pytest.mark.parametrize("subject", ["rnn-prelu", "ind-rnn-prelu-of-one-slope"])
def test_slopes_are_compiled_and_their_gradients_add_up_over_rows_steps_and_channels(subject):
    """From nothing but pre-activations: dL/da is the sum of dL/dh' z over all that was negative."""
    rnn = build(subject, engine="cpu")
    xs, state = sequence(rnn, 3, 6), random_state(rnn)
    above = torch.randn(3, 6, 5, dtype=torch.float64)
    rnn(xs, state)[0].mul(above).sum().backward()
    cell, h, slope = rnn.cell, state.h.clone(), rnn.cell.nonlinearity.weight
    bent, taken = [], []
    for t in range(6):
        hidden = h @ cell.weight_hh.T + cell.bias_ih + cell.bias_hh if subject == "rnn-prelu" else cell.weight_hh * h
        z = xs[:, t] @ cell.weight_ih.T + hidden + (0 if subject == "rnn-prelu" else cell.bias)
        h = torch.where(z > 0, z, slope.detach() * z)
        h.retain_grad()
        bent.append(h)
        taken.append(z)
    total = sum((h * above[:, t]).sum() for t, h in enumerate(bent))
    total.backward()
    by_channel = sum((h.grad * z.clamp(max=0)).sum(0) for h, z in zip(bent, taken, strict=True)).detach()
    expected = by_channel if subject == "rnn-prelu" else by_channel.sum(0, keepdim=True)
    assert slope.numel() == len(expected)
    # The second pass gave the weights their gradients once more, but never reached the slope: it is the first's alone.
    assert_close(slope.grad, expected)
    assert "loop" in str(td.explain(rnn)).split()
