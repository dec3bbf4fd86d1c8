"""The pictures of the pages: there, fresh, and drawn so that every word can be read."""

import re
import shutil
from pathlib import Path

import pytest
from drawings.catalogue import LEARNED, PICTURES
from drawings.freshness import FOLDER, difference, stale
from drawings.learned import Learned, _hash

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
MARKDOWN = re.compile(r"!\[(?P<words>.*?)\]\((?P<address>[^)\s#]+)")
HTML = re.compile(r'<img src="(?P<address>[^"]+)"[^>]*? alt="(?P<words>[^"]*)"')
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def test_every_picture_of_a_page_is_in_the_repository_and_says_what_it_shows():
    shown = [(page, link) for page in PAGES for kind in (MARKDOWN, HTML) for link in kind.finditer(page.read_text())]
    assert {link.re for _, link in shown} == {MARKDOWN, HTML}
    for page, link in shown:
        assert (page.parent / link["address"]).is_file(), f"{page.name} shows {link['address']}, which does not exist"
        assert len(link["words"]) > 15, f"{page.name}: say in words what {link['address']} shows"


def test_every_picture_is_fresh():
    assert list(stale()) == []


def test_a_picture_that_is_missing_stale_or_nobodys_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("drawings.freshness.FOLDER", tmp_path)
    drawn = PICTURES["unrolled"]()
    (tmp_path / "unrolled.svg").write_text(drawn.replace(">layer 1<", ">layer one<"))
    (tmp_path / "old.svg").write_text(drawn)
    assert list(stale(["unrolled", "rooms"])) == [
        "unrolled.svg is stale: words of <text> is 'layer one', drawn today 'layer 1'",
        "rooms.svg does not exist",
        "old.svg is drawn by nobody: list it in docs/drawings/catalogue.py, or delete it",
    ]


@pytest.mark.parametrize("name", ["unrolled", "stack", "reach"])
@pytest.mark.parametrize(
    "change",
    [
        lambda svg: re.sub(r"<path (.*?)/>", r"", svg, count=1, flags=re.DOTALL),
        lambda svg: re.sub(r"\bd=\"M (\d+)", lambda found: f'd="M {int(found[1]) + 3}', svg, count=1),
        lambda svg: re.sub(r"#0072b2|#1f77b4", "#ff0000", svg),
        lambda svg: re.sub(r">([^<>\n]*\w)</text>", r">\1!</text>", svg, count=1),
    ],
    ids=["one line less", "a line elsewhere", "another colour", "another word"],
)
def test_what_can_be_seen_is_a_difference(name, change):
    committed = (FOLDER / f"{name}.svg").read_text()
    assert change(committed) != committed
    assert difference(committed, change(committed)) is not None


def test_rounding_is_no_difference():
    committed = (FOLDER / "reach.svg").read_text()
    rounded = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.1f}", committed)
    assert rounded != committed
    assert difference(committed, rounded) is None


def test_data_learned_by_another_source_are_stale(tmp_path, monkeypatch):
    monkeypatch.setattr("drawings.learned.ROOT", tmp_path)
    monkeypatch.setattr("drawings.learned.FOLDER", tmp_path)
    source = tmp_path / "example.py"
    source.write_text('"""Of one."""\nsteps = 1  # one\n')
    learned = Learned("kept", lambda: [1, 2], reads=("example.py",))
    assert not learned.is_current()
    learned.write()
    assert learned.is_current()
    assert learned.data() == [1, 2]
    source.write_text('"""Of the first."""\nsteps = 1\n')
    assert learned.is_current(), "comments and docstrings do not count"
    source.write_text("steps = 2\n")
    assert learned.changed() == "example.py"


STEPS = 3


def helper():
    return STEPS


def learns():
    return [helper() for _ in range(2)]


def test_helpers_and_constants_of_its_own_file_are_sources_of_a_training(monkeypatch):
    before = Learned("kept", learns).made_from()
    assert before.keys() == {"learns", "helper", "STEPS"}
    monkeypatch.setitem(globals(), "STEPS", 4)
    assert Learned("kept", learns).made_from() == before | {"STEPS": "4"}


def test_indentation_is_part_of_a_source():
    assert _hash("if a:\n    b()\n    c()\n") != _hash("if a:\n    b()\nc()\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_training_again_says_the_same(name, monkeypatch):
    monkeypatch.setenv("TREADLE_VERIFY", "first")  # with "always", as in CI, a minute of training becomes many
    learned = LEARNED[name]
    assert learned.same(learned.data(), learned.learn())


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


MEASURE = """kind => [...document.querySelectorAll(kind)].map(one => {
    const box = one.getBoundingClientRect()
    return [one.textContent.trim(), box.left, box.top, box.right, box.bottom]
}).filter(one => one[0] || kind != "text")"""
BOXES = ", ".join(f"rect.{kind}" for kind in ("cell", "other", "plain", "grid", "room", "inner"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_words_are_inside_the_picture_and_do_not_overlap(name, browser):
    page = browser.new_page(viewport={"width": 1600, "height": 1600})
    page.goto((FOLDER / f"{name}.svg").as_uri())
    words, boxes = page.evaluate(MEASURE, "text"), page.evaluate(MEASURE, BOXES)
    width, height = page.evaluate(
        "() => { const b = document.documentElement.viewBox.baseVal; return [b.width, b.height] }"
    )
    scale = page.evaluate("() => document.documentElement.getScreenCTM().a")
    page.close()
    assert words
    for text, left, top, right, bottom in words:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width * scale, text
        assert bottom <= height * scale, text
    for text, left, top, right, bottom in words:
        across, down = (left + right) / 2, (top + bottom) / 2
        for _, box_left, box_top, box_right, box_bottom in boxes:
            if box_left < across < box_right and box_top < down < box_bottom:
                assert box_left < left, text
                assert right < box_right, text
    for i, (text, left, top, right, bottom) in enumerate(words):
        for other, left2, top2, right2, bottom2 in words[:i]:
            # The box of a line of text has room for accents above the letters: a little of it may be shared.
            across, down = min(right, right2) - max(left, left2), min(bottom, bottom2) - max(top, top2)
            assert across < 1 or down < 0.3 * (bottom - top), f"{text!r} lies over {other!r}"
