"""Default devices and precisions, and inference mode: our own tensors are not made by what the caller has set."""

import contextlib
import gc

import numpy as np
import pytest
import torch

import treadle as td
from tests.registry import build, sequence
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan import backward
from treadle.errors import EngineError
from treadle.state import named_tensors

SOME = [
    "lstm",
    "zoneout-lstm",
    "conv-lstm",
    "own-cell",
    "stack-residual",
    "graph-delays",
    "graph-tokens",
    "noisy-state",
]


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {"meta": lambda: torch.device("meta"), "float16": default_dtype, "inference": torch.inference_mode}


def everything(rnn, xs, lengths, resets, grad):
    """Outputs, states and gradients, whole, ragged, stepped and live."""
    found = []
    for options in ({}, {"lengths": lengths}, {"lengths": lengths.tolist(), "resets": resets}):
        torch.manual_seed(1)
        ys, state, every = rnn(xs, **options, return_states=True)
        found += [ys, *(t for _, t in named_tensors(state)), *(t for _, t in named_tensors(every))]
        if grad:
            rnn.zero_grad()
            ys.square().sum().backward()
            found += [p.grad for p in rnn.parameters()]
    y, state = rnn.step(xs[:, 0])
    session = rnn.session(len(xs))
    session.reset([0])
    found += [y, *(t for _, t in named_tensors(state)), session.step(xs[:, 0]).clone(), session.steps(xs)]
    return [t.detach().clone() for t in found]


@pytest.mark.share(9)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("subject", SOME)
def test_the_callers_modes_change_nothing(subject, mode, training):
    """Neither where they hold nor later, where the network was run first."""
    if mode == "meta" and subject == "own-cell":
        pytest.skip("its own Python makes a tensor on the default device")
    torch.manual_seed(1)
    rnn, xs = build(subject).train(training), sequence(build(subject))
    lengths, resets = torch.tensor([7, 0, 4]), torch.arange(21).reshape(3, 7) % 4 == 3
    gc.collect()
    backward._known_zeros.clear()
    with MODES[mode]():
        inside = everything(rnn, xs, lengths, resets, grad=mode != "inference")
    outside = everything(rnn, xs, lengths, resets, grad=mode != "inference")
    for a, b in zip(inside, outside, strict=True):
        assert torch.equal(a, b)
    # What was kept serves derivatives.
    everything(rnn, xs, lengths, resets, grad=True)


def test_a_session_of_inference_mode_goes_on_without():
    rnn = td.Recurrent(td.LSTMCell(3, 5))
    xs = torch.randn(4, 3)
    other = rnn.session()
    expected = [other.step(x).clone() for x in xs]
    with torch.inference_mode():
        session = rnn.session()
        assert torch.equal(session.step(xs[0]), expected[0])
        state = session.state
    assert torch.equal(session.step(xs[1]), expected[1])
    session.load(state)
    assert torch.equal(session.step(xs[1].clone()), expected[1])
    session.reset()
    assert torch.equal(torch.from_numpy(session.step(xs[0].numpy().astype(np.float64))), expected[0])


def test_no_address_is_taken_on_another_device():
    recipe = Recipe()
    recipe.tensor("x")
    with pytest.raises(EngineError, match=r"tensor \[2, 3\] on meta: move the whole network"):
        recipe.follow({"x": torch.empty(2, 3, device="meta")})


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_drop_ins_beside_a_default_device(kind):
    torch.manual_seed(0)
    rnn, xs = getattr(td, kind)(3, 4), torch.randn(12, 2, 3)
    packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor([12, 9]))
    hx = torch.zeros(1, 2, 4)
    hx = (hx, hx) if kind == "LSTM" else hx
    expected = rnn(xs, hx)[0], rnn(packed, hx)[0].data, rnn(xs, hx, lengths=[12, 9])[0]
    with torch.device("meta"):
        found = rnn(xs, hx)[0], rnn(packed, hx)[0].data, rnn(xs, hx, lengths=[12, 9])[0]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
