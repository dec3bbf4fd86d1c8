"""Every intermediate value of every step, by the variable of the cell's own source."""

import linecache
import re
import types

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from treadle.compiler import program as p
from treadle.compiler.watch import Watch
from treadle.insight.record import trace_of
from treadle.insight.recorded_names import component, is_kept_output, named_values
from treadle.state import map_state, named_tensors

LENGTHS = [7, 0, 4]


def resets_of(B, T):
    return torch.rand(B, T, generator=torch.Generator().manual_seed(5)) < 0.3


def close(a, b):
    return torch.allclose(a.double(), b.double(), atol=1e-12, rtol=1e-10)


@pytest.mark.share(5)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_outputs_and_states_are_those_of_the_network(subject):
    rnn = build(subject)
    xs, state = sequence(rnn), random_state(rnn)
    options = {"lengths": LENGTHS, "resets": resets_of(3, 7)}
    ys, _, states = rnn(xs, state, **options, return_states=True)
    values = td.record(rnn, xs, state, **options)
    assert close(values["y"], ys)
    kept = {name: tensor for name, tensor in named_tensors(states) if not is_kept_output(name)}
    assert kept
    for name, tensor in kept.items():
        assert close(values[component(name)], tensor), name
        before = values[f"{component(name)}(t-1)"]
        resets = options["resets"].reshape(3, 7, *[1] * (tensor.ndim - 2))[:, 1:]
        fresh = dict(named_tensors(rnn.initial_state(3)))[name][:, None].expand_as(before[:, 1:])
        for row, length in enumerate(LENGTHS):
            end = max(0, length - 1)
            expected = torch.where(resets, fresh, tensor[:, :-1])[row, :end]
            assert close(before[row, 1 : 1 + end], expected), name


@pytest.mark.share(8)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_value_of_the_program_has_a_name_and_its_shape(subject):
    rnn = build(subject)
    call = rnn.call(sequence(rnn))
    watch = Watch(rnn.cell)
    program = trace_of(call, watch).program
    names = named_values(program, watch)
    found = {one.value for one in names.values()}
    computed = {value for value in program.values() if value.has_rows and value.op not in (*p.VIEWS, "input", "full")}
    assert computed <= found
    values = td.record(rnn, sequence(rnn))
    assert list(values) == list(names)
    for name, one in names.items():
        assert values[name].shape == (3, 7, *one.value.row_shape), name


@pytest.mark.share(16)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_line_that_is_named_assigns_the_variable(subject):
    rnn = build(subject)
    watch = Watch(rnn.cell)
    program = trace_of(rnn.call(sequence(rnn)), watch).program
    files = {code.co_filename for codes in watch.functions.values() for code in codes}
    checked = 0
    for name, one in named_values(program, watch).items():
        if one.rank is not None and "#" not in name:
            file, _, line = one.line.rpartition(":")
            text = linecache.getline(next(f for f in files if f.endswith(f"/{file}")), int(line))
            words = re.findall(r"\w+", name.removeprefix(f"{one.path}." if one.path else ""))
            assert set(words) & set(re.findall(r"\w+", text)), (name, text)
            checked += 1
    assert checked


def test_gates_are_those_of_the_equations():
    rnn = build("stack-relay")
    xs, state = sequence(rnn), random_state(rnn)
    values = {name: tensor.numpy() for name, tensor in td.record(rnn, xs, state).items()}
    parameters = {name: tensor.detach().numpy() for name, tensor in rnn.cell.named_parameters()}
    below = None
    for layer in ("layer0", "layer1", "layer2"):
        h, c = state[layer].h.numpy(), state[layer].c.numpy()
        for t in range(xs.shape[1]):
            h = h if below is None else below[:, t]
            w = {name: parameters[f"{layer}.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            gates = xs[:, t].numpy() @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"]
            i, f, g, o = np.split(gates, 4, 1)
            forget, input_gate, output_gate = (1 / (1 + np.exp(-gate)) for gate in (f, i, o))
            c = forget * c + input_gate * np.tanh(g)
            h = output_gate * np.tanh(c)
            expected = {
                "forget": forget,
                "input_gate": input_gate,
                "candidate": np.tanh(g),
                "c": c,
                "h": h,
                "gates": gates,
            }
            for name, array in expected.items():
                np.testing.assert_allclose(values[f"{layer}.{name}"][:, t], array, atol=1e-12, err_msg=name)
        below = values[f"{layer}.h"]


def test_a_single_cell_has_the_bare_names_of_its_source():
    values = td.record(td.LSTMCell(3, 5), torch.randn(2, 7, 3))
    assert {"forget", "c", "h", "x", "y", "c(t-1)"} <= set(values)
    assert values.line("forget").startswith("lstm.py:")
    assert values.line("x") == values.line("c(t-1)") == ""
    assert torch.equal(values["c"][:, :-1], values["c(t-1)"][:, 1:])


def mixed(x, h):
    total = x + h
    return total * 2


class Own(nn.Module):
    """All the ways in which a value can be kept for a moment."""

    input_size = 4

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 4)

    def squashed(self, value):
        bent = value.tanh()
        return bent + 1

    def forward(self, x, state):
        s = state
        for factor in (2.0, 3.0, 4.0):
            s = factor * s + x
        parts = (s.sin(), s.cos())
        kept = types.SimpleNamespace(first=parts[0] * 2)
        by_name = {"exp": s.exp()}
        both = mixed(s, self.squashed(x))
        sums = [part + 1 for part in parts]
        y = self.mix(both) + kept.first + by_name["exp"] + sums[0] + sums[1]
        y = y.relu()
        entropy = y.abs() + 1  # noqa: F841  nothing needs it
        return y * 2, y.tanh()


def test_names_follow_the_source():
    xs = torch.randn(2, 5, 4)
    values = td.record(Own(), xs)
    s = [values[name] for name in ("s#1", "s#2", "s")]
    for factor, before, after in zip((2, 3, 4), (values["state(t-1)"], *s), s, strict=False):
        assert torch.allclose(after, factor * before + xs)
    assert torch.allclose(values["parts[0]"], values["s"].sin())
    assert torch.allclose(values["kept.first"], 2 * values["s"].sin())
    assert torch.allclose(values["by_name['exp']"], values["s"].exp())
    assert torch.allclose(values["squashed.bent"], xs.tanh())
    assert torch.allclose(values["mixed.total"], values["s"] + xs.tanh() + 1)
    assert torch.allclose(values["both"], values["mixed.total"] * 2)
    assert torch.allclose(values["sums[1]"], values["s"].cos() + 1)
    # The network's y has the name; the variable's values have numbers.
    assert torch.equal(values["y#2"], values["y#1"].relu())
    assert torch.equal(values["y"], values["y#2"] * 2)
    assert torch.equal(values["entropy"], values["y#2"].abs() + 1)
    assert torch.equal(values["state"], values["y#2"].tanh())


@pytest.mark.share(2)
@pytest.mark.parametrize("subject", ["zoneout-lstm", "stack-with-dropout", "noisy-state", "graph-memoryless-nodes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_masks_are_those_of_a_forward_pass(subject, dtype):
    rnn = build(subject, dtype).train()
    xs, lengths = sequence(rnn, dtype=dtype), [7, 3, 5]
    torch.manual_seed(4)
    ys, _ = rnn(xs, lengths=lengths)
    torch.manual_seed(4)
    assert torch.allclose(td.record(rnn, xs, lengths=lengths)["y"], ys, atol=1e-5)
    assert not torch.allclose(td.record(rnn, xs, lengths=lengths)["y"], ys, atol=1e-5)


def test_time_is_where_the_network_has_it():
    rnn = build("stack-skip", batch_first=False)
    xs = sequence(rnn)
    values = td.record(rnn, xs.transpose(0, 1))
    assert values["layer1.forget"].shape == (7, 3, 3)
    assert torch.equal(values["y"].transpose(0, 1), td.record(build("stack-skip"), xs)["y"])


def test_a_shared_cell_is_two_layers():
    values = td.record(build("graph-shared-cell"), sequence(build("graph-shared-cell")))
    assert close(values["high.x"], values["low.h"])
    assert not close(values["high.forget"], values["low.forget"])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_drop_ins(bidirectional, batch_first):
    rnn = td.LSTM(3, 4, 2, bidirectional=bidirectional, batch_first=batch_first)
    xs, hx = torch.randn(6, 5, 3), torch.randn(2 * (1 + bidirectional), 6 if batch_first else 5, 4)
    rows = xs.shape[0 if batch_first else 1]
    lengths = [xs.shape[1 if batch_first else 0]] * (rows - 2) + [2, 3]
    ys, _, (hs, _) = rnn(xs, (hx, hx.cos()), lengths=lengths, return_states=True)
    values = td.record(rnn, xs, (hx, hx.cos()), lengths)
    assert torch.allclose(values["y"], ys, atol=1e-6)
    names = ["layer0.forward", "layer0.backward", "layer1.forward", "layer1.backward"]
    for name, h in zip(names if bidirectional else ["layer0", "layer1"], hs, strict=True):
        assert torch.allclose(values[f"{name}.h"], h, atol=1e-6)
        assert values[f"{name}.forget"].shape == h.shape
        assert values.line(f"{name}.forget").startswith("lstm.py:")


def test_both_directions():
    rnn = td.Bidirectional(build("stack-dense"), td.Bidirectional(build("gru"), build("lstm")))
    xs, options = sequence(build("gru")), {"lengths": LENGTHS, "resets": resets_of(3, 7)}
    ys, _, states = rnn(xs, **options, return_states=True)
    values = td.record(rnn, xs, **options)
    assert close(values["y"], ys)
    assert close(values["forward.layer1.c"], states["forward"]["layer1"].c)
    assert close(values["backward.backward.c"], states["backward"]["backward"].c)
    assert torch.equal(values["x"], values["forward.x"])


def test_a_record_in_chunks_is_the_whole_and_leaves_no_trace():
    rnn = build("stack-feedback")
    xs = sequence(rnn).requires_grad_()
    whole = td.record(rnn, xs)
    _, middle = rnn(xs[:, :4])
    parts = td.record(rnn, xs[:, :4]), td.record(rnn, xs[:, 4:], map_state(torch.Tensor.detach, middle))
    for name, tensor in whole.items():
        assert close(tensor, torch.cat([part[name] for part in parts], 1)), name
        assert not tensor.requires_grad


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 3)

    def forward(self, x, state):
        if x.sum() > 0:
            state = state + 1
        return self.linear(x), state


class Failing(nn.Module):
    def forward(self, x):
        raise ValueError


class Catching(nn.Module):
    """A step that tries one module, which fails, and takes another."""

    def __init__(self):
        super().__init__()
        self.wrong, self.right = Failing(), nn.Linear(3, 3)

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 3)

    def forward(self, x, state):
        try:
            y = self.wrong(x)
        except ValueError:
            y = self.right(x)
        after = state + y
        return y, after


def test_a_module_that_fails_is_left():
    values = td.record(Catching(), torch.randn(2, 3, 3))
    assert torch.equal(values["right.y"], values["y"])
    assert torch.equal(values["after"], values["state"])


def test_what_cannot_be_recorded_says_why():
    with pytest.raises(td.errors.TraceError, match=r"test_record.py:\d+.*torch.where.*return_states=True"):
        td.record(Branching(), torch.randn(2, 3, 3))
    with pytest.raises(td.errors.ShapeError, match="nothing to record"):
        td.record(td.GRUCell(3, 4), torch.randn(2, 0, 3))
    with pytest.raises(TypeError, match="but this is a Linear"):
        td.record(nn.Linear(3, 4), torch.randn(2, 5, 3))
    with pytest.raises(KeyError, match=r"did you mean 'forget'"):
        td.record(td.LSTMCell(3, 4), torch.randn(2, 5, 3))["forgot"]
    cell = td.GRUCell(3, 4)
    cell.register_forward_hook(lambda *_: None)
    with pytest.raises(td.errors.TraceError, match="hooks"):
        td.record(cell, torch.randn(2, 5, 3))


def test_a_debugger_goes_on_and_no_hook_is_left():
    import sys

    seen = []

    def debugger(frame, event, argument):
        seen.append(event)

    before = sys.gettrace()
    sys.settrace(debugger)
    try:
        td.record(td.GRUCell(3, 4), torch.randn(2, 5, 3))
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(before)
    cell = nn.Linear(3, 3)
    assert not nn.modules.module._global_forward_pre_hooks
    assert not nn.modules.module._global_forward_hooks
    cell(torch.randn(2, 3))
