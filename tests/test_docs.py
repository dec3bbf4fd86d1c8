"""Pages are short, speak the field's words and lead somewhere; the site's own scripts work."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = sorted(path for folder in ("tutorials", "how-to", "explanation") for path in (DOCS / folder).glob("*.md"))
PAGES = sorted(DOCS.rglob("*.md"))
LONGEST = 1_200
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SAFE = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
UNUSUAL = (
    *("anew", "comes? along", "to the bit", "what judges", "the judge", "judged by", "judged on", "is learned from"),
    *(
        "go(?:es)? on with",
        "nobody else knows",
        "dear",
        "learned slopes",
        "from strings to strings",
        "behind it nothing",
    ),
)
"""What the style guide has other words for."""


def text_of(page: Path) -> str:
    """What a page says outside its snippets, comments and addresses."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", text)


def test_there_are_guides_of_every_kind():
    assert {path.parent.name for path in GUIDES} == {"tutorials", "how-to", "explanation"}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_guide_is_read_in_one_sitting(page):
    words = len(re.findall(r"\w[\w'’.-]*", text_of(page)))
    assert words <= LONGEST, f"{words} words: split the page, or move results to docs/research/"


def test_pages_speak_the_words_of_the_field():
    found = [
        f"{page.relative_to(ROOT)}: {match[0]!r}"
        for page in [*PAGES, ROOT / "README.md"]
        for match in re.finditer(rf"\b(?:{'|'.join(UNUSUAL)})\b", re.sub("`[^`]*`", "", text_of(page)), re.IGNORECASE)
    ]
    assert not found


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_of_the_repository_s_own_pages_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / name).read_text())
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


def test_the_figures_of_the_home_page_are_measured():
    measured = re.findall(
        r"^\| [^|]+ \| ([\d.]+) \| at least", (DOCS / "research" / "benchmarks.md").read_text(), re.MULTILINE
    )
    shown = re.findall(r"^\| [^|]+ \| [^|]+ \| ([\d.]+) \|$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert shown
    assert set(shown) <= set(measured)


def test_examples_of_docstrings_are_shown_as_code():
    griffe = pytest.importorskip("griffe", reason="what `make docs` installs")
    pack = runpy.run_path(str(DOCS / "docstrings.py"))
    extensions = griffe.load_extensions(pack["Examples"]())
    cell = griffe.load("treadle.cells.lstm", extensions=extensions, docstring_parser="google")["LSTMCell"]
    assert "examples" in {section.kind.value for section in cell.docstring.parsed}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_a_page_that_is_opened_as_a_file_can_search(tmp_path):
    """The theme's worker loads scripts and answers messages; from file:// a browser starts none."""
    api = pytest.importorskip("playwright.sync_api")
    worker = """
        const loaded = importScripts("more.js")
        addEventListener("message", async event => { await loaded; postMessage(add(event.data, 1)) })
    """
    page = """<body><script>
        const worker = new Worker(new URL("workers/search.js", location.href))
        worker.addEventListener("message", event => { document.title = event.data })
        worker.postMessage(41)
    </script></body>"""
    shim = (DOCS / "assets" / "iframe-worker.js").read_text()
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "search.js").write_text(worker)
    (tmp_path / "more.js").write_text("window.add = (a, b) => a + b")
    (tmp_path / "index.html").write_text(f"<script>{shim}</script>{page}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SAFE)
        opened = browser.new_page()
        opened.goto((tmp_path / "index.html").as_uri())
        opened.wait_for_function("document.title === '42'", timeout=10_000)
        browser.close()
