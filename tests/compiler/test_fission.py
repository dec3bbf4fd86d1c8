"""A step taken apart: which loops there are, what is outside of them, and that the parts make up the whole."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence, stack
from treadle.compiler import program as p
from treadle.compiler.fission import plan
from treadle.compiler.program import BATCH, Program, show
from treadle.engines.network import network_of

F32 = torch.float32


def plan_of(cell, size=3, keep_states=False):
    network = network_of(cell, torch.zeros(2, size), cell.initial_state(2))
    return network.plan(keep_states)


def loops(made):
    return [tuple(name.removeprefix("state/") for name in s.states) for s in made.sections if s.kind == "loop"]


def shifts(made):
    return [name.removeprefix("state/") for s in made.sections if s.kind == "shift" for name in s.states]


def products(section):
    return [v for v in section.values() if v.op == "dot"]


# The loops of wirings


def test_a_stack_is_a_loop_a_layer():
    for wiring in ("stack", "skip", "residual", "dense", "lateral"):
        made = plan_of(stack(wiring))
        assert loops(made) == [(f"layer{i}/h", f"layer{i}/c") for i in range(3)]


def test_a_delayed_read_of_a_lower_layer_is_a_shift():
    made = plan_of(stack("lateral"))
    assert shifts(made) == ["layer0.delayed/0", "layer1.delayed/0"]


def test_longer_delays_are_shifts_of_shifts():
    g = td.Graph(3)
    low = g.add("low", td.GRUCell(6, 4), reads=[g.x, g.x.delayed(2)])
    made = plan_of(g.outputs(g.add("high", td.GRUCell(4, 4), reads=low.delayed(3))))
    assert loops(made) == [("low/h",), ("high/h",)]
    assert sorted(shifts(made)) == [*(f"low.delayed/{i}" for i in range(3)), "x.delayed/0", "x.delayed/1"]


def test_feedback_ties_layers_into_one_loop():
    made = plan_of(stack("feedback"))
    (loop,) = loops(made)
    assert set(loop) >= {f"layer{i}/{part}" for i in range(3) for part in "hc"}


def test_feedback_over_two_of_three_layers_leaves_the_third():
    g = td.Graph(3)
    middle = g.later("middle", 4)
    low = g.add("low", td.GRUCell(7, 4), reads=[g.x, middle.delayed()])
    middle = g.add("middle", td.GRUCell(4, 4), reads=low)
    made = plan_of(g.outputs(g.add("high", td.GRUCell(4, 4), reads=middle)))
    first, second = loops(made)
    assert set(first) == {"low/h", "middle/h", "middle.delayed/0"}
    assert second == ("high/h",)


def test_under_relay_a_layer_is_its_cell_state_alone():
    """Its previous hidden state is that of the layer below, which is known for all steps when its own loop begins."""
    made = plan_of(stack("relay"))
    assert loops(made) == [("layer0/h", "layer0/c"), ("layer1/c",), ("layer2/c",)]
    for section in made.sections:
        if section.kind == "loop" and section.states == ("state/layer1/c",):
            assert not products(section)


def test_who_does_not_remember_is_no_loop():
    g = td.Graph(3)
    hidden = g.add("hidden", nn.Linear(6, 4), reads=[g.x, g.x.delayed()])
    made = plan_of(g.outputs(g.add("out", nn.Linear(8, 2), reads=[hidden, hidden.delayed()])))
    assert loops(made) == []


class Two(nn.Module):
    """A cell whose step is a function of the test."""

    input_size = 3

    def __init__(self, step):
        super().__init__()
        self.step, self.w, self.u = step, nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 4))

    def initial_state(self, batch_size):
        return {name: self.w.new_zeros(batch_size, 4) for name in "ab"}

    def forward(self, x, state):
        y, a, b = self.step(self, x, state["a"], state["b"])
        return y, {"a": a, "b": b}


@pytest.mark.parametrize(
    ("step", "expected_loops", "expected_shifts"),
    [
        (lambda m, x, a, b: (a, a.tanh(), b.tanh()), [("a",), ("b",)], []),
        (lambda m, x, a, b: (a, b.tanh(), a.tanh()), [("a", "b")], []),
        (lambda m, x, a, b: (a + b, (x @ m.w + a).tanh(), a), [("a",)], ["b"]),
        (lambda m, x, a, b: (a + b, x @ m.w, x @ m.w), [], ["a", "b"]),
        (lambda m, x, a, b: (b, (x @ m.w + b).tanh(), (a + b).tanh()), [("a", "b")], []),
        (lambda m, x, a, b: (a * b, a, b), [("a",), ("b",)], []),
        (lambda m, x, a, b: (b, b, a), [("a", "b")], []),
        (lambda m, x, a, b: (b, torch.ones_like(a), (a + b).tanh()), [("b",)], ["a"]),
    ],
)
def test_loops_are_strongly_connected_components(step, expected_loops, expected_shifts):
    made = plan_of(Two(step))
    assert sorted(loops(made)) == expected_loops
    assert sorted(shifts(made)) == expected_shifts


def test_loops_come_after_what_they_read():
    made = plan_of(Two(lambda m, x, a, b: (a, (a + b).tanh(), (x @ m.w + b).tanh())))
    assert loops(made) == [("b",), ("a",)]


# Hoisting and sinking


def kinds(made):
    return [section.kind for section in made.sections]


def test_the_product_with_the_input_is_hoisted_and_biases_are_added_once():
    made = plan_of(td.LSTMCell(3, 4))
    assert kinds(made) == ["invariant", "parallel", "loop"]
    once, before, loop = made.sections
    assert [v.op for v in once.values() if v.op == "add"] == ["add"]
    assert len(products(before)) == len(products(loop)) == 1
    (product,) = products(loop)
    assert product.inputs[0] is made.program.inputs["state/h"]


def test_what_no_state_needs_is_sunk():
    made = plan_of(Two(lambda m, x, a, b: ((a @ m.u).tanh(), (x @ m.w + a).tanh(), b)))
    after = [s for s in made.sections if s.kind == "parallel"][-1]
    assert made.program.outputs["y"] in after.outputs
    assert len(products(after)) == 1
    assert made.sections.index(after) > [s.kind for s in made.sections].index("loop")
    assert made.program.inputs["state/a"] in made.sunk


def test_of_normalised_inputs_the_product_alone_is_hoisted():
    made = plan_of(td.LayerNormLSTMCell(3, 4))
    (before,) = [s for s in made.sections if s.kind == "parallel"]
    assert [v.op for v in before.outputs] == ["dot"]
    assert all(v.op == "dot" or v.op in p.VIEWS for v in before.values())


def test_what_several_loops_read_of_a_product_is_computed_before_them():
    made = plan_of(Two(lambda m, x, a, b: (a @ m.u, (a @ m.u + (x @ m.w).exp()).tanh(), (b + (x @ m.w).exp()).tanh())))
    before = next(s for s in made.sections if s.kind == "parallel")
    assert [v.op for v in before.outputs] == ["exp"]


def test_what_is_smaller_than_its_product_is_computed_before_the_loop():
    made = plan_of(Two(lambda m, x, a, b: (a, (a @ m.u + (x @ m.w).square().sum(1, keepdim=True)).tanh(), b)))
    before = next(s for s in made.sections if s.kind == "parallel")
    assert [v.op for v in before.outputs] == ["sum"]


def test_masks_are_drawn_outside():
    rnn = td.Recurrent(td.ZoneoutLSTMCell(3, 4, zoneout_hidden=0.2)).train()
    made = plan_of(rnn.cell)
    assert made.random
    assert not any(v.op == "opaque" for s in made.sections if s.kind == "loop" for v in s.values())
    assert not plan_of(rnn.cell.eval()).random


def test_opaque_operations_have_sections_of_their_own():
    made = plan_of(Two(lambda m, x, a, b: ((a.cumsum(1) + 1).tanh(), (x.flip(1) @ m.w + a).tanh(), b)))
    for section in made.sections:
        opaque = {v.op == "opaque" for v in section.values() if v.has_rows}
        assert len(opaque) <= 1, section
        assert (True in opaque) == (section.kind == "opaque")
    assert kinds(made).count("opaque") == 2


# Regrouping


def x(name="x", width=3):
    return p.placeholder(name, (BATCH, width), F32)


def w(name, rows=3, columns=4):
    return p.placeholder(f"parameter/{name}", (rows, columns), F32)


def step_of(y, **states):
    inputs = {v.name: v for root in (y, *states.values()) for v in p.ordered([root]) if v.op == "input"}
    inputs = {"x": x()} | inputs | {f"state/{n}": x(f"state/{n}", v.shape[1]) for n, v in states.items()}
    return Program(inputs, {"y": y} | {f"state/{n}": v for n, v in states.items()})


def test_sums_are_regrouped_so_that_what_is_known_comes_first():
    h, bias = x("state/h", 4), p.placeholder("parameter/b", (4,), F32)
    recurrent = p.elementwise("add", p.dot(h, w("u", 4)), bias)
    total = p.elementwise("add", p.dot(x(), w("w")), recurrent)
    new = p.elementwise("tanh", total)
    made = plan(step_of(new, h=new))
    loop = next(s for s in made.sections if s.kind == "loop")
    assert [v.op for v in loop.values()] == ["dot", "add", "tanh"]
    before = next(s for s in made.sections if s.kind == "parallel")
    assert sorted(v.op for v in before.values()) == ["add", "dot"]


def test_a_sum_that_is_read_elsewhere_stays():
    h = x("state/h", 4)
    partial = p.elementwise("add", p.dot(h, w("u", 4)), p.dot(x(), w("w")))
    total = p.elementwise("add", partial, p.dot(x(), w("v")))
    new = p.elementwise("tanh", total)
    y = p.elementwise("sin", partial)
    made = plan(step_of(y, h=new))
    assert sum(v.op == "dot" for s in made.sections for v in s.values()) == 3


def test_a_product_of_a_concatenation_is_split_by_when_its_parts_are_known():
    h = x("state/h", 4)
    new = p.elementwise("tanh", p.dot(p.cat([x(), h], 1), w("w", 7)))
    made = plan(step_of(new, h=new))
    loop = next(s for s in made.sections if s.kind == "loop")
    (product,) = products(loop)
    assert product.inputs[0] is h
    assert product.inputs[1].shape == (4, 4)
    before = next(s for s in made.sections if s.kind == "parallel")
    assert [v.inputs[1].shape for v in products(before)] == [(3, 4)]


def test_a_product_of_a_concatenation_of_equals_is_one():
    a, b = x("state/a", 4), x("state/b", 4)
    both = p.dot(p.cat([a, b], 1), w("w", 8))
    made = plan(step_of(both, a=p.elementwise("tanh", both), b=p.elementwise("sin", both)))
    (loop,) = (s for s in made.sections if s.kind == "loop")
    assert len(products(loop)) == 1


# Whatever the step


@pytest.mark.share(25)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("keep_states", [False, True])
def test_sections_are_a_partition_in_an_order_that_works(subject, keep_states):
    rnn = build(subject, torch.float32)
    network = network_of(rnn.cell, sequence(rnn, 2, 1, torch.float32)[:, 0], random_state(rnn, 2, torch.float32))
    made = network.plan(keep_states)
    program = made.program
    known = {v for name, v in program.inputs.items() if not name.startswith("state/")} | set(made.random)
    computed = set()
    states = []
    for section in made.sections:
        available = known | {v for v in section.values() if v.op in p.VIEWS}
        if section.kind == "shift":
            assert set(section.new) <= known
            known |= set(section.old)
        else:
            assert set(section.inputs) <= available
            mine = set(section.values())
            twice = {v for v in mine & computed if v.op not in p.VIEWS and v.op != "full"}
            assert not twice
            computed |= mine
            known |= set(section.outputs) | (made.sunk & set(section.old))
        states += section.states
    assert sorted(states) == sorted(name for name in program.inputs if name.startswith("state/"))
    assert program.outputs["y"] in known
    if keep_states:
        assert {program.outputs[name] for name in states} <= known
    everything = {v for v in p.between(program.inputs.values(), program.outputs.values()) if v.has_rows}
    missing = {v for v in everything - computed - set(made.random) if v.op not in p.VIEWS}
    assert not missing


def test_plans_are_the_same_whenever_they_are_made():
    for subject in ("stack-dense", "graph-nested"):
        programs = [
            show(network_of(b.cell, sequence(b, 2, 1)[:, 0], random_state(b, 2)).plan(False).program)
            for b in (build(subject), build(subject))
        ]
        assert programs[0] == programs[1]


def test_layers_that_are_alike_are_the_same_section():
    made = plan_of(td.Stack([td.LSTMCell(4, 4) for _ in range(4)]), 4)
    local = {tuple(v for v in s.local().new) for s in made.sections if s.kind == "loop"}
    assert len(local) == 1


class ViewsReadLater(torch.nn.Module):
    """A component whose parts its own loop reads, and what comes after the loop, too."""

    def __init__(self):
        super().__init__()
        self.scale, self.input_size = torch.nn.Parameter(torch.tensor(0.7)), 3

    def initial_state(self, rows):
        return {"a": self.scale.new_ones(rows, 8), "b": self.scale.new_ones(rows, 3)}

    def forward(self, x, state):
        part = state["b"][:, 2:3].expand(-1, 8)
        after = torch.tanh(self.scale * part[:, 5:8] + x)
        return torch.cat([part[:, 5:8], x], 1), {"a": torch.tanh(part), "b": after}


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("engine", ["interpreter", "cpu"])
def test_a_view_within_a_loop_is_read_after_it(engine, every):
    cell, xs = ViewsReadLater(), torch.randn(2, 6, 3)
    found = td.Recurrent(cell, engine=engine)(xs, return_states=every)
    expected = td.Recurrent(cell, engine="reference")(xs, return_states=every)
    torch.testing.assert_close(found, expected)
