"""What `torch.compile` makes of a network is the same function, forwards and back, whatever happens in between."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.state import named_tensors


def compiled(module):
    return torch.compile(module, backend="aot_eager", fullgraph=True)


def gradients(outputs, rnn, *others):
    ys, state = outputs
    loss = ys.square().sum() + sum(t.square().sum() for _, t in named_tensors(state) if t.is_floating_point())
    learned = [p for p in [*rnn.parameters(), *others] if p.requires_grad]
    return {str(i): g for i, g in enumerate(torch.autograd.grad(loss, learned, materialize_grads=True))}


@pytest.mark.share(3)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_values_and_gradients(subject):
    torch.compiler.reset()
    rnn = build(subject, learn_initial_state=True).train()
    xs, state = sequence(rnn, 3), random_state(rnn, 3)
    given = [t.requires_grad_() for t in (xs, *(t for _, t in named_tensors(state))) if t.is_floating_point()]
    lengths, resets = torch.tensor([7, 0, 3]), torch.rand(3, 7) < 0.3
    found = []
    for run in (rnn, compiled(rnn)):
        torch.manual_seed(5)
        ys, end = run(xs, state, lengths, resets)
        found.append({"ys": ys} | dict(named_tensors(end)) | gradients((ys, end), rnn, *given))
    assert_all_close(found[1], found[0])


def test_the_derivative_is_that_of_the_forward_pass_in_the_modes_of_then():
    torch.compiler.reset()
    rnn = td.Recurrent(td.Stack([td.ZoneoutLSTMCell(3, 8), td.LSTMCell(8, 8)], dropout=0.5)).double()
    rnn.cell.cells[0].eval()  # zoneout is off, dropout is on
    xs = torch.randn(4, 6, 3, dtype=torch.float64)
    found = []
    for run in (rnn, compiled(rnn)):
        rnn.cell.train()
        rnn.cell.cells[0].eval()
        torch.manual_seed(5)
        outputs = run(xs)
        rnn.eval()
        rnn.cell.cells[0].train()
        found.append({"ys": outputs[0]} | gradients(outputs, rnn))
    assert_all_close(found[1], found[0])


class Scaled(nn.Module):
    """A cell that depends on a number, a buffer and a parameter."""

    input_size = output_size = 3

    def __init__(self):
        super().__init__()
        self.rate = 0.5
        self.register_buffer("scale", torch.full((3,), 2.0, dtype=torch.float64))
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 3, dtype=torch.float64),)

    def forward(self, x, state):
        h = (self.rate * state[0] + self.weight * x * self.scale).tanh()
        return h, (h,)


def test_what_changed_before_the_derivative_is_refused():
    torch.compiler.reset()
    rnn = td.Recurrent(Scaled())
    xs = torch.randn(2, 5, 3, dtype=torch.float64)
    run = compiled(rnn)
    assert_all_close(gradients(run(xs), rnn), gradients(rnn(xs), rnn))
    outputs = run(xs)
    rnn.cell.rate = 0.9
    with pytest.raises(td.errors.EngineError, match="attributes of Scaled changed between"):
        gradients(outputs, rnn)
    for changed in (rnn.cell.weight, rnn.cell.scale):
        outputs = run(xs)
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            gradients(outputs, rnn)


def test_autocast_rounds_what_it_rounds_elsewhere():
    torch.compiler.reset()
    rnn, xs = td.Recurrent(td.LSTMCell(3, 4)), torch.randn(2, 9, 3)
    found = []
    for run in (rnn, compiled(rnn)):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = run(xs)
        found.append({"ys": outputs[0]} | gradients(outputs, rnn))
    assert_all_close(found[1], found[0])
    assert not torch.equal(found[0]["ys"], rnn(xs)[0])


def test_what_other_threads_compile_and_export_is_no_matter(monkeypatch):
    """PyTorch's flags are those of the process."""
    rnn, xs = td.Recurrent(td.LSTMCell(3, 4)), torch.randn(2, 9, 3)
    drop_in, session, run = td.LSTM(3, 4), rnn.session(2), compiled(rnn)
    expected = run(xs)[0], drop_in(xs, lengths=[2] * 9)[0]
    for flag in ("_is_compiling_flag", "_is_exporting_flag"):
        monkeypatch.setattr(torch.compiler, flag, True)
        for found in (rnn(xs)[0], run(xs)[0], session.steps(xs)):
            assert_close(found, expected[0])
        assert_close(drop_in(xs, lengths=[2] * 9)[0], expected[1])
        with pytest.raises(td.errors.ShapeError, match="has length 10"):
            rnn(xs, lengths=[10, 2])
        session.reset()


def test_a_number_of_another_process_is_refused():
    rnn = td.Recurrent(td.LSTMCell(3, 4))
    xs, weights = torch.zeros(1, 2, 3), list(rnn.parameters())
    torch.ops.treadle.sequence(rnn.handle, xs, [], weights, None, None, False, False, None)
    for foreign in (1, rnn.handle + 1):
        with pytest.raises(td.errors.EngineError, match="not in this process"):
            torch.ops.treadle.sequence(foreign, xs, [], weights, None, None, False, False, None)
    assert len({td.Recurrent(td.LSTMCell(3, 4)).handle for _ in range(10)}) == 10
