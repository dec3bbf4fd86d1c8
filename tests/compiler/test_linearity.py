"""What is said of a loop's recurrence is so: by superposition, and by changing one unit at a time."""

import pytest
import torch

import treadle as td
from tests.registry import CELLS, build, random_state, sequence
from tests.tolerances import assert_close

LINEAR = {"min-gru", "min-lstm", "rg-lru-two-heads"}
BY_ELEMENT = LINEAR | {"ind-rnn", "ind-rnn-tanh", "ind-rnn-prelu-of-one-slope"}


def recurrences(rnn):
    return {loop.states: loop.recurrence for loop in td.explain(rnn).loops}


@pytest.mark.parametrize("name", [name for name in CELLS if not name.startswith("conv")])
def test_cells(name):
    said = set(recurrences(build(name)).values())
    if name == "mlstm-two-heads":
        assert said == {"linear scan, element by element", "element by element"}
    else:
        linear = ["linear scan"] * (name in LINEAR)
        assert said == {", ".join([*linear, *["element by element"] * (name in BY_ELEMENT)])}


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_a_linear_scan_superposes(name):
    rnn = build(name)
    x, state = sequence(rnn)[:, 0], random_state(rnn)
    other = td.select(state, [1, 2, 0])

    def after(*parts):
        return rnn.step(x, type(state)(torch.stack([part.h for part in parts]).sum(0)))[1].h

    zero = type(state)(torch.zeros_like(state.h))
    assert_close(after(state, other) + after(zero), after(state) + after(other))


@pytest.mark.parametrize("name", sorted(BY_ELEMENT))
def test_units_do_not_meet(name):
    rnn = build(name)
    x, state = sequence(rnn)[:, 0], random_state(rnn)
    before = rnn.step(x, state)[1].h
    state.h[:, 1] += 0.1
    changed = (rnn.step(x, state)[1].h != before).any(0)
    assert changed[1]
    assert changed.sum() == 1


class Odd(torch.nn.Module):
    """A step of one's own choice over a state of three numbers."""

    input_size = 3

    def __init__(self, step):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 3))
        self.step = step

    def initial_state(self, batch_size):
        return (self.weight.new_zeros(batch_size, 3),)

    def forward(self, x, state):
        h = self.step(x, state[0], self.weight)
        return h, (h,)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda x, h, w: x * h + x.sigmoid(), "linear scan, element by element"),
        (lambda x, h, w: x * h @ w, "linear scan"),
        (lambda x, h, w: x - torch.cat([h[:, 1:], h[:, :1]], 1), "linear scan"),
        (lambda x, h, w: x + h.mean(1, keepdim=True), "linear scan"),
        (lambda x, h, w: x + h[:, :1] * w[0], "linear scan"),
        (lambda x, h, w: torch.where(x > 0, h, x - h) / (1 + x * x), "linear scan, element by element"),
        (lambda x, h, w: torch.where(h > 0, h, x), "element by element"),
        (lambda x, h, w: x + h * h, "element by element"),
        (lambda x, h, w: x / (1 + h.abs()), "element by element"),
        (lambda x, h, w: x + torch.maximum(h, x), "element by element"),
        (lambda x, h, w: (x.double() + h.double() / 2).float(), "element by element"),
        (lambda x, h, w: x + h.bfloat16(), "element by element"),
        (lambda x, h, w: x + h.long(), "element by element"),
        (lambda x, h, w: x + h.bool(), "element by element"),
        (lambda x, h, w: (h @ w).tanh() + x, ""),
    ],
)
def test_steps_of_ones_own(step, said):
    assert set(recurrences(td.Recurrent(Odd(step))).values()) == {said}
