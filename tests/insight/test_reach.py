"""How far the gradient reaches, against one backward pass for each step, row by row."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_close
from treadle.state import map_state, named_tensors

T = 9


def slowly(rnn, xs, losses, steps, state):
    """The norms by lag, from the step function: the state before each step, a leaf of its own graph, t by t."""
    rows = xs.shape[0]
    sums = {kind: np.zeros(max(steps) + 1) for kind in ("states", "inputs")}
    counts = np.zeros(max(steps) + 1)
    for b in range(rows):
        for t in steps:
            x = xs[b : b + 1].clone()
            x = x.requires_grad_() if x.is_floating_point() else x
            now = map_state(lambda s, b=b: s[b : b + 1], state)
            befores = []
            for i in range(t + 1):
                now = map_state(lambda s: s + torch.zeros_like(s).requires_grad_() if s.is_floating_point() else s, now)
                befores.append([s for _, s in named_tensors(now) if s.is_floating_point()])
                y, now = rnn.step(x[:, i], now)
            loss = losses(y[0], b, t)
            leaves = [s for before in befores for s in before] + ([x] if x.requires_grad else [])
            found = list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
            by_input = found.pop() if x.requires_grad else torch.zeros(1, t + 1, 1)
            parts = len(befores[0])
            for k in range(t + 1):
                of_state = found[(t - k) * parts : (t - k + 1) * parts]
                sums["states"][k] += sum(float(g.square().sum()) for g in of_state)
                sums["inputs"][k] += float(by_input[0, t - k].square().sum())
                counts[k] += 1
    return {kind: np.sqrt(total / np.maximum(counts, 1)) for kind, total in sums.items()}


@pytest.mark.share(3)
@pytest.mark.parametrize("subject", ["lstm", "rnn", "stack-feedback", "graph-delays", "graph-tokens", "own-cell"])
def test_norms_are_those_of_one_backward_pass_for_each_step(subject):
    rnn = build(subject, engine="interpreter" if subject not in ("graph-tokens", "own-cell") else "auto")
    xs, state = sequence(rnn, 2, T), random_state(rnn, 2)
    steps = [1, 4, T - 1]
    weights = torch.randn(rnn(xs)[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reach = td.gradient_reach(rnn, xs, lambda ys: (ys * weights).sum(2), steps, T, state)
    expected = slowly(rnn, xs, lambda y, b, t: (y * weights[b, t]).sum(), steps, state)
    assert_close(torch.from_numpy(reach.states), torch.from_numpy(expected["states"]))
    if xs.is_floating_point():
        assert_close(torch.from_numpy(reach.inputs), torch.from_numpy(expected["inputs"]))
    else:
        assert reach.inputs is None
    assert reach.lags.tolist() == list(range(T))
    assert reach.steps.tolist() == steps


@pytest.mark.share(12)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_network(subject):
    rnn = build(subject, engine="reference")
    reach = td.gradient_reach(rnn, sequence(rnn, 2, 4), steps=[3])
    assert np.isfinite(reach.states).all()
    assert reach.states[0] > 0


def test_steps_apart_are_steps_together(monkeypatch):
    rnn = build("gru", engine="interpreter")
    xs = sequence(rnn, 2, T)
    whole = td.gradient_reach(rnn, xs)
    monkeypatch.setattr("treadle.insight.reach._NUMBERS", 1)
    assert_close(torch.from_numpy(td.gradient_reach(rnn, xs).states), torch.from_numpy(whole.states))
    assert_close(torch.from_numpy(td.gradient_reach(rnn, xs, lags=3).states), torch.from_numpy(whole.states[:3]))


def test_rows_of_their_own_length():
    rnn = build("gru", engine="interpreter")
    xs, resets = sequence(rnn, 3, T), torch.zeros(3, T, dtype=torch.bool)
    resets[0, 4] = True
    padded = xs.clone()
    padded[1, 5:] = float("nan")
    weights = torch.randn(3, T, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def squares(rows, steps, resets):
        loss = lambda ys: (ys * weights[rows]).sum(2)  # noqa: E731
        reach = td.gradient_reach(rnn, xs[rows], loss, steps, lags=T, resets=resets)
        return np.square(reach.states)

    reach = td.gradient_reach(rnn, padded, lambda ys: (ys * weights).sum(2), [7], T, None, [T, 5, T], resets)
    expected = (squares([0], [7], resets[:1]) + squares([2], [7], None)) / 2
    assert_close(torch.from_numpy(np.square(reach.states)), torch.from_numpy(expected))
    assert not squares([0], [7], resets[:1])[4:].any()  # a reset ends the gradient


def test_holes_are_no_steps():
    """Neither to follow nor to reach: what is left is what a row without them gives, as far apart as it was."""
    rnn = build("gru", engine="interpreter")
    xs, mask = sequence(rnn, 3, T), torch.ones(3, T, dtype=torch.bool)
    mask[0, [2, 5]] = mask[1, 7] = False
    weights = torch.randn(3, T, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    holed = torch.where(mask[..., None], xs, float("nan"))
    reach = td.gradient_reach(rnn, holed, lambda ys: (ys * weights).sum(2), [7], T, None, [T, T, 7], mask=mask)
    kept = [t for t in range(8) if mask[0, t]]
    alone = td.gradient_reach(rnn, xs[:1, kept], lambda ys: (ys * weights[:1, kept]).sum(2), [5], lags=6)
    expected = torch.zeros(T, dtype=torch.float64)
    expected[[7 - t for t in reversed(kept)]] = torch.from_numpy(alone.states)
    assert_close(torch.from_numpy(reach.states), expected)
    plain = td.gradient_reach(rnn, xs, steps=[7], mask=torch.ones_like(mask))
    assert_close(torch.from_numpy(plain.states), torch.from_numpy(td.gradient_reach(rnn, xs, steps=[7]).states))


def test_the_horizon_is_a_cliff():
    cell, xs = td.LSTMCell(3, 8).double(), torch.randn(2, 60, 3, dtype=torch.float64)
    full = td.gradient_reach(td.Recurrent(cell, engine="interpreter"), xs)
    cut = td.gradient_reach(td.Recurrent(cell, engine="interpreter", gradient=td.TruncatedBPTT(5, 15)), xs)
    exact = td.gradient_reach(td.Recurrent(cell, engine="interpreter", gradient=td.CheckpointedBPTT(5000)), xs)
    assert full.states[:30].all()
    assert cut.states[:15].all()
    assert not cut.states[15:].any()
    # Ratios, because what is left of a gradient after many steps is small beside the norm of all. The first of a block
    # has horizon - steps steps behind it.
    assert_close(torch.from_numpy(cut.states / full.states)[:11], torch.ones(11, dtype=torch.float64))
    assert_close(torch.from_numpy(exact.states / full.states), torch.ones(len(full.states), dtype=torch.float64))
    assert cut.horizon(0) == 14
    assert full.horizon(0) > 14
    assert cut.method == "TruncatedBPTT(steps=5, horizon=15)"


def test_nothing_is_left_behind():
    rnn = build("zoneout-lstm", engine="interpreter").train()
    xs = sequence(rnn, 2, T).requires_grad_()
    generator = torch.get_rng_state()
    td.gradient_reach(rnn, xs)
    assert torch.equal(torch.get_rng_state(), generator)
    assert xs.grad is None
    assert all(p.grad is None for p in rnn.parameters())
    assert rnn.training


def test_drop_ins_and_time_first():
    rnn = td.LSTM(3, 4).double()
    xs = torch.randn(T, 2, 3, dtype=torch.float64)
    first = td.gradient_reach(rnn, xs, lambda ys: ys.sum(2))
    second = td.gradient_reach(td.Recurrent(rnn.recurrent().cell), xs.transpose(0, 1), lambda ys: ys.sum(2))
    assert_close(torch.from_numpy(first.states), torch.from_numpy(second.states))


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot(tmp_path, suffix):
    rnn = td.Recurrent(td.GRUCell(3, 4), engine="interpreter", gradient=td.TruncatedBPTT(3))
    path = td.gradient_reach(rnn, torch.randn(2, T, 3)).plot(tmp_path / f"reach.{suffix}")
    assert path.stat().st_size > 1000
    if suffix == "svg":
        text = "".join(ET.parse(path).getroot().itertext())
        assert "TruncatedBPTT(steps=3, horizon=3), state" in text
        assert "steps back, k" in text
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        td.gradient_reach(rnn, torch.randn(2, T, 3)).plot(tmp_path / "reach.gif")


@pytest.mark.slow
def test_matplotlib_is_loaded_when_it_is_needed():
    code = "import sys, treadle; sys.exit('matplotlib' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code]).returncode


def test_what_is_refused():
    rnn = build("gru", engine="interpreter")
    xs = sequence(rnn, 2, 4)
    with pytest.raises(ValueError, match="steps are numbers from 0 to 3, but 4 was passed"):
        td.gradient_reach(rnn, xs, steps=[0, 4])
    with pytest.raises(ValueError, match="none was passed"):
        td.gradient_reach(rnn, xs, steps=[])
    with pytest.raises(ValueError, match="lags is a positive whole number, but is 0"):
        td.gradient_reach(rnn, xs, lags=0)
    with pytest.raises(td.errors.ShapeError, match=r"\[2, 4\], but gave \[\]: use reduction='none'"):
        td.gradient_reach(rnn, xs, torch.sum)
    with pytest.raises(td.errors.ShapeError, match="2 rows of 0 steps"):
        td.gradient_reach(rnn, xs[:, :0])
