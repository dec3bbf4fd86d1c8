"""A launch for each phase of each step, and those of many steps as one graph: on a CPU, the same launches again."""

import copy
import functools

import pytest
import torch

from tests.outcome import outcome
from tests.registry import build, random_state, sequence
from tests.tolerances import assert_all_close
from treadle.engines import verification
from treadle.engines.gpu.plan import launches, phases

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.fixture
def graphs(cut, monkeypatch):
    """Kernels in mode steps, whose graphs have three steps; of each that was captured, how often it was replayed."""
    found = []

    def captured(work, device):
        number = len(found)
        found.append(0)

        def replay():
            found[number] += 1
            work()

        return replay

    cut("steps")
    monkeypatch.setattr(phases, "AT_ONCE", 3)
    monkeypatch.setattr(phases, "captured", captured)
    return found


def forward(rnn, xs, state, **given):
    with torch.no_grad(), verification.switched("never"):
        return rnn(xs, state, **given)


def test_from_the_second_call_on_graphs_run_what_they_were_not_captured_for(graphs, monkeypatch):
    """Other tensors, other numbers of steps and of rows; a remainder is launched by itself, and no step more."""
    launched, steps = [], phases.Launcher.steps

    def counted(self, table, count):
        launched.append(count)
        steps(self, table, count)

    monkeypatch.setattr(phases.Launcher, "steps", counted)
    rnn = build("lstm")
    expected = copy.copy(rnn)
    rnn.engine, expected.engine = "gpu", "reference"
    counts = []
    for B, T in ((3, 7), (3, 7), (4, 5), (3, 8), (3, 2), (4, 3)):
        xs, state = sequence(rnn, B, T), random_state(rnn, B)
        for found, right in zip(forward(rnn, xs, state), forward(expected, xs, state), strict=True):
            assert_all_close(outcome_of(found), outcome_of(right))
        counts.append(list(graphs))
        assert sum(launched) == T
        launched.clear()
    assert counts == [[], [2], [3], [5], [5], [6]]


def outcome_of(result):
    return {str(n): tensor for n, tensor in enumerate(result if isinstance(result, tuple) else (result,))}


def test_other_launches_have_other_graphs(graphs):
    """With lengths, with resets, of another number of blocks, backwards."""
    rnn = build("gru")
    expected = copy.copy(rnn)
    rnn.engine, expected.engine = "gpu", "reference"
    ways = [
        (2, {}),
        (2, {"lengths": torch.tensor([6, 4])}),
        (2, {"resets": torch.ones(2, 6, dtype=torch.bool)}),
        (5, {}),
    ]
    for B, given in ways * 2:
        xs, state = sequence(rnn, B, 6), random_state(rnn, B)

        def run(rnn, xs, state, given=given):
            with verification.switched("never"):
                return rnn(xs, state, return_states=True, **given)

        assert_all_close(outcome(run, rnn, xs, state), outcome(run, expected, xs, state))
    assert graphs == [2] * 2 * len(ways)


def test_the_first_call_captures_nothing(graphs):
    rnn = build("gru")
    rnn.engine = "gpu"
    forward(rnn, sequence(rnn, 2, 9), None)
    assert not graphs


def test_where_nothing_can_be_captured_all_is_launched(graphs, monkeypatch):
    monkeypatch.setattr(phases, "captured", lambda work, device: None)
    rnn = build("gru")
    expected = copy.copy(rnn)
    rnn.engine, expected.engine = "gpu", "reference"
    for _ in range(3):
        xs = sequence(rnn, 2, 7)
        torch.testing.assert_close(forward(rnn, xs, None)[0], forward(expected, xs, None)[0])


def test_in_a_graph_of_somebody_else_no_graph_is_replayed(graphs, monkeypatch):
    """He replays what was launched when he likes, so it has a table of its own."""
    monkeypatch.setattr(phases, "is_capturing", lambda device: True)
    written = []
    run = phases.Phases.run

    def noted(self, write_table, steps):
        run(self, lambda table: written.append(table) or write_table(table), steps)
        assert self.table is None

    monkeypatch.setattr(phases.Phases, "run", noted)
    rnn = build("gru")
    rnn.engine = "gpu"
    for _ in range(2):
        forward(rnn, sequence(rnn, 2, 7), None)
    assert not graphs
    assert len(written) == 2
    assert written[0] is not written[1]


def test_there_are_not_too_many_graphs(graphs, monkeypatch):
    monkeypatch.setattr(launches, "_MOST_GRAPHS", 2)
    rnn = build("gru")
    rnn.engine = "gpu"
    run = functools.partial(forward, rnn)
    made = []
    init = launches.Launches.__init__
    monkeypatch.setattr(launches.Launches, "__init__", lambda self, *given: made.append(self) or init(self, *given))
    for B in (1, 3, 5, 7):
        run(sequence(rnn, B, 2), None)
    (one,) = made
    assert [key[0] for key in one._phases] == [3, 4]


def test_tensors_that_begin_anywhere(graphs):
    """Kernels are told that addresses are multiples of 16 bytes; what is not is copied."""
    rnn = build("gru")
    expected = copy.copy(rnn)
    rnn.engine, expected.engine = "gpu", "reference"
    state = tuple(torch.cat([s.new_zeros(1), s.reshape(-1)])[1:].view(s.shape) for s in random_state(rnn, 2))
    assert state[0].data_ptr() % 16
    state = type(random_state(rnn, 2))(*state)
    xs = sequence(rnn, 2, 2)
    torch.testing.assert_close(forward(rnn, xs, state)[0], forward(expected, xs, state)[0])
