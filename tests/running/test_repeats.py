"""A call like those before is made again without being decided again: the same numbers, and no change is missed."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import LEFT_OUT, SUBJECTS, build, sequence
from treadle.engines import ENGINES, Repeat
from treadle.engines.cpu.plan.bound_forward import BoundForward
from treadle.state import named_tensors

TIMES = 5  # the first call is decided, the second one is kept, the others are repeated


@pytest.fixture
def repeated(monkeypatch):
    """How many calls were repeated."""
    count, run = [0], Repeat.run

    def counting(self, *given):
        result = run(self, *given)
        count[0] += result is not None
        return result

    monkeypatch.setenv("TREADLE_VERIFY", "never")
    monkeypatch.setattr(Repeat, "run", counting)
    return count


def lstm(**options):
    torch.manual_seed(1)
    return td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.LSTMCell(4, 4)]), **options)


def by_reference(rnn, xs, state=None):
    return td.Recurrent(rnn.cell, rnn.batch_first, engine="reference")(xs, state)


def assert_same(given, expected):
    torch.testing.assert_close(given[0], expected[0], rtol=1e-5, atol=1e-6)
    for (name, one), (_, other) in zip(named_tensors(given[1]), named_tensors(expected[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def assert_equal(given, expected):
    assert torch.equal(given[0], expected[0])
    for (name, one), (_, other) in zip(named_tensors(given[1]), named_tensors(expected[1]), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.share(4)
@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name not in LEFT_OUT])
def test_gives_the_same_bits(subject, repeated):
    rnn = build(subject)
    xs = sequence(rnn)
    with torch.no_grad():
        first = rnn(xs)
        for _ in range(TIMES):
            assert_equal(rnn(xs), first)
        on = rnn(xs, first[1])
        assert_equal(rnn(xs, first[1]), on)
        # Rows that lie otherwise in memory.
        assert_equal(rnn(xs.transpose(0, 1).contiguous().transpose(0, 1)), first)


def test_is_what_happens(repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            _, state = rnn(xs)
        for _ in range(TIMES):
            rnn(xs, state)
    assert repeated[0] == 2 * TIMES - 2
    drop_in = td.GRU(3, 4, 2)
    with torch.no_grad():
        for _ in range(TIMES):
            drop_in(torch.randn(9, 2, 3))
    assert repeated[0] == 3 * TIMES - 4


def test_gradients_are_the_same(repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    before = [t.detach().clone().requires_grad_() for _, t in named_tensors(rnn(xs)[1])]
    state = {"layer0": td.LSTMState(*before[:2]), "layer1": td.LSTMState(*before[2:])}
    leaves = [*rnn.parameters(), *before]

    def gradients(network):
        ys, end = network(xs, state)
        return torch.autograd.grad(ys.square().sum() + end["layer0"].c.sum(), leaves)

    expected = gradients(td.Recurrent(rnn.cell, engine="reference"))
    for _ in range(TIMES):
        for given, right in zip(gradients(rnn), expected, strict=True):
            torch.testing.assert_close(given, right, rtol=1e-5, atol=1e-5)
    assert repeated[0] >= TIMES - 2
    xs.requires_grad_()  # a form of its own
    ys, _ = rnn(xs, state)
    (given,) = torch.autograd.grad(ys.sum(), xs)
    torch.testing.assert_close(given, torch.autograd.grad(by_reference(rnn, xs, state)[0].sum(), xs)[0])


def double_in_place(rnn):
    rnn.cell.cells[0].weight_hh.mul_(2)


def other_data(rnn):
    rnn.cell.cells[0].weight_hh.data = 2 * rnn.cell.cells[0].weight_hh.data


def transposed_data(rnn):
    weight = rnn.cell.cells[1].weight_hh
    weight.data = torch.randn(4, 16).t()


def other_parameter(rnn):
    rnn.cell.cells[1].bias_ih = nn.Parameter(torch.randn(16))


def tied(rnn):
    rnn.cell.cells[1].bias_ih = rnn.cell.cells[0].bias_ih


def other_cell(rnn):
    rnn.cell = td.Stack([td.LSTMCell(3, 4), td.LSTMCell(4, 4)])


def other_activation(rnn):
    rnn.cell.cells[0].activation = "softsign"


def initial_ones_of_one(rnn):
    cell = rnn.cell.cells[0]
    cell.initial_state = lambda rows: td.LSTMState(torch.ones(rows, 4), torch.ones(rows, 4))


@pytest.mark.parametrize(
    "change",
    [
        double_in_place, other_data, transposed_data, other_parameter, tied, other_cell, other_activation,
        initial_ones_of_one,
    ],
)  # fmt: skip
def test_a_change_is_noticed(change, repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            before = rnn(xs)
        change(rnn)
        after = rnn(xs)
        assert not torch.equal(after[0], before[0])
        for _ in range(TIMES):
            assert_same(rnn(xs), by_reference(rnn, xs))


def test_an_initial_state_that_a_class_says_otherwise_is_asked_for(repeated, monkeypatch):
    rnn, xs = td.Recurrent(td.GRUCell(3, 4)), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            rnn(xs)
        monkeypatch.setattr(td.GRUCell, "initial_state", lambda self, rows: td.GRUCell.State(torch.ones(rows, 4)))
        assert_same(rnn(xs), by_reference(rnn, xs, td.GRUCell.State(torch.ones(2, 4))))


class Own(nn.Module):
    """A user's own cell, which says how its state starts in an attribute."""

    def __init__(self):
        super().__init__()
        self.start = 1.0
        self.initial_state = lambda rows: torch.full((rows, 4), self.start)

    def forward(self, x, state):
        state = torch.tanh(x[:, :1] + state)
        return state, state


def test_what_a_part_says_in_an_attribute_is_asked_for(repeated):
    rnn, xs = td.Recurrent(td.Stack([td.GRUCell(3, 4), Own()])), torch.randn(2, 9, 3)
    with torch.no_grad():
        for start in (1.0, 2.0, 3.0):
            rnn.cell.cells[1].start = start
            for _ in range(TIMES):
                assert_same(rnn(xs), by_reference(rnn, xs))
    assert repeated[0]


def test_a_large_initial_state_is_not_kept(repeated):
    rnn, xs = td.Recurrent(td.GRUCell(3, 64)), torch.randn(5000, 2, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            rnn(xs)
    assert repeated[0]
    assert all(known.zeros is None for known, _ in rnn._repeats._known.values())


class Drawn(nn.Module):
    """A user's own cell, whose state starts at random."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def initial_state(self, batch_size):
        return torch.randn(batch_size, 4)

    def forward(self, x, state):
        state = torch.tanh(x @ self.weight + state)
        return state, state


def test_what_an_initial_state_draws_is_drawn_once(repeated):
    rnn, xs = td.Recurrent(Drawn()), torch.randn(2, 9, 3)
    reference = td.Recurrent(rnn.cell, engine="reference")
    with torch.no_grad():
        rnn(xs)
        torch.manual_seed(3)
        given = [rnn(xs)[0] for _ in range(TIMES)]
        given.append(rnn(xs, torch.zeros(2, 4))[0])
        end = torch.randn(1)
        torch.manual_seed(3)
        expected = [reference(xs)[0] for _ in range(TIMES)]
        expected.append(reference(xs, torch.zeros(2, 4))[0])
        assert torch.equal(torch.randn(1), end)
    assert repeated[0]
    torch.testing.assert_close(torch.stack(given), torch.stack(expected))


def test_a_learned_initial_state_is_read_in_each_call(repeated):
    rnn, xs = lstm(learn_initial_state=True), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            rnn(xs)
        for parameter in rnn.initial.parameters():
            parameter += 1
        assert_same(rnn(xs), by_reference(rnn, xs, rnn.initial_state(2)))
    assert repeated[0]


def test_what_a_call_gives_is_its_own(repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        first = rnn(xs)
        for _ in range(TIMES):
            ys, end = rnn(xs)
            assert_equal((ys, end), first)
            for tensor in (ys, *(t for _, t in named_tensors(end))):
                tensor.fill_(7)


def test_steps_aside_where_operations_are_followed(repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            first = rnn(xs)
        count = repeated[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not torch.equal(rnn(xs)[0], first[0])
        others = {name: 2 * parameter for name, parameter in rnn.named_parameters()}
        doubled = copy.deepcopy(rnn)
        doubled.load_state_dict(others)
        assert_same(torch.func.functional_call(rnn, others, (xs,)), by_reference(doubled, xs))
        handle = nn.modules.module.register_module_forward_hook(lambda *given: None)
        try:
            assert_same(rnn(xs), first)
        finally:
            handle.remove()
        assert repeated[0] <= count + 1
        assert_equal(rnn(xs), first)


def test_verification_comes_first(repeated, monkeypatch):
    monkeypatch.setenv("TREADLE_VERIFY", "always")
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            rnn(xs)
    assert not repeated[0]
    monkeypatch.setenv("TREADLE_VERIFY", "first")
    with torch.no_grad():
        for _ in range(20):
            rnn(xs)
    assert 0 < repeated[0] < 20  # the 16th call is looked at again


def test_without_memory_what_waits_is_given_back_and_it_is_tried_once_more(repeated, monkeypatch):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            first = rnn(xs)
        run, given_back = BoundForward.run, []

        def without_memory(self, *given):
            if not given_back:
                raise MemoryError
            return run(self, *given)

        monkeypatch.setattr(BoundForward, "run", without_memory)
        monkeypatch.setattr(ENGINES["cpu"], "release_memory", lambda: given_back.append(1) or True)
        assert_equal(rnn(xs), first)
    assert given_back == [1]


def test_copies_and_files_start_without(repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            first = rnn(xs)
        for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
            count = repeated[0]
            assert_equal(other(xs), first)
            assert repeated[0] == count
            other.cell.cells[0].weight_hh.mul_(2)
            for _ in range(TIMES):
                assert not torch.equal(other(xs)[0], first[0])
        assert_equal(rnn(xs), first)


def test_keeps_no_parameter_alive(repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            rnn(xs)
    cell = rnn.cell.cells[0]
    gone = weakref.ref(cell.weight_hh)
    cell.weight_hh = nn.Parameter(torch.randn(16, 4))
    gc.collect()
    assert gone() is None


def test_inference_mode_leaves_nothing_that_training_could_not_use(repeated):
    rnn, xs = lstm(), torch.randn(2, 9, 3)
    with torch.inference_mode():
        for _ in range(TIMES):
            first = rnn(xs)
    for _ in range(TIMES):
        ys, _ = rnn(xs)
        ys.sum().backward()
    assert torch.equal(ys.detach(), first[0])
