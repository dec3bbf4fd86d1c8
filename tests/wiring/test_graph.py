"""Any wiring: what nodes read, what the state holds, and what is refused with which words."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import build, random_state, sequence, stack
from tests.tolerances import assert_close
from treadle.errors import ShapeError

FLOAT64 = {"dtype": torch.float64}


# Meaning: graphs against the same thing written as a loop over the cells


def by_hand(subject, step, state=None):
    """The outputs of a registered graph over a sequence, and of ``step(nodes, t, memory)`` in a loop."""
    rnn = build(subject)
    xs, state = sequence(rnn), random_state(rnn)
    ys, end = rnn(xs, state)
    memory = {
        name: list(part) if isinstance(part, tuple) and not hasattr(part, "_fields") else part
        for name, part in state.items()
    }
    outputs = torch.stack([step(rnn.cell, x, memory) for x in xs.unbind(1)], 1)
    assert_close(ys, outputs)
    for name, part in end.items():
        for tensor, expected in zip(part, memory[name], strict=True):
            assert_close(tensor, expected, what=name)


def cat(*parts):
    return torch.cat(parts, 1)


def test_delays_count_steps():
    def step(g, x, memory):
        low, memory["low"] = g.low(cat(x, memory["x.delayed"][1]), memory["low"])
        one, two, three = memory["low.delayed"]
        high, memory["high"] = g.high(cat(low, three, one), memory["high"])
        memory["x.delayed"] = [x, memory["x.delayed"][0]]
        memory["low.delayed"] = [low, one, two]
        return cat(high, two)

    by_hand("graph-delays", step)


def test_sums():
    def step(g, x, memory):
        low, memory["low"] = g.low(x, memory["low"])
        high, memory["high"] = g.high(cat(low + x, memory["low.delayed"][0] + x + low), memory["high"])
        memory["low.delayed"] = [low]
        return high + low + low

    by_hand("graph-sums", step)


def test_memoryless_nodes():
    def step(g, x, memory):
        wide = g.wide(x)
        low, memory["low"] = g.low(cat(g.bent(wide), memory["wide.delayed"][0]), memory["low"])
        memory["wide.delayed"] = [wide]
        return g.scores(g.normed(low))

    by_hand("graph-memoryless-nodes", step)


def test_feedback_from_above():
    def step(g, x, memory):
        one, two = memory["top.delayed"]
        low, memory["low"] = g.low(cat(x, two), memory["low"])
        middle, memory["middle"] = g.middle(cat(low, one), memory["middle"])
        top = g.top(middle)
        memory["top.delayed"] = [top, one]
        return cat(top, low)

    by_hand("graph-feedback-from-above", step)


def test_a_node_that_reads_itself():
    def step(g, x, memory):
        one, two, three = memory["low.delayed"]
        low, memory["low"] = g.low(cat(x, one, three), memory["low"])
        memory["low.delayed"] = [low, one, two]
        return low

    by_hand("graph-self-delayed", step)


def test_one_cell_in_two_places_has_two_states():
    def step(g, x, memory):
        low, memory["low"] = g.low(x, memory["low"])
        high, memory["high"] = g.low(low, memory["high"])
        return high

    by_hand("graph-shared-cell", step)


def test_states_handed_over_and_read():
    def step(g, x, memory):
        _, memory["low"] = g.low(x, memory["low"])
        middle, memory["middle"] = g.middle(x, memory["low"])
        previous = td.LSTMState(memory["low.delayed"][1], memory["middle"].c)
        high, memory["high"] = g.high(cat(memory["low"].c, middle), previous)
        memory["low.delayed"] = [memory["low"].h, memory["low.delayed"][0]]
        return cat(high, memory["middle"].c)

    by_hand("graph-handed-over", step)


def test_tokens():
    def step(g, x, memory):
        low, memory["low"] = g.low(
            cat(g.embedded(x), g.before(memory["x.delayed"][0]), memory["low.delayed"][1]), memory["low"]
        )
        memory["low.delayed"] = [low, memory["low.delayed"][0]]
        memory["x.delayed"] = [x]
        return g.scores(low)

    by_hand("graph-tokens", step)


def test_images_side_by_side_along_their_channels():
    def step(g, x, memory):
        before = memory["low.delayed"][0]
        low, memory["low"] = g.low(cat(x, memory["x.delayed"][0]), memory["low"])
        high, memory["high"] = g.high(cat(low, x), memory["high"])
        memory["x.delayed"], memory["low.delayed"] = [x], [low]
        return cat(high, before)

    by_hand("graph-images", step)


def test_a_wiring_in_a_wiring():
    rnn = build("graph-nested")
    g, xs, state = rnn.cell, sequence(rnn), random_state(rnn)
    ys, end = rnn(xs, state)
    low, inner, late, outputs = state["low"], state["inner"], state["inner.delayed"][0], []
    for x in xs.unbind(1):
        y, low = g.low(cat(x, late), low)
        late, inner = g.inner(cat(y, x), inner)
        outputs.append(late)
    assert_close(ys, torch.stack(outputs, 1))
    assert_close(end["inner"]["layer0.delayed"][0], inner["layer0.delayed"][0])
    assert_close(end["inner.delayed"][0], late)


def test_a_graph_by_hand_is_the_named_wiring():
    network = stack("lateral", td.GRUCell, 3, (5, 4)).double()
    g = td.Graph(3)
    low = g.add("layer0", network.cells[0], reads=g.x)
    g = g.outputs(g.add("layer1", network.cells[1], reads=[low, low.delayed()]))
    xs = torch.randn(2, 5, 3, **FLOAT64)
    assert torch.equal(td.Recurrent(g)(xs)[0], td.Recurrent(network)(xs)[0])


def test_before_there_was_an_output_it_is_zero():
    g = td.Graph(2)
    rnn = td.Recurrent(g.outputs(g.x.delayed(2)))
    ys, state = rnn(torch.tensor([[[1.0, 10], [2, 20], [3, 30]]]))
    assert ys[0].tolist() == [[0, 0], [0, 0], [1, 10]]
    assert [part[0].tolist() for part in state["x.delayed"]] == [[3, 30], [2, 20]]


def test_a_graph_without_any_size():
    g = td.Graph(None)
    low = g.add("low", td.GRUCell(3, 4), reads=g.x)
    g = g.outputs(g.add("high", td.GRUCell(7, 4), reads=[low, g.x]))
    assert g.input_size is None
    assert g.output_size == 4
    assert td.Recurrent(g)(torch.zeros(2, 5, 3))[0].shape == (2, 5, 4)
    with pytest.raises(ShapeError, match=r"GRUCell takes one step of \[B, 3\]"):
        td.Recurrent(g)(torch.zeros(2, 5, 2))


def test_print_says_who_reads_what():
    text = repr(build("graph-handed-over").cell)
    assert "low reads x\n" in text
    assert "middle reads x, h from low.h, c from low.c" in text
    assert "high reads low.c, middle, c from middle.c, h from low(t-2)" in text
    assert "gives high, middle.c" in text
    assert "gives (high + (low + low))" in repr(build("graph-sums").cell)


@pytest.mark.parametrize(
    "module", [nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Dropout(0.5)]
)
def test_finding_out_sizes_changes_nothing(module):
    buffers, generator = {n: b.clone() for n, b in module.named_buffers()}, torch.get_rng_state()
    g = td.Graph(3)
    assert g.add("node", module, reads=g.x).size == (3,)
    assert all(torch.equal(b, buffers[n]) for n, b in module.named_buffers())
    assert torch.equal(torch.get_rng_state(), generator)
    assert module.training


# Refusals


def graph(input_size=40):
    g = td.Graph(input_size)
    return g, g.add("low", td.LSTMCell(40, 64), reads=g.x)


def test_sizes_that_do_not_fit_are_refused_with_the_arithmetic():
    g, low = graph()

    def refused(words, name, module, reads, **options):
        with pytest.raises(ShapeError, match=words):
            g.add(name, module, reads, **options)

    refused(
        r"^layer 'high' reads low \(64\) \+ x \(40\) = 104 features, but its cell expects 64: pass LSTMCell\(104, 32\)",
        "high",
        td.LSTMCell(64, 32),
        [low, g.x],
    )
    refused(r"reads low \(64\) features, but it expects 60: pass Linear\(64, 10\)", "out", nn.Linear(60, 10), low)
    refused(
        r"low\(t-3\) \(64\) \+ low\.c \(64\) = 128 features",
        "high",
        td.GRUCell(64, 3),
        [low.delayed(3), low.state("c")],
    )
    refused(r"reads \(low \+ low\(t-1\)\) \(64\) features", "high", td.GRUCell(60, 3), td.sum_of(low, low.delayed()))
    refused(r"low \(64\) features, but its cell expects 3: pass a Stack that takes 64$", "high", stack("stack"), low)
    refused(r"low \(64\) features, but Conv1d cannot take them: ", "out", nn.Conv1d(3, 3, 3), low)
    refused(r"low \(64\) features, but LayerNorm cannot take them: .*\[7\]", "out", nn.LayerNorm(7), low)
    refused(
        "'low' is a LSTMCell, whose state has no field 'n': it has h, c",
        "n",
        td.GRUCell(64, 3),
        low.state("n"),
    )
    assert list(g.connections) == ["low"]  # nothing of what was refused stays behind
    assert "high" not in dict(g.named_modules())


def test_images_and_tokens_that_do_not_fit():
    g = td.Graph((2, 3, 5))
    low = g.add("low", td.ConvLSTMCell(2, 4, (3, 5)), reads=g.x)
    with pytest.raises(ShapeError, match=r"low \(4x3x5\) \+ x \(2x3x5\) = 6x3x5 features, but its cell expects 4x3x5"):
        g.add("high", td.ConvLSTMCell(4, 4, (3, 5)), reads=[low, g.x])
    flat = g.add("flat", nn.Flatten(), reads=low)
    assert flat.size == (60,)
    with pytest.raises(ShapeError, match="put side by side only if all axes but the features agree"):
        g.add("high", td.GRUCell(90, 4), reads=[low, flat])
    tokens = td.Graph(())
    with pytest.raises(ShapeError, match=r"single token has no features.*Embedding"):
        tokens.add("low", td.GRUCell(2, 4), reads=[tokens.x, tokens.x.delayed()])
    with pytest.raises(ShapeError, match=r"reads x \(one number\), but its cell expects 2"):
        tokens.add("low", td.GRUCell(2, 4), reads=tokens.x)


def test_sums_that_do_not_fit():
    g, low = graph()
    with pytest.raises(
        ShapeError, match=r"equal sizes add up, but these are low \(64\) \+ x \(40\): put a Linear node"
    ):
        td.sum_of(low, g.x)
    for wrong in ((), (low, "x"), ([low, low],), (low, 3)):
        with pytest.raises(ShapeError, match="one or more nodes, delayed nodes or sums, but was given"):
            td.sum_of(*wrong)


@pytest.mark.parametrize("k", [0, -1, 1.5, "1", None])
def test_delays_that_are_no_number_of_steps(k):
    _, low = graph()
    with pytest.raises(ShapeError, match="low can be read 1 or more steps late, but k="):
        low.delayed(k)


def test_a_delay_of_unknown_size():
    g = td.Graph(None)
    with pytest.raises(ShapeError, match="x is read 1 steps late, so its size must be known before the first step"):
        g.x.delayed()


def test_reads_of_what_is_not_there():
    g, low = graph()
    other = td.Graph(40)
    stranger = other.add("stranger", td.GRUCell(40, 64), reads=other.x)
    same_name = td.Graph(30).add("low", td.GRUCell(30, 30), reads=td.Graph(30).x)
    for read in (stranger, stranger.delayed(), stranger.state("h"), same_name, td.sum_of(low, stranger)):
        with pytest.raises(ValueError, match="which is not a node of this graph: add it first, to this graph"):
            g.add("high", td.GRUCell(64, 3), reads=read)
        with pytest.raises(ValueError, match="which is not a node of this graph"):
            g.outputs(read)
    with pytest.raises(ValueError, match="'high' reads nothing"):
        g.add("high", td.GRUCell(64, 3), reads=[])
    with pytest.raises(ValueError, match="'the outputs' reads nothing"):
        g.outputs()
    for wrong in ("low", None, td.GRUCell(3, 3), [low, "x"]):
        with pytest.raises(TypeError, match="'high' can read nodes, delayed nodes, states and sums, but not"):
            g.add("high", td.GRUCell(64, 3), reads=wrong)


def test_reads_of_what_comes_later():
    g, _ = graph()
    top = g.later("top", 3)
    for read in (top, td.sum_of(top, top)):
        with pytest.raises(
            ValueError, match=r"of this step, but that node comes later: read it with \.delayed\(\), or add it first"
        ):
            g.add("high", td.GRUCell(3, 3), reads=read)
    with pytest.raises(ValueError, match="comes later"):
        g.add("top", td.GRUCell(3, 3), reads=top)
    with pytest.raises(ValueError, match="comes later"):
        g.add("high", td.GRUCell(3, 3), reads=top.state("h"))


def test_states_of_what_has_none():
    g, low = graph()
    scores = g.add("scores", nn.Linear(64, 5), reads=low)
    for node in (scores, g.x):
        with pytest.raises(ValueError, match="has no state"):
            g.add("high", td.GRUCell(5, 3), reads=node.state("h"))


def test_later_nodes_that_never_come_or_come_otherwise():
    g, low = graph()
    g.later("top", 3)
    assert g.later("top", 3) == g.later("top", (3,))
    with pytest.raises(ShapeError, match="'top' has 3 features, but is announced with 4"):
        g.later("top", 4)
    with pytest.raises(ValueError, match=r"'top' was announced with later\(\.\.\.\), but never added"):
        g.outputs(low)
    with pytest.raises(ShapeError, match="'top' was announced with 3 features, but gives 4"):
        g.add("top", td.GRUCell(64, 4), reads=low)
    g.add("top", td.GRUCell(64, 3), reads=low)
    g.outputs(low)
    for size in (0, -3, 2.5, (3, 0)):
        with pytest.raises(ShapeError, match="a size is a positive whole number or a tuple of them"):
            td.Graph(3).later("top", size)


def test_a_later_node_whose_real_size_shows_at_the_first_step():
    class Unsized(nn.Module):
        def initial_state(self, batch_size):
            return (torch.zeros(batch_size, 2),)

        def forward(self, x, state):
            return x[:, :2], state

    g = td.Graph(None)
    g.add("low", Unsized(), reads=g.x)
    top = g.later("top", 3)
    g = g.outputs(g.add("top", Unsized(), reads=[g.x, top.delayed()]))
    with pytest.raises(td.errors.StateError, match=r"state top\.delayed/0 as \[1, 3\], but returned \[1, 2\]"):
        td.Recurrent(g)(torch.zeros(1, 2, 4))


@pytest.mark.parametrize(
    "name", ["x", "add", "forward", "training", "connections", "state_dict", "outputs", "_modules"]
)
def test_names_that_graphs_need_themselves(name):
    g, low = graph()
    with pytest.raises(ValueError, match=f"a node cannot be called '{name}'"):
        g.add(name, td.GRUCell(64, 3), reads=low)
    with pytest.raises(ValueError, match=f"a node cannot be called '{name}'"):
        g.later(name, 3)


@pytest.mark.parametrize("name", ["", "a.b", "two words", "1st", "low/h", None, 3])
def test_names_that_are_no_words(name):
    g, low = graph()
    with pytest.raises(ValueError, match="letters, digits and underscores, but is"):
        g.add(name, td.GRUCell(64, 3), reads=low)


def test_names_that_are_taken():
    g, low = graph()
    with pytest.raises(ValueError, match="there is a node 'low' already: node names must differ"):
        g.add("low", td.GRUCell(64, 3), reads=low)


def test_what_is_no_node():
    g, low = graph()
    for wrong in (torch.tanh, "gru", td.GRUCell):
        with pytest.raises(TypeError, match=r"'high' must be a torch\.nn\.Module, but is a"):
            g.add("high", wrong, reads=low)
    for wrong in (nn.GRUCell(64, 3), nn.LSTMCell(64, 3), nn.RNNCell(64, 3), nn.LSTM(64, 3)):
        kind = type(wrong).__name__.removesuffix("Cell")
        with pytest.raises(
            TypeError, match=rf"forget its state at every step: pass a treadle cell, such as td\.{kind}Cell"
        ):
            g.add("high", wrong, reads=low)


def test_previous_states_that_do_not_fit():
    g, low = graph()

    def refused(words, module, previous):
        with pytest.raises(ShapeError, match=words):
            g.add("high", module, reads=low, previous=previous)

    wrong = r"'high' steps from low\.c \(64\) as its previous h, but its own h has 3: give both layers the same size"
    refused(wrong, td.GRUCell(64, 3), {"h": low.state("c")})
    refused(r"'high' is a GRUCell, whose state has no field 'c': it has h", td.GRUCell(64, 64), {"c": low.state("c")})
    refused(r"'low' is a LSTMCell, whose state has no field 'n'", td.GRUCell(64, 64), {"h": low.state("n")})
    refused(r"'high' has no memory, so there is no previous 'h'", nn.Linear(64, 64), {"h": low.state("h")})
    refused(r"'high' steps from low\(t-2\) \(64\)", td.GRUCell(64, 3), {"h": low.delayed(2)})
    refused("no field 'h': it has no named fields", stack("stack", td.GRUCell, 64), {"h": low.state("h")})


def test_incomplete_graphs():
    g, low = graph()
    with pytest.raises(ValueError, match=r"not complete: say what it gives with outputs\(node\)"):
        td.Recurrent(g)(torch.zeros(2, 5, 40))
    g.outputs(low)
    with pytest.raises(ValueError, match=r"'high' comes after outputs\(\.\.\.\): the graph is complete"):
        g.add("high", td.GRUCell(64, 3), reads=low)


def test_outputs_that_do_not_fit_beside_each_other():
    g = td.Graph((2, 3, 5))
    low = g.add("low", td.ConvLSTMCell(2, 4, (3, 5)), reads=g.x)
    flat = g.add("flat", nn.Flatten(), reads=low)
    with pytest.raises(
        ShapeError, match=r"the outputs read low \(4x3x5\) \+ flat \(60\): .*axes but the features agree"
    ):
        g.outputs(low, flat)


@pytest.mark.parametrize("size", [0, -3, 2.5, "3", (3, 0)])
def test_input_sizes_that_are_none(size):
    with pytest.raises(ShapeError, match="a size is a positive whole number or a tuple of them, but"):
        td.Graph(size)


def test_states_have_sizes_in_sums_too():
    g = td.Graph(4)
    low = g.add("low", td.GRUCell(4, 1), reads=g.x)
    with pytest.raises(ShapeError, match="only equal sizes add up"):
        g.add("high", td.GRUCell(4, 4), reads=td.sum_of(low.state("h"), g.x))


def test_one_float_a_row_cannot_be_read_late_as_a_token():
    g = td.Graph(())
    rnn = td.Recurrent(g.outputs(g.add("late", nn.Identity(), reads=g.x.delayed())))
    with pytest.raises(ShapeError, match=r"give floats as \[B, 1\]"):
        rnn(torch.tensor([[0.7, 1.9, 2.5]]))


def test_what_runs_over_time_is_no_node():
    with pytest.raises(TypeError, match=r"runs over time: a graph steps cells, pass its .cell"):
        td.Graph(3).add("low", td.Recurrent(td.GRUCell(3, 4)), reads=[])


def test_nodes_can_be_read_but_not_changed():
    g = td.Graph(3)
    top = g.later("top", 4)
    low = g.add("low", td.LSTMCell(7, 5), reads=[g.x, top.delayed()])
    assert g.nodes == {"x": g.x, "top": top, "low": low}
    assert g.output_reads == ()
    g.outputs(g.add("top", td.GRUCell(5, 4), reads=low))
    assert g.output_reads == (top,)
    with pytest.raises(TypeError):
        g.nodes["other"] = top  # pyright: ignore[reportIndexIssue]


def test_a_graph_rewired_with_nothing_is_the_same_graph():
    g = td.Graph(3)
    low = g.add("low", td.LSTMCell(7, 4), reads=[g.x, g.later("top", 4).delayed(2)])
    top = g.add("top", td.LSTMCell(7, 4), reads=[td.sum_of(low, low.delayed()), g.x], previous={"c": low.state("c")})
    g = g.outputs(top, low.state("h")).eval()
    same = g.rewired()
    assert same is not g
    assert td.Graph.extra_repr(same) == td.Graph.extra_repr(g)
    assert not same.training
    assert same.low is g.low
    x, state = torch.randn(2, 3), None
    for _ in range(3):
        y, after = g(x, state)
        other, state = same(x, state)
        assert torch.equal(y, other)
        assert torch.equal(after["top.delayed"][1], state["top.delayed"][1])


def test_a_node_that_comes_between_others_is_read_in_the_place_of_the_one_before():
    g = td.Graph(4)
    low = g.add("low", td.LSTMCell(8, 4), reads=[g.x, g.later("low", 4).delayed()])
    top = g.add("top", td.LSTMCell(4, 4), reads=low, previous={"h": low.state("h")})
    new = g.outputs(td.sum_of(top, low)).rewired({"between": nn.Tanh(), "top": td.LSTMCell(4, 4)}, {"low": "between"})
    assert td.Graph.extra_repr(new).splitlines() == [
        "low reads x, between(t-1)",
        "between reads low",
        "top reads between, h from low.h",
        "gives (top + between)",
    ]
    first = g.rewired({"between": nn.Tanh()}, {"x": "between"})
    assert td.Graph.extra_repr(first).splitlines()[:2] == ["between reads x", "low reads between, low(t-1)"]


def test_sizes_that_change_are_said_when_a_graph_is_rewired():
    g = td.Graph(3)
    low = g.add("low", td.GRUCell(7, 4), reads=[g.x, g.later("top", 4).delayed()])
    g.outputs(g.add("top", td.GRUCell(4, 4), reads=low))
    wider = {"low": td.GRUCell(11, 4), "top": td.GRUCell(4, 6)}
    new = g.rewired(wider, sizes={"x": (5,), "top": (6,)})
    assert new.input_size == 5
    assert new.output_size == 6
    assert new(torch.randn(2, 5))[0].shape == (2, 6)
    with pytest.raises(ShapeError, match="low"):
        g.rewired(wider)
