"""A method as an argument: of networks and drop-ins, printed, copied, saved, and inside of other machinery."""

import copy
import pickle
from functools import partial

import pytest
import torch

import treadle as td
from tests.outcome import outcome, whole
from tests.registry import build, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.gradients import METHODS

T = 12
SHOWN = [td.TruncatedBPTT(3, 7), td.TruncatedBPTT(4), td.CheckpointedBPTT("10kB"), td.CheckpointedBPTT(500)]
EXACT = td.CheckpointedBPTT(500)
TO_THE_END = td.TruncatedBPTT(3, 100)
every_shown = pytest.mark.parametrize("method", SHOWN, ids=repr)


def test_all_methods_are_public():
    assert all(getattr(td, method.__name__) is method for method in METHODS)


@every_shown
def test_recurrents_print_copy_and_save_it(method, tmp_path):
    rnn = td.Recurrent(td.GRUCell(2, 3), gradient=method)
    assert f"gradient={method!r}" in repr(rnn)
    td.save(tmp_path / "model.safetensors", rnn)
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), td.load(tmp_path / "model.safetensors")):
        assert other.gradient == method
        assert repr(other) == repr(rnn)


@every_shown
def test_drop_ins_print_copy_and_save_it(method, tmp_path):
    lstm = td.LSTM(2, 3, gradient=method)
    assert f"gradient={method!r}" in repr(lstm)
    td.save(tmp_path / "model.safetensors", lstm)
    for other in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm)), td.load(tmp_path / "model.safetensors")):
        assert other.gradient == method
        assert repr(other) == repr(lstm)


@pytest.mark.parametrize("wrong", [td.CheckpointedBPTT, "full", 7])
@pytest.mark.parametrize("make", [partial(td.Recurrent, td.GRUCell(2, 3)), partial(td.GRU, 2, 3)])
def test_what_is_no_method(make, wrong):
    with pytest.raises(TypeError, match="gradient is a method such as"):
        make(gradient=wrong)


def test_a_file_with_an_impossible_method_is_refused(tmp_path):
    from treadle.files.description import build as built
    from treadle.files.description import describe

    text = describe(td.Recurrent(td.GRUCell(2, 3), gradient=td.TruncatedBPTT(4)))
    with pytest.raises(td.errors.ModelFileError, match="steps is a whole number"):
        built(text.replace('"steps": 4', '"steps": -4'))


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_drop_ins_take_it(kind, options):
    plain = getattr(td, kind)(3, 4, **options).double()
    xs, lengths = torch.randn(T, 2, 3, dtype=torch.float64), [T, 5]

    def run(module):
        x = xs.clone().requires_grad_()
        ys, hidden = module(x, lengths=lengths)
        hidden = hidden if isinstance(hidden, tuple) else (hidden,)
        total = ys.square().sum() + sum(h.sum() for h in hidden)
        return torch.autograd.grad(total, [x, *module.parameters()])

    expected = run(plain)
    for method in (EXACT, TO_THE_END):
        other = getattr(td, kind)(3, 4, gradient=method, **options).double()
        other.load_state_dict(plain.state_dict())
        for a, b in zip(run(other), expected, strict=True):
            assert_close(a, b)


def test_drop_ins_leave_pytorchs_kernels_to_full_bptt():
    """They know nothing of blocks, and would give the gradient of the whole."""
    lstm = td.LSTM(3, 4, gradient=td.TruncatedBPTT(2))
    for steps in (4, 20):  # either side of the number of steps from which the compiled engine is faster
        xs = torch.randn(steps, 1, 3, requires_grad=True)
        lstm(xs)[0][-1].sum().backward()
        assert xs.grad[:, 0].any(1).tolist() == [False] * (steps - 2) + [True] * 2


@pytest.mark.share(1)
@pytest.mark.parametrize("method", [EXACT, td.TruncatedBPTT(3, 7)], ids=repr)
def test_torch_compile(method):
    rnn = build("gru", gradient=method)
    xs = sequence(rnn, 2, T)
    compiled = torch.compile(lambda x: rnn(x)[0].square().sum(), backend="eager", fullgraph=True)

    def gradient(function):
        x = xs.clone().requires_grad_()
        return torch.autograd.grad(function(x), [x, *rnn.parameters()])

    for a, b in zip(gradient(compiled), gradient(lambda x: rnn(x)[0].square().sum()), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("method", [EXACT, TO_THE_END], ids=repr)
@pytest.mark.parametrize("engine", ["auto", "cpu", "interpreter", "reference"])
def test_engines_by_name(engine, method):
    rnn = build("lstm", engine=engine)
    xs = sequence(rnn, 2, T)
    reference = outcome(whole, rnn, xs)
    rnn.gradient = method
    assert_all_close(outcome(whole, rnn, xs), reference)


@pytest.mark.parametrize("method", [EXACT, td.TruncatedBPTT(3, 7), td.TruncatedBPTT(3)], ids=repr)
def test_finite_differences(method):
    """An exact method against all of the sequence, a truncated one within the reach of its last block."""
    rnn = build("gru", engine="interpreter", gradient=method)
    exact = isinstance(method, td.CheckpointedBPTT)
    last = slice(None) if exact else slice(T - 3, None)
    first = 0 if exact else T - method.horizon
    rest = sequence(rnn, 2, T)[:, first:]

    def function(xs):
        before = torch.cat([sequence(rnn, 2, T)[:, :first], xs], 1)
        return rnn(before)[0][:, last]

    assert torch.autograd.gradcheck(function, rest.clone().requires_grad_(), fast_mode=True)
