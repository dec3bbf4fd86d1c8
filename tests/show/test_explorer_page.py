"""The explorer's page, as people meet it: in a real Chromium, from a file and within a notebook; and by Node."""

import base64
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import treadle as td
from tests import registry
from treadle.show.explorer_data import explorer_data
from treadle.show.explorer_page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NODE, NPM = shutil.which("node"), shutil.which("npm")
SAFE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ALONE = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SOURCES = Path(td.__file__).parent / "show" / "explorer"
VIEWS = ("wiring", "cell", "gradients", "whatif", "compare")
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


def data_of(models, xs, **options):
    return explorer_data(models, dict.fromkeys(models, xs), **options)


def stack(wiring, hidden_size=8, input_size=3):
    return td.Recurrent(registry.stack(wiring, input_size=input_size, hidden_sizes=(hidden_size,) * 3))


def small_data():
    models = {wiring: stack(wiring) for wiring in ("stack", "relay", "lateral")}
    return data_of(models, torch.randn(1, 12, 3), title="Layers & <wirings>", tour=True)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return small_data()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=SAFE + ALONE)
        yield chromium
        chromium.close()


class Opened:
    """A page in a tab of its own, with what went wrong in it and what it asked for."""

    def __init__(self, browser, address, width=1280, theme="light", **options):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        self.tab = self.context.new_page()
        self.problems, self.requests = [], []
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(address)

    def state(self, *parts):
        state = self.tab.evaluate("treadle.store.state")
        return {part: state[part] for part in parts} if parts else state

    def set(self, **changes):
        self.tab.evaluate("changes => treadle.store.set(changes)", changes)

    def until(self, condition):
        """Waits, within the page, whose policy lets no text become code: `wait_for_function` would need that."""
        self.tab.evaluate(
            f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 5); look(); }})"
        )

    def text(self, place):
        return self.tab.locator(place).inner_text()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens pages, from files; at the end of the test none of them may have met an error or asked for anything else."""
    pages = []

    def open_page(data, link="", **options):
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(page(data), encoding="utf-8")
        pages.append(Opened(browser, f"{path.as_uri()}{link}", **options))
        return pages[-1]

    yield open_page
    for one in pages:
        assert one.problems == []
        assert {address.split("#")[0] for address in one.requests} == {one.tab.url.split("#")[0]}
        one.context.close()


def numbers_of(array):
    found = np.frombuffer(base64.b64decode(array["data"]), np.dtype(array["dtype"]))
    return found.reshape(array["shape"])


# By Node.


@pytest.mark.skipif(NODE is None, reason="there is no Node: apt-get install nodejs")
def test_modules_by_node():
    tests = sorted(map(str, (Path(__file__).parent / "explorer").glob("*.test.mjs")))
    done = subprocess.run(
        [NODE, "--test", *tests], env=os.environ | {"EXPLORER": str(SOURCES)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# The file.


def test_the_page_without_data_is_small_and_loads_nothing():
    text = page({"format": 1, "title": "“é”", "tour": False, "networks": []})
    assert len(text.encode()) <= 300_000
    assert not re.search(r"\b(?:src|href)=|@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert text.count("<script") == text.count("</script>") == 2
    policy = html.unescape(re.search(r'Security-Policy" content="([^"]+)"', text)[1])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert text.isascii()  # however the page around it is encoded


def test_nothing_in_the_data_ends_its_element():
    text = page({"format": 1, "title": "</title><script>alert(1)</script>", "networks": [], "code": "</script><!--"})
    assert text.count("<script") == text.count("</script>") == 2
    assert json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["code"] == "</script><!--"


# Numbers.


def differences(found, data):
    """The largest difference of each value, to 1 or to its own size."""
    worst = {}
    for network in data["networks"]:
        for name, array in network["record"].items():
            expected, shown = numbers_of(array).ravel().astype(np.float64), np.array(found[network["name"]][name])
            assert shown.shape == expected.shape
            worst[network["name"], name] = np.max(np.abs(shown - expected) / np.maximum(1, np.abs(expected)), initial=0)
    return worst


@in_chromium
@pytest.mark.share(2)
@pytest.mark.parametrize("subject", list(registry.SUBJECTS))
def test_numbers_of_the_registry(subject, opened):
    rnn = registry.build(subject, torch.float32)
    data = data_of({subject: rnn}, registry.sequence(rnn, 1, 7, torch.float32))
    one = opened(data)
    assert max(differences(one.tab.evaluate("treadle.numbers()"), data).values()) == 0
    assert data["networks"][0]["program"]["unsupported"] is None
    computed = differences(one.tab.evaluate("treadle.interpreted()"), data)
    assert max(computed.values()) <= 1e-6, max(computed, key=computed.get)
    for view in VIEWS:
        for box in [box["name"] for box in data["networks"][0]["boxes"]]:
            one.set(view=view, box=box, step=3, unit=1)
            one.set(step=0)


def shown_number(text):
    return float(text.replace("−", "-").replace("∞", "inf").split(" ")[-1])


@pytest.mark.slow
@in_chromium
@pytest.mark.parametrize("subject", ["stack-lateral", "graph-delays", "graph-handed-over", "zoneout-lstm", "own-cell"])
def test_numbers_that_are_written(subject, opened):
    """What stands in the table at the cursor, beside the source and over the maps is what was recorded, to 1e-6."""
    rnn = registry.build(subject, torch.float32, learn_initial_state=subject != "own-cell")
    data = data_of({subject: rnn}, registry.sequence(rnn, 1, 7, torch.float32))
    (network,) = data["networks"]
    record = {name: numbers_of(array).reshape(network["steps"], -1) for name, array in network["record"].items()}
    initial = {name: numbers_of(array).ravel() for name, array in network["initial"].items()}
    one = opened(data)

    def of(numbers, unit):
        return pytest.approx(numbers[min(unit, len(numbers) - 1)], abs=1e-6)

    for cell in network["cells"]:
        for step, unit in ((0, 0), (1, 2), (4, 1)):
            one.set(view="wiring", box=cell["box"], step=step, unit=unit)
            unit = one.state()["unit"]  # the last one, where there are fewer
            rows = one.tab.evaluate(
                "treadle.views.wiring.details.rows.map("
                "row => [row.name, row.back, row.own, row.box, row.value.textContent])"
            )
            assert len(rows) >= 2 + len(cell["states"])
            for name, back, own, box, text in rows:
                if step >= back:
                    assert shown_number(text) == of(record[name][step - back], unit)
                elif not own:  # an output that is read late, from before the first step
                    source = "x" if box == "x(t)" else box
                    assert shown_number(text) == of(initial[f"{source}.delayed/{back - step - 1}"], unit)
                elif cell["path"]:
                    assert shown_number(text) == of(initial[name.replace(".", "/")], unit)
            one.set(view="cell")
            beside = one.tab.evaluate("treadle.views.cell.places.map(place => [place.name, place.text.textContent])")
            maps = one.tab.evaluate("treadle.views.cell.heat.map(one => [one.name, one.map.readout.textContent])")
            assert beside
            assert maps
            for name, text in beside + maps:
                assert shown_number(text) == of(record[name][step], unit)


@pytest.mark.share(1)
@in_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_say_the_signs_of_numbers(opened, theme):
    """Orange above zero, blue below: in the strips of the boxes, and in the maps."""
    rnn = stack("stack")
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter *= 6  # signs change from step to step
    data = data_of({"stack": rnn}, torch.randn(1, 12, 3))
    one = opened(data, theme=theme, width=1600)
    h = numbers_of(data["networks"][0]["record"]["layer1.h"])
    assert (np.sign(h[[2, 9]]) != np.sign(h[0])).any()
    strong = np.abs(h) > np.abs(h).max() / 4

    def signs(pixels):
        red, _, blue, _ = np.array(pixels).reshape(-1, 4).T
        return np.sign(red - blue)

    one.set(view="cell", box="layer1")
    pixels = """() => { const { canvas } = treadle.views.cell.heat.find(one => one.name === "layer1.h").map;
        return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data); }"""
    found = signs(one.tab.evaluate(pixels)).reshape(8, 12).T
    assert np.array_equal(found[strong], np.sign(h)[strong])
    for step in (2, 9):
        one.set(view="wiring", step=step, box="layer0")
        pixels = """step => { const picture = treadle.views.wiring.pictures.unrolled;
            const box = picture.boxes.find(box => box.name === "layer1" && picture.stepOf(box.column) === step);
            const { x, y, width } = box.strips[0]; const context = picture.canvas.getContext("2d");
            return Array.from({ length: 8 }, (_, unit) => Array.from(
                context.getImageData(x + (unit + 0.5) * width / 8, y + 30, 1, 1).data)).flat(); }"""
        found = signs(one.tab.evaluate(pixels, step))
        assert np.array_equal(found[strong[step]], np.sign(h[step])[strong[step]])


# Who reads what, in words.

OWN = "its own h, c of step 4 as state"
READS = {
    "stack": ("layer1", f"h of layer 0 at step 5 as input, and {OWN}"),
    "relay": (
        "layer1",
        "x at step 5 as input, h of layer 0 at step 5 in place of its own previous h, and its own c of step 4 as state",
    ),
    "skip": ("layer1", f"h of layer 0 at step 5 and x at step 5, side by side, as input, and {OWN}"),
    "lateral": ("layer1", f"h of layer 0 at step 5 and h of layer 0 at step 4, side by side, as input, and {OWN}"),
    "residual": ("layer2", f"the sum of h of layer 0 and layer 1 at step 5 as input, and {OWN}"),
    "dense": (
        "layer2",
        f"x at step 5, h of layer 0 at step 5 and h of layer 1 at step 5, side by side, as input, and {OWN}",
    ),
    "feedback": ("layer0", f"x at step 5 and h of layer 2 at step 4, side by side, as input, and {OWN}"),
}


@pytest.mark.slow
@in_chromium
def test_what_layers_read_under_the_seven_wirings(opened):
    assert set(READS) == set(td.WIRINGS)
    one = opened(data_of({wiring: stack(wiring, 4) for wiring in READS}, torch.randn(1, 7, 3)))
    for wiring, (box, reads) in READS.items():
        one.set(view="wiring", network=wiring, box=box, step=5)
        sentence = f"Layer {box[-1]} at step 5 reads {reads}."
        assert one.text(".details .sentence") == sentence
        assert sentence in one.tab.locator(".everyone li").all_inner_texts()
    one.set(step=0)
    first = "x at step 0 and h of layer 2 before the first step (zeros), side by side, as input"
    assert one.text(".details .sentence") == f"Layer 0 at step 0 reads {first}, and its own initial h, c as state."
    one.set(network="relay", box="layer1", field="h", step=5)
    read = (
        "h of layer 1 at step 5 is made by layer 1 at step 5, and read by layer 2 at step 5 in place of its previous h."
    )
    assert one.text(".details .sentence") == read


# What if, against PyTorch.


def run_by_torch(rnn, xs, **options):
    with torch.no_grad():
        return rnn(xs, **options)[0][0].numpy()


@in_chromium
def test_changes_are_those_of_the_network_itself(opened):
    rnn, xs = stack("stack"), torch.randn(1, 9, 3)
    one = opened(data_of({"stack": rnn}, xs))

    def changed(pin):
        found = one.tab.evaluate("pin => Array.from(treadle.store.network.changed([pin]).record.y.data)", pin)
        return np.array(found).reshape(9, 8)

    edited = xs.clone()
    edited[0, 4, 1] = 3
    expected = run_by_torch(rnn, edited)
    assert np.abs(changed({"kind": "input", "step": 4, "feature": 1, "value": 3}) - expected).max() <= 1e-6
    with torch.no_grad():
        first, state = rnn(xs[:, :5])
    state["layer1"].c.zero_()
    expected = np.concatenate([first[0].numpy(), run_by_torch(rnn, xs[:, 5:], state=state)])
    pin = {"kind": "state", "name": "layer1/c", "step": 5, "unit": None, "value": 0}
    assert np.abs(changed(pin) - expected).max() <= 1e-6
    edges = one.tab.evaluate("treadle.store.network.edges")
    (edge,) = [i for i, one in enumerate(edges) if (one["source"], one["target"]) == ("layer0", "layer1")]
    with torch.no_grad():
        rnn.cell.layer1.weight_ih.zero_()  # nothing of the layer below arrives
    assert np.abs(changed({"kind": "cut", "edge": edge, "step": 0}) - run_by_torch(rnn, xs)).max() <= 1e-6


@in_chromium
def test_what_is_read_is_what_a_change_makes_of_it(opened, small):
    """The table at the cursor, before and after: a state that is set, an edge that is cut, what follows of it."""
    one = opened(small, "#t=5&b=layer1&u=2")
    edges = one.tab.evaluate("treadle.store.network.edges.map(edge => [edge.source, edge.target])")
    pins = [
        {"kind": "state", "name": "layer1/c", "step": 5, "unit": None, "value": 0.25},
        {"kind": "cut", "edge": edges.index(["layer0", "layer1"]), "step": 5},
    ]
    one.set(pins=pins, show="after")
    record = {name: numbers_of(array) for name, array in small["networks"][0]["record"].items()}
    rows = one.tab.evaluate(
        "treadle.views.wiring.details.rows.map(row => [row.group + ' ' + row.text, row.value.textContent])"
    )
    found = {name: text.split(" → ") for name, text in rows}
    for name, key, step, after in (
        ("Reads h of layer 0", "layer0.h", 5, 0),
        ("Reads own h", "layer1.h", 4, record["layer1.h"][4, 2]),
        ("Reads own c", "layer1.c", 4, 0.25),
    ):
        assert [shown_number(text) for text in found[name]] == pytest.approx([record[key][step, 2], after], abs=1e-6)
    before, after = map(shown_number, found["Makes c"])
    assert before == pytest.approx(record["layer1.c"][5, 2], abs=1e-6)
    computed = one.tab.evaluate(
        "Array.from(treadle.store.network.changed(treadle.store.state.pins).record['layer1.c'].data)"
    )
    assert after == pytest.approx(computed[5 * 8 + 2], abs=1e-6) != before


@in_chromium
def test_a_sum_is_said_and_shown(opened):
    rnn = stack("residual")
    data = data_of({"residual": rnn}, torch.randn(1, 7, 3))
    one = opened(data, "#t=5&b=layer2&u=3")
    record = {name: numbers_of(array) for name, array in data["networks"][0]["record"].items()}
    rows = dict(one.tab.evaluate("treadle.views.wiring.details.rows.map(row => [row.text, row.value.textContent])"))
    expected = record["layer0.h"][5, 3] + record["layer1.h"][5, 3]
    assert shown_number(rows["the sum"]) == pytest.approx(expected, abs=1e-6)
    one.set(box="y(t)")
    assert (
        one.text(".details .sentence")
        == "The output y at step 5 is the sum of h of layer 0, layer 1 and layer 2 at step 5."
    )
    total = sum(record[f"layer{layer}.h"][5] for layer in range(3))
    assert np.abs(total - record["y"][5]).max() <= 1e-6


@in_chromium
def test_gradients_say_what_matters_most(opened, small):
    one = opened(small, "#v=gradients&b=layer0&f=h&g=9&t=7")
    reach = small["networks"][0]["reach"]
    norms = numbers_of(reach["norms"])[reach["outputs"].index(9)]
    row = norms[reach["rows"].index("layer0.h")]
    assert f"Of h of layer 0, step {row.argmax()} matters most for y of step 9: " in one.text(".gradient-view")
    table = one.tab.evaluate("treadle.views.gradients.rows.map(row => [row.value.textContent, row.top.textContent])")
    for (value, top), expected in zip(table, norms, strict=True):
        assert shown_number(value) == pytest.approx(expected[7], abs=1e-6)
        assert int(top) == expected.argmax()
    one.tab.get_by_role("button", name="c of layer 1").click()
    assert one.state("box", "field") == {"box": "layer1", "field": "c"}
    one.tab.get_by_label("truncate after").fill("5")
    assert "in the block of steps 5 to 9, whose gradient goes back to step 5" in one.text(".gradient-view")
    assert one.state("cut") == {"cut": 5}


@in_chromium
def test_choosing_lights_what_is_read_and_who_reads(opened, small):
    one = opened(small, "#t=5&b=layer1", width=1600)
    lit = """() => treadle.views.wiring.pictures.unrolled.wires.filter(wire => wire.line.classList.contains("lit"))
        .map(({ edge, start, end }) => [edge.source, edge.target, end - start])"""
    around = [["layer0", "layer1", 0], ["layer1", "layer1", 1], ["layer1", "layer1", 1], ["layer1", "layer2", 0]]
    assert sorted(one.tab.evaluate(lit)) == around
    one.set(field="c")
    assert one.tab.evaluate(lit) == [["layer1", "layer1", 1]]
    one.set(field="h")
    assert sorted(one.tab.evaluate(lit)) == [["layer1", "layer1", 1], ["layer1", "layer2", 0]]


@in_chromium
def test_what_if_by_hand(opened, small):
    one = opened(small, "#v=whatif&t=4&b=layer1")
    one.tab.get_by_role("heading", name="Pin a gate").locator("..").get_by_role("button", name="Apply").click()
    assert one.tab.get_by_role("region", name="What if").is_visible()
    assert [pin["kind"] for pin in one.state()["pins"]] == ["value"]
    assert one.state()["show"] == "difference"
    assert "Most changed" in one.text(".whatif .sentence")
    for view in VIEWS:  # the difference is everywhere
        one.set(view=view)
    one.set(view="wiring", box="layer0")
    assert "→" in one.text(".details .values")
    one.tab.get_by_role("button", name="Take all back").click()
    assert one.state()["pins"] == []


# One cursor, and how it moves.


@in_chromium
@pytest.mark.slow
def test_moving_the_cursor_takes_no_frame(opened):
    """Three layers of 64 units over 200 steps: work and layout of one move, in each view."""
    data = data_of({wiring: stack(wiring, 64) for wiring in ("stack", "relay")}, torch.randn(1, 200, 3))
    one = opened(data, width=1600)
    taken = one.tab.evaluate(
        """views => Object.fromEntries(views.map(view => {
            treadle.store.set({ view, step: 60, box: "layer1" });
            const times = Array.from({ length: 40 }, (_, i) => {
                const begun = performance.now();
                treadle.store.set({ step: 61 + i });
                document.body.getBoundingClientRect();
                return performance.now() - begun;
            });
            return [view, times.sort((a, b) => a - b)[20]];
        }))""",
        list(VIEWS),
    )
    assert max(taken.values()) <= 16, taken


@pytest.mark.slow
@in_chromium
def test_by_keyboard_alone(opened, small):
    one = opened(small, "#t=5&b=layer1")
    press = one.tab.keyboard.press
    for key, wanted in [
        ("ArrowRight", {"step": 6}),
        ("ArrowLeft", {"step": 5}),
        ("End", {"step": 11}),
        ("Home", {"step": 0}),
        ("ArrowUp", {"box": "layer2"}),
        ("ArrowDown", {"box": "layer1"}),
        ("]", {"unit": 1}),
        ("[", {"unit": 0}),
        ("v", {"field": "h"}),
        ("n", {"network": "relay"}),
        ("2", {"view": "cell"}),
        ("5", {"view": "compare"}),
        ("1", {"view": "wiring"}),
        (".", {"beat": 0, "box": "x(t)"}),
        (".", {"beat": 1, "box": "layer0"}),
        (",", {"beat": None}),
    ]:
        press(key)
        assert one.state(*wanted) == wanted, key
    press("?")
    assert one.tab.get_by_role("dialog").is_visible()
    press("Escape")
    assert not one.tab.get_by_role("dialog").is_visible()
    press("d")
    assert one.tab.evaluate("document.documentElement.dataset.theme") == "dark"
    reached = set()
    for _ in range(60):  # everything that can be pressed is reached, and seen to be
        press("Tab")
        reached.add(one.tab.evaluate("document.activeElement.textContent.trim().slice(0, 30)"))
        outline = one.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or one.tab.evaluate("document.activeElement === document.body")
    assert {"Tour", "Wiring", "Play", "layer 0", "Next box"} <= reached


@pytest.mark.slow
@in_chromium
def test_playing_goes_from_box_to_box_and_step_to_step(opened, small):
    one = opened(small, "#t=2&b=layer1")
    one.tab.evaluate("treadle.player.speed = 60")
    one.tab.keyboard.press(" ")
    one.until("treadle.store.state.step >= 4")
    one.tab.keyboard.press(" ")
    assert one.tab.get_by_role("button", name="Play", exact=True).is_visible()
    one.until("!treadle.player.playing")
    one.set(view="cell", step=0)  # elsewhere, it goes from step to step
    one.tab.keyboard.press(" ")
    one.until("treadle.store.state.step >= 3")
    one.tab.keyboard.press("Home")
    assert not one.tab.evaluate("treadle.player.playing")


@pytest.mark.slow
@in_chromium
@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_values_travel_unless_motion_is_unwanted(opened, small, motion):
    one = opened(small, reduced_motion=motion)
    one.set(step=3, beat=0, box="x(t)")
    one.tab.evaluate("treadle.player.speed = 0.01")
    one.tab.keyboard.press(".")
    dots = one.tab.evaluate("treadle.views.wiring.pictures.unrolled.dots.children.length")
    assert dots == (2 if motion == "no-preference" else 0)  # x, and the layer's own state


@pytest.mark.slow
@in_chromium
def test_the_tour_has_twelve_steps_and_can_be_skipped(opened, small):
    one = opened(small)
    one.tab.get_by_role("button", name="Take the tour").click()
    views, titles = [], []
    for step in range(12):
        assert one.state()["tour"] == step
        views.append(one.state()["view"])
        titles.append(one.text(".tour h2"))
        one.tab.get_by_role("button", name="Next" if step < 11 else "Done", exact=True).press("Enter")
    assert one.state()["tour"] is None
    assert set(views) == set(VIEWS)
    assert len(set(titles)) == 12
    one.tab.keyboard.press("t")
    assert one.tab.locator(".tour").is_visible()
    one.tab.keyboard.press("Escape")
    assert not one.tab.locator(".tour").is_visible()


@pytest.mark.slow
@in_chromium
def test_a_link_restores_what_was_seen(opened, small):
    one = opened(small)
    one.set(view="compare", network="lateral", other="relay", step=7, box="layer2", field="c", unit=3)
    one.until("location.hash.includes('t=7')")
    again = opened(small, "#" + one.tab.url.split("#")[1])
    assert again.state() == one.state()
    one.tab.evaluate("location.hash = '#t=2&n=stack'")
    one.until("treadle.store.state.step === 2")
    assert one.state("network", "view") == {"network": "stack", "view": "wiring"}
    sentence = "c of layer 2 at step 7 is made by layer 2 at step 7, and read by layer 2 at step 8 as state."
    assert again.tab.locator(".side .sentence").all_inner_texts() == [sentence, sentence]


@in_chromium
def test_clicks_choose_boxes_and_values(opened, small):
    one = opened(small, "#t=5&b=layer1", width=1600)
    begin = one.tab.evaluate("treadle.views.wiring.pictures.unrolled.begin")
    one.tab.locator(".unrolled .node", has_text="layer 2").nth(0).click()
    assert one.state("box", "step") == {"box": "layer2", "step": begin}
    one.set(box="layer1", step=5)
    one.tab.get_by_role("button", name="h of layer 0", exact=True).click()
    assert one.state("box", "field", "step") == {"box": "layer0", "field": "h", "step": 5}
    assert "read by layer 1 at step 5 as input and by layer 0 at step 6 as state" in one.text(".details .sentence")


@pytest.mark.slow
@in_chromium
@pytest.mark.parametrize("what", ["code", "link"])
def test_code_and_links_are_copied(opened, small, what):
    one = opened(small, permissions=["clipboard-read", "clipboard-write"])
    one.tab.get_by_role("button", name=f"Copy {what}").click()
    wanted = small["networks"][0]["code"] if what == "code" else "#v=wiring&n=stack"
    one.tab.evaluate(
        """async wanted => {
            while (!(await navigator.clipboard.readText()).includes(wanted))
                await new Promise(done => setTimeout(done, 5));
        }""",
        wanted,
    )


# Where it runs, and for whom.


@in_chromium
def test_nothing_can_be_asked_for(opened, small):
    one = opened(small)
    asked = one.tab.evaluate(
        """async () => {
            const blocked = [];
            document.addEventListener("securitypolicyviolation", event => blocked.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => null);
            document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
            await new Promise(done => setTimeout(done, 50));
            return blocked;
        }"""
    )
    assert sorted(asked) == ["connect-src", "img-src"]
    one.problems.clear()  # what was blocked is in the console and in the tab's list, too
    del one.requests[1:]


@pytest.mark.slow
@in_chromium
def test_it_works_within_a_notebook(browser, small, tmp_path):
    path = tmp_path / "notebook.html"
    frame = html.escape(page(small), quote=True)
    around = (
        f'<meta charset="latin-1"><iframe srcdoc="{frame}" width="1000" height="800" sandbox="allow-scripts"></iframe>'
    )
    path.write_text(around, encoding="utf-8")
    one = Opened(browser, path.as_uri())
    inner = one.tab.frames[1]
    inner.locator("nav").wait_for()
    inner.evaluate("treadle.store.set({ step: 3, view: 'compare' })")
    inner.evaluate("new Promise(done => setTimeout(done, 300))")  # the link and the spoken text have come
    assert inner.evaluate("treadle.store.state.step") == 3
    assert one.problems == []
    one.context.close()


@pytest.mark.slow
@in_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_sticks_out(opened, width, theme):
    models = {"stack": stack("stack"), "wide": registry.build("graph-handed-over", torch.float32)}
    one = opened(data_of(models, torch.randn(1, 12, 3)), width=width, theme=theme)
    assert one.tab.evaluate("document.documentElement.dataset.theme") == theme
    for network in models:
        for view in VIEWS:
            one.set(view=view, network=network)
            assert one.tab.evaluate("document.documentElement.scrollWidth") <= width, (network, view)


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """axe-core, which looks for what keeps people out."""
    if NPM is None:
        pytest.skip("there is no npm: apt-get install npm")
    folder = tmp_path_factory.mktemp("axe")
    line = [NPM, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4.11.0"]
    if subprocess.run(line, capture_output=True, timeout=120).returncode:
        pytest.skip("npm cannot install axe-core here")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@in_chromium
@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(opened, small, axe, theme):
    one = opened(small, "#t=5&b=layer1", theme=theme, reduced_motion="reduce")
    one.tab.evaluate(axe)
    states = [{"view": view, "tour": None, "pins": []} for view in VIEWS]
    pin = {"kind": "value", "name": "layer0.h", "unit": None, "step": None, "value": 0.5}
    states += [{"view": "wiring", "tour": 3}, {"view": "whatif", "tour": None, "pins": [pin]}]
    for state in states:
        one.set(**state)
        found = one.tab.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        said = [(rule["id"], [node["html"][:160] for node in rule["nodes"]]) for rule in found]
        assert said == [], state
