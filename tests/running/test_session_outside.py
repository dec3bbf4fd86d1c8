"""A session reads what belongs to no cell, globals and classes, as it is at every step."""

import pytest
import torch
from torch import nn

import treadle as td
from treadle.engines.network import network_of

FACTOR = 1.0
TABLE = {"factor": 1.0}


class Scaled(nn.Module):
    """A cell that is scaled from outside."""

    factor = 1.0

    def __init__(self, of):
        super().__init__()
        self.input_size, self.of, self.own = 3, of, 1.0
        self.linear = nn.Linear(7, 4)

    def initial_state(self, rows):
        return (torch.zeros(rows, 4),)

    def forward(self, x, state):
        h = torch.tanh(self.linear(torch.cat([x, state[0]], 1)) * self.of(self))
        return h, (h,)


def change_global():
    global FACTOR
    FACTOR = 3.0


CHANGES = {
    "a global": (lambda cell: FACTOR, change_global),
    "a dict": (lambda cell: TABLE["factor"], lambda: TABLE.update(factor=3.0)),
    "a class": (lambda cell: type(cell).factor, lambda: setattr(Scaled, "factor", 3.0)),
}


@pytest.fixture(autouse=True)
def nothing_is_left():
    global FACTOR
    yield
    FACTOR, Scaled.factor = 1.0, 1.0
    TABLE.update(factor=1.0)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed_and_the_state_goes_on(name):
    of, change = CHANGES[name]
    rnn, xs = td.Recurrent(Scaled(of)), torch.randn(8, 3)
    session, reference, state = rnn.session(), td.Recurrent(rnn.cell, engine="reference"), None
    assert session._live is not None
    for t, x in enumerate(xs):
        if t == 4:
            change()
        expected, state = reference.step(x[None], state)
        torch.testing.assert_close(session.step(x), expected[0])
    expected, state = reference(xs[None], state)
    torch.testing.assert_close(session.steps(xs), expected[0])


def test_a_cell_that_reads_nothing_outside_is_not_asked():
    for cell in (td.LSTMCell(3, 4), td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 4)]), Scaled(lambda cell: cell.own)):
        network = network_of(cell, torch.zeros(1, 3), cell.initial_state(1))
        assert network.outside is None or type(cell) is Scaled
