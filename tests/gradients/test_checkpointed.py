"""The exact gradient from states at borders equals that of the whole, whatever the memory, for every network."""

import copy
import logging

import pytest
import torch

import treadle as td
from tests.gradients.test_schedule import fewest
from tests.outcome import outcome, row_by_row, whole
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.byte_sizes import as_bytes, show_bytes
from treadle.engines import say_once
from treadle.gradients import checkpointed
from treadle.gradients.memory import kept_by_a_step
from treadle.gradients.schedule import kept_at_first

T = 13
LENGTHS = [3, 0, 13, 12]
RESETS = torch.zeros(4, T, dtype=torch.bool)
for row, step in [(0, 0), (0, 2), (2, 4), (2, 5), (2, 12), (3, 8)]:
    RESETS[row, step] = True


def network(subject: str, dtype: torch.dtype = torch.float64) -> td.Recurrent:
    """On an engine that needs no machine code: what is tested here is the same for all."""
    return build(subject, dtype, engine="interpreter")


def with_memory(rnn: td.Recurrent, memory: int | str) -> td.Recurrent:
    other = copy.copy(rnn)
    other.gradient = td.CheckpointedBPTT(memory)
    return other


@pytest.fixture
def schedules(monkeypatch):
    """The schedules that were taken."""
    taken = []

    def noted(*arguments, original=checkpointed.schedule):
        taken.append(original(*arguments))
        return taken[-1]

    monkeypatch.setattr(checkpointed, "schedule", noted)
    return taken


@pytest.mark.share(6)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_network_alone_and_nested(subject, schedules):
    rnn = build(subject, learn_initial_state=True, engine="interpreter")
    xs, state = sequence(rnn, 4, T), random_state(rnn, 4)
    reference = outcome(row_by_row(LENGTHS, RESETS), rnn, xs, state)

    def run(rnn, xs, state):
        return rnn(xs, state, LENGTHS, RESETS, return_states=True)

    assert_all_close(outcome(run, with_memory(rnn, 1), xs, state), reference)
    assert schedules[-1].most < -(-T // schedules[-1].length)  # so some segments run more than twice


@pytest.mark.share(3)
@pytest.mark.parametrize("subject", ["lstm", "gru", "stack-feedback"])
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_other_engines_and_memories(subject, engine, schedules):
    rnn = build(subject, engine=engine)
    xs = sequence(rnn, 2, 63)
    reference = outcome(whole, rnn, xs)
    for memory in (1, 15_000, "1GB"):
        assert_all_close(outcome(whole, with_memory(rnn, memory), xs), reference)
    assert len(schedules) == 2  # where everything fits, none is needed
    assert schedules[0].length * schedules[0].most < schedules[1].length * schedules[1].most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_part_of_the_gradient_alone(dtype):
    rnn = network("lstm", dtype)
    small = with_memory(rnn, 2_000)
    xs, state = sequence(rnn, 2, 40, dtype), random_state(rnn, 2, dtype)
    for wanted in ("xs", "state", "parameters"):

        def gradient(rnn, wanted=wanted):
            x = xs.clone().requires_grad_(wanted == "xs")
            s = td.LSTMState(*(part.clone().requires_grad_(wanted == "state") for part in state))
            other = copy.deepcopy(rnn).requires_grad_(wanted == "parameters")
            ys, end = other(x, s)
            leaves = {"xs": [x], "state": list(s), "parameters": list(other.parameters())}[wanted]
            return torch.autograd.grad((ys * ys).sum() + end.c.sum(), leaves)

        for a, b in zip(gradient(small), gradient(rnn), strict=True):
            assert_close(a, b)


def test_gradients_of_the_final_state_alone():
    rnn = network("gru")
    xs = sequence(rnn, 2, 40).requires_grad_()

    def gradient(rnn):
        return torch.autograd.grad(rnn(xs)[1].h.square().sum(), [xs, *rnn.parameters()])

    for a, b in zip(gradient(with_memory(rnn, 2_000)), gradient(rnn), strict=True):
        assert_close(a, b)


class Counting(torch.nn.Module):
    """A GRU that notes which step it is at."""

    def __init__(self):
        super().__init__()
        self.inner = td.GRUCell(2, 3)
        self.input_size = 2
        self.seen = []

    def initial_state(self, batch_size):
        return (*self.inner.initial_state(batch_size), torch.zeros(batch_size, 1))

    def forward(self, x, state):
        self.seen.append((int(state[1][0, 0]), torch.is_grad_enabled()))
        y, (h,) = self.inner(x, (state[0],))
        return y, (h, state[1] + 1)


@pytest.mark.parametrize(("memory", "nested"), [(4_000, False), (600, True)])
def test_how_often_and_in_what_order_steps_are_run(memory, nested, schedules):
    cell, steps = Counting(), 60
    rnn = td.Recurrent(cell, engine="reference", gradient=td.CheckpointedBPTT(memory))
    xs = torch.randn(1, steps, 2)
    ys, _ = rnn(xs)
    length = schedules[-1].length
    trial = 1 + 2 + 3
    forwards = cell.seen[trial:]
    assert forwards == [(t, False) for t in range(steps)]
    cell.seen.clear()
    ys.sum().backward()
    with_gradient = [t for t, gradient in cell.seen if gradient]
    borders = range(0, steps, length)
    assert with_gradient == [t for begin in reversed(borders) for t in range(begin, min(begin + length, steps))]
    again = [t // length for t, gradient in cell.seen if not gradient and t % length == 0]
    most = schedules[-1].most
    assert len(again) == fewest(len(borders), most) - kept_at_first(len(borders), most)[-1]
    assert bool(again) == nested


def test_everything_that_fits_is_kept():
    cell = Counting()
    rnn = td.Recurrent(cell, engine="reference", gradient=td.CheckpointedBPTT("1GB"))
    ys, _ = rnn(torch.randn(1, 20, 2))
    cell.seen.clear()
    ys.sum().backward()
    assert not cell.seen


@pytest.mark.share(3)
@pytest.mark.parametrize("subject", ["zoneout-lstm", "stack-with-dropout", "graph-memoryless-nodes"])
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_random_masks_are_the_same_when_run_again(subject, engine):
    rnn = build(subject, engine=engine).train()
    xs = sequence(rnn, 2, T)

    def run(rnn):
        torch.manual_seed(3)
        results = outcome(whole, rnn, xs)
        return results | {"drawn after": torch.rand(2)}

    assert_all_close(run(with_memory(rnn, 1)), run(rnn))


def test_going_back_leaves_the_generator_alone():
    rnn = with_memory(network("zoneout-lstm").train(), 1)
    ys, _ = rnn(sequence(rnn, 2, T))
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    ys.sum().backward()
    assert torch.equal(torch.rand(3), expected)


# What may change between the passes


def test_modes_and_parameters_are_those_of_the_forward_pass():
    rnn = network("stack-with-dropout").train()
    xs = sequence(rnn, 2, T)
    given = {name: (p.detach() * 0.5).requires_grad_() for name, p in rnn.named_parameters()}

    def gradients(rnn):
        torch.manual_seed(3)
        ys, _ = torch.func.functional_call(rnn, given, (xs,))
        rnn.eval()
        found = torch.autograd.grad(ys.sum(), list(given.values()))
        rnn.train()
        return found

    before = [p.detach().clone() for p in rnn.parameters()]
    for a, b in zip(gradients(with_memory(rnn, 1)), gradients(rnn), strict=True):
        assert_close(a, b)
    assert all(map(torch.equal, before, rnn.parameters()))
    assert not any(type(p) is not torch.nn.Parameter for p in rnn.parameters())


def test_weights_that_are_computed_from_others():
    rnn = network("gru")
    torch.nn.utils.parametrizations.weight_norm(rnn.cell, "weight_hh")
    xs = sequence(rnn, 2, T)
    reference = outcome(whole, rnn, xs)
    assert_all_close(outcome(whole, with_memory(rnn, 1), xs), reference)


def test_a_tensor_that_no_module_holds():
    outside = torch.ones(3, dtype=torch.float64, requires_grad=True)

    class Reaching(td.GRUCell):
        def forward(self, x, state):
            y, state = super().forward(x, state)
            return y * outside, state

    rnn = td.Recurrent(Reaching(2, 3)).double()
    xs = sequence(rnn, 2, T)
    for engine in ("auto", "reference"):
        rnn.engine = engine
        (expected,) = torch.autograd.grad(rnn(xs)[0].square().sum(), outside)
        (found,) = torch.autograd.grad(with_memory(rnn, 1)(xs)[0].square().sum(), outside)
        assert_close(found, expected)


def test_hooks_of_parameters_are_called_once():
    rnn = network("gru")
    xs = sequence(rnn, 2, T)
    calls = []
    rnn.cell.weight_hh.register_hook(lambda g: calls.append(0) or g * 2)
    expected = torch.autograd.grad(rnn(xs)[0].sum(), rnn.cell.weight_hh)[0]
    calls.clear()
    assert_close(torch.autograd.grad(with_memory(rnn, 1)(xs)[0].sum(), rnn.cell.weight_hh)[0], expected)
    assert len(calls) == 1


def test_autocast_is_that_of_the_forward_pass():
    rnn = network("lstm", torch.float32)
    xs = sequence(rnn, 2, T, torch.float32)

    def gradient(rnn):
        with torch.autocast("cpu", torch.bfloat16):
            ys, _ = rnn(xs)
        return torch.autograd.grad(ys.sum(), list(rnn.parameters()))

    for a, b in zip(gradient(with_memory(rnn, 1)), gradient(rnn), strict=True):
        assert_close(a, b, torch.bfloat16)


def test_writing_into_what_is_needed_is_noticed():
    rnn = with_memory(network("gru"), 1)
    xs = sequence(rnn, 2, T)
    ys, _ = rnn(xs)
    with torch.no_grad():
        rnn.cell.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys.sum().backward()
    ys, _ = rnn(xs)
    ys += 1  # outputs are not needed
    ys.sum().backward()


def test_a_graph_that_is_used_twice():
    rnn = with_memory(network("lstm"), 1)
    xs = sequence(rnn, 2, T).requires_grad_()
    ys, _ = rnn(xs)
    first = torch.autograd.grad(ys.sum(), xs, retain_graph=True)[0]
    assert_close(torch.autograd.grad(ys.sum(), xs)[0], first)


def test_second_derivatives():
    rnn = network("gru")
    xs = sequence(rnn, 2, 7)

    def curvature(rnn):
        x = xs.clone().requires_grad_()
        ys, end = rnn(x)
        first = torch.autograd.grad(ys.square().sum() + end.h.sum(), [x, *rnn.parameters()], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), [x, *rnn.parameters()])

    for a, b in zip(curvature(with_memory(rnn, 1)), curvature(rnn), strict=True):
        assert_close(a, b)


def test_transforms_of_torch_func():
    rnn = network("gru")
    xs = sequence(rnn, 2, 7)
    (expected,) = torch.autograd.grad(rnn(x := xs.clone().requires_grad_())[0].square().sum(), x)
    small = with_memory(build("gru"), 1)
    assert_close(torch.func.grad(lambda x: small(x)[0].square().sum())(xs), expected)


@pytest.mark.parametrize(("B", "steps"), [(2, 0), (0, 3), (1, 1), (1, 2)])
def test_hardly_anything(B, steps):
    rnn = with_memory(build("lstm", engine="reference"), 1)
    xs = sequence(rnn, B, steps).requires_grad_()
    ys, end = rnn(xs)
    (ys.sum() + end.h.sum() + xs.sum()).backward()
    assert xs.grad.shape == xs.shape


def test_nothing_is_kept_where_nothing_wants_a_gradient(schedules):
    rnn = with_memory(network("lstm").requires_grad_(False), 1)
    xs = sequence(rnn, 2, T)
    assert not rnn(xs)[0].requires_grad
    with torch.no_grad():
        assert not with_memory(network("lstm"), 1)(xs)[0].requires_grad
    assert not schedules


@pytest.mark.parametrize("subject", ["lstm", "stack-lateral"])
def test_the_memory_of_a_state_is_not_that_of_a_segment(subject):
    """A delayed output, as it is at the end of a segment, is a view of all outputs: it must not keep them alive."""
    rnn = network(subject)
    ys, _ = with_memory(rnn, 50_000)(sequence(rnn, 1, 500))
    borders = ys.grad_fn.next_functions[0][0].borders
    assert len(borders) > 1
    for border in borders.values():
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in border.state)


# Memory in words


@pytest.mark.parametrize(
    ("memory", "expected"),
    [("1GB", 10**9), ("1.5 GiB", 3 * 2**29), (" 20 kb", 20_000), ("7", 7), ("0.5MB", 500_000), (12, 12)],
)
def test_amounts_of_memory(memory, expected):
    assert as_bytes(memory) == expected


@pytest.mark.parametrize("memory", ["", "GB", "1 gigabyte", "-1GB", 0, -5, 1.5, True, None, "0MB"])
def test_what_is_no_memory(memory):
    with pytest.raises(ValueError, match="memory is a positive number of bytes"):
        td.CheckpointedBPTT(memory)


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 123_456_789, 2 * 10**9 + 1])
def test_what_is_shown_can_be_passed(size):
    assert size <= as_bytes(show_bytes(size)) <= size * 1.11 + 1


def test_what_a_step_keeps():
    weight = torch.randn(4, 4, requires_grad=True)

    def run(steps):
        xs = [torch.randn(4, dtype=torch.float32) for _ in range(steps)]
        return [torch.mv(weight, x) for x in xs], [weight]

    assert kept_by_a_step(run) == 4 * 4


def test_too_little_memory_is_said_once(caplog):
    say_once.cache_clear()
    rnn = with_memory(network("gru"), 10)
    with caplog.at_level(logging.WARNING, "treadle"):
        for _ in range(2):
            rnn(sequence(rnn, 2, T))
    said = [record.message for record in caplog.records if "CheckpointedBPTT" in record.message]
    assert len(said) == 1
    assert "memory=10) is too little for 13 steps of GRUCell: the smallest schedule, about " in said[0]
    enough = said[0].split("about ")[1].split(",")[0]
    say_once.cache_clear()
    caplog.clear()
    assert_close(with_memory(rnn, enough)(sequence(rnn, 2, T))[0], network("gru")(sequence(rnn, 2, T))[0])
    assert not caplog.records
