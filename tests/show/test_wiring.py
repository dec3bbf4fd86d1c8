"""The picture of a wiring: what is in it, where it goes, and that it is legible. Geometry is tested, never pixels."""

import itertools
import subprocess
import sys
from collections import Counter
from functools import partial
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import treadle as td
from treadle.show import draw_wiring
from treadle.show.diagram import diagram_of
from treadle.show.diagram_layout import SMALL_POINTS, lay_out, over_time, rooms, text_width
from treadle.show.wiring import HAND_OVER, LATE, LATE_HAND_OVER, STATE, THIS_STEP, style_of
from treadle.wiring.named import layer_input_size

PNG = b"\x89PNG\r\n\x1a\n"


def stack(wiring, layers=3, input_size=8, hidden_size=16, cell=td.LSTMCell, **options):
    sizes = [layer_input_size(wiring, layer, input_size, [hidden_size] * layers) for layer in range(layers)]
    return td.Stack([cell(size, hidden_size) for size in sizes], wiring, **options)


def language_model(wiring="stack"):
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(256, 32), reads=g.x)
    layers = g.add("layers", stack(wiring, 2, 32, 64), reads=embedded)
    return g.outputs(g.add("scores", nn.Linear(64, 256), reads=layers))


def tangled():
    """Everything at once: sums, fields, hand-overs that pass by others, delays of two steps, several outputs."""
    g = td.Graph(10)
    top = g.later("top", 24)
    fast = g.add("fast", td.GRUCell(34, 24), reads=[g.x, top.delayed()])
    slow = g.add("slow", td.LSTMCell(10, 24), reads=g.x.delayed(2))
    mix = g.add("mix", nn.Linear(72, 24), reads=[fast, slow, slow.state("c")])
    read = td.sum_of(mix, fast, slow.delayed(2))
    top = g.add("top", td.LSTMCell(24, 24), reads=read, previous={"h": slow.state("h"), "c": slow.state("c")})
    return g.outputs(top, fast)


def nested_with_several_outputs():
    """A wiring that gives two things, read by name, late, and in a sum."""
    inner = td.Graph(6)
    one = inner.add("one", td.GRUCell(6, 4), reads=inner.x)
    two = inner.add("two", td.GRUCell(4, 4), reads=[one])
    inner.outputs(one, two.delayed())
    g = td.Graph(6)
    pair = g.add("pair", inner, reads=g.x)
    wide = g.add("wide", nn.Linear(16, 8), reads=[pair, pair.delayed(2)])
    return g.outputs(td.sum_of(pair, wide))


def late_hand_over():
    g = td.Graph(4)
    high = g.later("high", 4)
    low = g.add("low", td.LSTMCell(4, 4), reads=g.x, previous={"c": high.delayed()})
    high = g.add("high", td.LSTMCell(4, 4), reads=low, previous={"h": low.state("c")})
    return g.outputs(high)


def two_ways_up():
    """A layer that reads the one below and also steps from its state."""
    g = td.Graph(4)
    low = g.add("low", td.LSTMCell(4, 16), reads=g.x)
    handed = {"h": low.state("h"), "c": low.state("c")}
    return g.outputs(g.add("high", td.LSTMCell(16, 16), reads=low, previous=handed))


def self_delayed():
    g = td.Graph(4)
    low = g.later("low", 4)
    low = g.add("low", td.LSTMCell(12, 4), reads=[g.x, low.delayed(1), low.delayed(3)])
    return g.outputs(low)


class Counting(nn.Module):
    """A user's own cell: no sizes, a nameless state."""

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 1),)

    def forward(self, x, state):
        return x + state[0], (state[0] + 1,)


MODELS = {
    **{wiring: lambda wiring=wiring: stack(wiring) for wiring in td.WIRINGS},
    **{f"{wiring}-6": lambda wiring=wiring: stack(wiring, 6) for wiring in td.WIRINGS},
    **{f"{wiring}-1": lambda wiring=wiring: stack(wiring, 1) for wiring in td.WIRINGS},
    "many-fields": lambda: stack("relay", 2, cell=td.SLSTMCell),
    "large": lambda: stack("dense", 4, input_size=1024, hidden_size=2048, cell=partial(td.LSTMCell, device="meta")),
    "dropout": lambda: stack("lateral", 3, dropout=0.1),
    "language-model": language_model,
    "language-model-residual": lambda: language_model("residual"),
    "tangled": tangled,
    "nested-with-several-outputs": nested_with_several_outputs,
    "late-hand-over": late_hand_over,
    "two-ways-up": two_ways_up,
    "self-delayed": self_delayed,
    "one-cell": lambda: td.GRUCell(3, 5),
    "own-cell": Counting,
    "recurrent": lambda: td.Recurrent(stack("feedback")),
    "drop-in": lambda: td.LSTM(3, 5, 2, wiring="skip"),
}


def lines(model):
    """The edges of a diagram as text."""
    return {f"{e.source} > {e.target} {e.role} {e.label}" for e in diagram_of(model).edges}


# What there is to draw.


def test_stack_has_states_and_inputs():
    assert lines(stack("stack", 2)) == {
        "x(t) > layer0 input 8",
        "layer0 > layer0 state h, c",
        "layer0 > layer1 input 16",
        "layer1 > layer1 state h, c",
        "layer1 > y(t) input 16",
    }


def test_relay_hands_h_over_and_keeps_c():
    assert lines(stack("relay", 2)) == {
        "x(t) > layer0 input 8",
        "layer0 > layer0 state h, c",
        "x(t) > layer1 input 8",
        "layer0 > layer1 hand-over h · 16",
        "layer1 > layer1 state c",
        "layer1 > y(t) input 16",
    }


def test_relay_of_gru_leaves_upper_layers_no_state_of_their_own():
    states = {edge.source for edge in diagram_of(stack("relay", cell=td.GRUCell)).edges if edge.role == "state"}
    assert states == {"layer0"}


@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_layer_reads_as_many_features_as_its_edges_carry(wiring):
    for layer in range(4):
        reads = [e for e in diagram_of(stack(wiring, 4)).edges if e.target == f"layer{layer}" and e.role == "input"]
        assert sum(edge.size[0] for edge in reads) == layer_input_size(wiring, layer, 8, [16] * 4)


def test_feedback_and_lateral_come_one_step_late():
    assert "layer2 > layer0 input t−1 · 16" in lines(stack("feedback"))
    assert {"layer0 > layer1 input t−1 · 16", "layer1 > layer2 input t−1 · 16"} <= lines(stack("lateral"))


def test_residual_adds():
    diagram = diagram_of(stack("residual", 2))
    (plus,) = [box for box in diagram.boxes if box.kind == "junction"]
    assert plus.title == "⊕"
    assert {edge.source for edge in diagram.edges if edge.target == plus.name} == {"layer0", "layer1"}
    assert [edge.source for edge in diagram.edges if edge.target == "y(t)"] == [plus.name]


def test_wirings_inside_wirings_are_opened():
    diagram = diagram_of(language_model())
    names = [box.name for box in diagram.boxes]
    assert names == ["x(t)", "embedded", "layers.layer0", "layers.layer1", "scores", "y(t)"]
    assert [box.kind for box in diagram.boxes[1:-1]] == ["module", "cell", "cell", "module"]
    assert "x(t) > embedded input one number" in lines(language_model())


def test_delays_add_up_through_nested_wirings():
    assert lines(nested_with_several_outputs()) == {
        "x(t) > pair.one input 6",
        "pair.one > pair.one state h",
        "pair.one > pair.two input 4",
        "pair.two > pair.two state h",
        "pair.one > wide input 4",
        "pair.two > wide input t−1 · 4",
        "pair.one > wide input t−2 · 4",
        "pair.two > wide input t−3 · 4",
        "pair.one > ∥0 input 4",
        "pair.two > ∥0 input t−1 · 4",
        "∥0 > ⊕0 input 8",
        "wide > ⊕0 input 8",
        "⊕0 > y(t) input 8",
    }


def test_hand_over_that_changes_its_name_says_so():
    assert "low > high hand-over c → h · 4" in lines(late_hand_over())
    assert "high > low hand-over c · t−1 · 4" in lines(late_hand_over())


def test_own_cell_without_names_or_sizes():
    assert lines(Counting()) == {"x(t) > cell input ", "cell > cell state state", "cell > y(t) input "}


def test_styles_tell_roles_and_delays_apart():
    styles = {
        (edge.role, edge.delay > 0): style_of(edge) for make in MODELS.values() for edge in diagram_of(make()).edges
    }
    assert styles == {
        ("input", False): THIS_STEP,
        ("input", True): LATE,
        ("state", True): STATE,
        ("hand-over", False): HAND_OVER,
        ("hand-over", True): LATE_HAND_OVER,
    }
    assert all(bool(style.dashes) == (late and role != "state") for (role, late), style in styles.items())


# Where it goes.


@pytest.fixture(params=MODELS, scope="module")
def drawn(request):
    diagram = diagram_of(MODELS[request.param]())
    return diagram, *lay_out(diagram, 3)


def test_every_edge_is_drawn_once_with_its_label(drawn):
    diagram, folded, _ = drawn
    assert Counter(wire.edge for wire in folded.wires) == Counter(diagram.edges)
    for wire in folded.wires:
        assert (wire.label.text if wire.label else "") == wire.edge.label


def test_every_edge_is_drawn_at_every_step(drawn):
    diagram, _, unrolled = drawn
    for edge in diagram.edges:
        wires = [wire for wire in unrolled.wires if wire.edge == edge]
        assert [wire.start for wire in wires if wire.end is not None] == [
            column - edge.delay if column >= edge.delay else None for column in range(3)
        ]
        assert [wire.end for wire in wires if wire.end is not None] == [0, 1, 2]
        leaving = [wire.start for wire in wires if wire.end is None]
        assert leaving == list(range(3))[max(0, 3 - edge.delay) :]


def test_wires_begin_and_end_at_their_boxes(drawn):
    for panel in drawn[1:]:
        places = {(place.box.name, place.column): place for place in panel.places}
        for wire in panel.wires:
            if wire.start is not None:
                assert on_border(wire.points[0], places[wire.edge.source, wire.start])
            if wire.end is not None:
                assert on_border(wire.points[-1], places[wire.edge.target, wire.end])


def test_wires_run_straight_and_inside_the_panel(drawn):
    for panel in drawn[1:]:
        for x, y in itertools.chain.from_iterable(wire.points for wire in panel.wires):
            assert -1e-9 <= x <= panel.width + 1e-9
            assert y >= 0
        for (x0, y0), (x1, y1) in segments(panel):
            assert x0 == x1 or y0 == y1


def test_nothing_lies_on_anything(drawn):
    for panel in drawn[1:]:
        things = [place.extent for place in panel.places] + [wire.label.extent for wire in panel.wires if wire.label]
        for a, b in itertools.combinations(things, 2):
            assert not overlap(a, b), (a, b)
        for (x0, y0), (x1, y1) in segments(panel):
            line = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
            assert not any(overlap(line, thing) for thing in things)


def test_labels_stay_inside_the_panel(drawn):
    for panel in drawn[1:]:
        for wire in panel.wires:
            if wire.label:
                left, _, right, top = wire.label.extent
                assert left >= -0.05
                assert right <= panel.width + 0.25  # the white around the panels
                assert top <= panel.height + 0.1


def test_different_signals_never_share_a_way(drawn):
    """Wires may cross; where two run along each other, they carry the same."""
    for panel in drawn[1:]:
        ways = [
            (wire, tuple(sorted(pair)))
            for wire in panel.wires
            if wire.edge.role != "state"
            for pair in itertools.pairwise(wire.points)
        ]
        for (one, ((ax0, ay0), (ax1, ay1))), (two, ((bx0, by0), (bx1, by1))) in itertools.combinations(ways, 2):
            along_x = ay0 == ay1 == by0 == by1 and min(ax1, bx1) - max(ax0, bx0) > 0.02
            along_y = ax0 == ax1 == bx0 == bx1 and min(ay1, by1) - max(ay0, by0) > 0.02
            if along_x or along_y:
                assert (one.edge.source, one.edge.fields) == (two.edge.source, two.edge.fields)
                assert one.start == two.start


def test_rows_of_both_panels_stand_side_by_side(drawn):
    _, folded, unrolled = drawn
    heights = {place.box.name: (place.y, place.height) for place in folded.places}
    assert all(heights[place.box.name] == (place.y, place.height) for place in unrolled.places)


def test_rooms():
    assert rooms([("long", 0, 9), ("first", 0, 3), ("second", 3, 6)]) == {"first": 0, "second": 0, "long": 1}


def test_over_time_of_a_delay_longer_than_the_picture():
    diagram = diagram_of(self_delayed())
    (edge,) = [edge for edge in diagram.edges if edge.delay == 3]
    routes = [(start, end) for e, start, end in over_time(diagram, 2) if e == edge]
    assert routes == [(None, 0), (None, 1), (0, None), (1, None)]


def test_text_width_is_that_of_the_type():
    assert text_width("mm", SMALL_POINTS) == pytest.approx(2 * text_width("m", SMALL_POINTS), rel=0.1)
    assert text_width("m", 20) == pytest.approx(2 * text_width("m", 10))


# Files.


def test_svg_holds_the_names_as_text(tmp_path):
    path = draw_wiring(language_model("feedback"), tmp_path / "wiring.svg")
    texts = Counter(e.text for e in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text"))
    for name in ("embedded", "layers.layer0", "layers.layer1", "scores"):
        assert texts[name] == 4  # once folded, three times unrolled
    for text in ("Embedding", "LSTMCell", "Linear", "t−1 · 64", "256", "x(t−1)", "x(t+1)", "y(t+1)", "one number"):
        assert texts[text] >= 1, text
    assert texts[LATE.meaning] == 1
    assert texts[HAND_OVER.meaning] == 0  # the legend names what occurs


def test_same_model_gives_same_file(tmp_path):
    files = [draw_wiring(stack("relay"), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg")]
    assert files[0] == files[1]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps(tmp_path, steps):
    text = draw_wiring(stack("lateral", 2), tmp_path / "wiring.svg", steps=steps).read_text()
    assert text.count(">layer0<") == 1 + steps


def test_png(tmp_path):
    path = draw_wiring(td.GRUCell(2, 3), tmp_path / "wiring.PNG")
    assert path.read_bytes().startswith(PNG)


def test_drawing_changes_nothing(tmp_path):
    model = td.Recurrent(stack("dense", dropout=0.5))
    before, random = {name: p.clone() for name, p in model.named_parameters()}, torch.get_rng_state()
    draw_wiring(model, tmp_path / "wiring.svg")
    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", ["wiring", "wiring.pdf", "wiring.svg.gz"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.svg or \.png.*change its suffix"):
        draw_wiring(stack("stack"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="no folder"):
        draw_wiring(stack("stack"), tmp_path / "missing" / "wiring.svg")
    assert not list(tmp_path.iterdir())


def test_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "wiring.svg"
    path.write_text("old")

    def full_disk(figure, file, **options):
        file.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(OSError, match="no space left"):
        draw_wiring(stack("stack"), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "3"])
def test_steps_that_are_none(tmp_path, steps):
    with pytest.raises(ValueError, match="positive whole number"):
        draw_wiring(stack("stack"), tmp_path / "wiring.svg", steps=steps)


@pytest.mark.parametrize("model", [nn.Linear(2, 3), td.GRUCell, None])
def test_what_is_no_network_is_refused(tmp_path, model):
    with pytest.raises(TypeError, match="what can be drawn is"):
        draw_wiring(model, tmp_path / "wiring.svg")


def test_graph_without_outputs_is_refused(tmp_path):
    g = td.Graph(3)
    g.add("low", td.GRUCell(3, 4), reads=g.x)
    with pytest.raises(ValueError, match="outputs"):
        draw_wiring(g, tmp_path / "wiring.svg")


def test_no_window_system_is_touched(tmp_path):
    """pyplot picks a display at import and keeps every figure alive."""
    code = (
        "import sys, treadle as td; from treadle.show import draw_wiring;"
        f" draw_wiring(td.GRUCell(2, 3), {str(tmp_path / 'wiring.svg')!r});"
        " assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Geometry.


def segments(panel):
    return [pair for wire in panel.wires for pair in itertools.pairwise(wire.points)]


def overlap(a, b):
    return (min(a[2], b[2]) - max(a[0], b[0]) > 1e-6 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-6) or passes(a, b)


def passes(line, thing):
    """A line has no area, so it is asked whether its inside meets the inside of the thing."""
    x0, y0, x1, y1 = line
    if x0 == x1:
        return thing[0] + 1e-6 < x0 < thing[2] - 1e-6 and min(y1, thing[3]) - max(y0, thing[1]) > 1e-6
    if y0 == y1:
        return thing[1] + 1e-6 < y0 < thing[3] - 1e-6 and min(x1, thing[2]) - max(x0, thing[0]) > 1e-6
    return False


def on_border(point, place):
    left, bottom, right, top = place.extent
    x, y = point
    inside = left - 1e-9 <= x <= right + 1e-9 and bottom - 1e-9 <= y <= top + 1e-9
    return inside and min(abs(x - left), abs(x - right), abs(y - bottom), abs(y - top)) < 1e-9


def test_more_than_a_picture_can_show_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"1,000,000,000 steps beside it have more than .*: pass `steps=\d+`"):
        draw_wiring(stack("stack"), tmp_path / "wiring.svg", steps=10**9)
