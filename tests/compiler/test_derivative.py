"""The derivative of a section: that of autograd, from as little as possible that is kept."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_close
from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.derivative import derive
from treadle.compiler.program import BATCH
from treadle.engines.network import network_of

ROWS = 3


def sections_of(subject):
    rnn = build(subject)
    network = network_of(rnn.cell, sequence(rnn, 2, 1)[:, 0], random_state(rnn, 2))
    sections = [s.local() for s in network.plan(True).sections if s.kind in ("parallel", "loop")]
    return [s for s in sections if not any(v.op == "opaque" for v in s.values())]  # those run in PyTorch


def tensor_for(value):
    shape = [ROWS if dim is BATCH else dim for dim in value.shape]
    if value.dtype == torch.bool:
        return torch.rand(shape) < 0.5
    if not value.dtype.is_floating_point:
        return torch.randint(3, shape)
    return torch.randn(shape, dtype=value.dtype).abs() + 0.3  # positive: some are normalisers


@pytest.mark.share(14)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_it_is_the_derivative_of_autograd(subject):
    for section in sections_of(subject):
        wanted = tuple(v for v in section.inputs if v.dtype.is_floating_point)
        d = derive(section, wanted)
        given = {v: tensor_for(v) for v in (*section.inputs, *section.old)}
        leaves = {v: t.clone().requires_grad_(t.is_floating_point()) for v, t in given.items()}
        known = dict(leaves)
        interpreter.evaluate((*section.outputs, *section.new), known, ROWS)
        cotangents = (*d.output_cotangents, *d.state_cotangents)
        from_above = {
            c: torch.randn(known[v].shape, dtype=c.dtype)
            for c, v in zip(cotangents, (*section.outputs, *section.new), strict=True)
            if c.dtype.is_floating_point
        }
        pairs = [
            (known[v], from_above[c])
            for c, v in zip(cotangents, (*section.outputs, *section.new), strict=True)
            if known[v].requires_grad
        ]
        sources = [leaves[v] for v in (*wanted, *section.old) if leaves[v].requires_grad]
        expected = (
            torch.autograd.grad(
                [a for a, _ in pairs], sources, [c for _, c in pairs], allow_unused=True, materialize_grads=True
            )
            if pairs
            else []
        )
        gradients = [
            g
            for g, v in zip((*d.gradients, *d.state_gradients), (*wanted, *section.old), strict=True)
            if leaves[v].requires_grad
        ]
        evaluated = given | from_above
        interpreter.evaluate([g for g in gradients if g is not None], evaluated, ROWS)
        for value, reference in zip(gradients, expected, strict=True):
            if value is None:
                assert not reference.any()
            else:
                assert_close(evaluated[value].expand(reference.shape), reference)


@pytest.mark.share(14)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_is_kept_suffices_and_no_product_is_done_again(subject):
    for section in sections_of(subject):
        wanted = tuple(v for v in section.inputs if v.dtype.is_floating_point)
        d = derive(section, wanted)
        given = {
            *section.inputs,
            *section.old,
            *section.new,
            *section.outputs,
            *d.saved,
            *d.output_cotangents,
            *d.state_cotangents,
        }
        everything = [g for g in (*d.gradients, *d.state_gradients) if g is not None]
        forward = set(section.values())
        again = [v for v in p.between(given, everything) if v in forward and v.has_rows]
        assert not [v for v in again if v.op in ("dot", "opaque")]
        above = {*d.output_cotangents, *d.state_cotangents}
        assert not above & set(p.ordered(d.saved))
        assert not set(d.saved) & {*section.inputs, *section.old, *section.new, *section.outputs}


def saved(cell, size, keep_states=False):
    """Numbers kept for each row and step, beside inputs, outputs and states, by loop."""
    network = network_of(cell, torch.zeros(2, size), cell.initial_state(2))
    result = []
    for section in network.plan(keep_states).sections:
        if section.kind == "loop":
            local = section.local()
            result.append(sum(v.row_numel for v in derive(local, local.inputs).saved))
    return result


def test_an_lstm_keeps_its_gates_and_nothing_else():
    """The cell state is kept as such; to do its tanh again is cheaper than to keep H numbers more."""
    assert saved(td.LSTMCell(3, 8), 3) == [4 * 8]


def test_other_cells_keep_about_as_much():
    H = 8
    for cell, most in ((td.GRUCell, 4), (td.PeepholeLSTMCell, 4), (td.CoupledLSTMCell, 3), (td.MinimalGatedCell, 2)):
        assert saved(cell(3, H), 3)[0] <= most * H
    assert saved(td.LayerNormLSTMCell(3, H), 3)[0] <= 9 * H + 4


def test_what_follows_from_the_state_is_not_kept():
    """The slope of tanh is 1 - h²; of a ReLU, the compiler does not know that h > 0 says it all."""
    assert saved(td.RNNCell(3, 8), 3) == [0]
    assert saved(td.RNNCell(3, 8, nonlinearity="relu"), 3) == [8]


def test_stacks_keep_what_their_layers_keep():
    one = saved(td.LSTMCell(3, 8), 3)
    assert saved(td.Stack([td.LSTMCell(3, 8), td.LSTMCell(8, 8)]), 3) == one * 2


def test_a_chain_of_cheap_operations_is_not_kept():
    class Chain(nn.Module):
        input_size = 4

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def initial_state(self, batch_size):
            return (self.w.new_zeros(batch_size, 4),)

        def forward(self, x, state):
            a = state[0] @ self.w
            b = (a + x) * 2
            c = b * b - b
            h = (c * c + a).tanh()
            return h, (h,)

    assert saved(Chain(), 4) == [4]


def test_gradients_of_what_is_shared_are_sums_over_all_rows():
    cell = td.LSTMCell(3, 8)
    network = network_of(cell, torch.zeros(2, 3), cell.initial_state(2))
    loop = next(s for s in network.plan(False).sections if s.kind == "loop").local()
    d = derive(loop, loop.inputs)
    assert [c.op for c in d.contractions] == ["outer"]
    for gradient, value in zip(d.gradients, loop.inputs, strict=True):
        assert gradient is None or gradient.shape == value.shape


def test_only_what_is_wanted_is_derived():
    cell = td.LSTMCell(3, 8)
    network = network_of(cell, torch.zeros(2, 3), cell.initial_state(2))
    loop = next(s for s in network.plan(False).sections if s.kind == "loop").local()
    rows = tuple(v for v in loop.inputs if v.has_rows)
    d = derive(loop, rows)
    assert d.contractions == ()
    assert len(d.gradients) == len(rows)


def test_a_detached_part_gives_no_gradient():
    class Cut(nn.Module):
        input_size = 4

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def initial_state(self, batch_size):
            return (self.w.new_zeros(batch_size, 4),)

        def forward(self, x, state):
            h = ((state[0] @ self.w).detach() + x).tanh()
            return h, (h,)

    cell = Cut()
    network = network_of(cell, torch.zeros(2, 4), cell.initial_state(2))
    loop = next(s for s in network.plan(False).sections if s.kind == "loop").local()
    d = derive(loop, loop.inputs)
    assert [g is None for g in d.gradients] == [not v.has_rows for v in loop.inputs]
    assert all(p.constant_of(g) == 0 for g in d.state_gradients)
